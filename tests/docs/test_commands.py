"""Every command of docs/ and README.md, run from the top of its page to the bottom in a folder of its own.

A comment above a block says what cannot be expected of a test: ``not run: WHY`` (its options are still checked to
exist), ``slow: WHY`` (run as it stands only, with ``-m slow``), and ``fails: WHY`` (it ends with exit code 1).
"""

import importlib
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from advbench.cli import main
from advbench.cli.main import request_of
from advbench.methods import Method, Setting, build_method
from advbench.registry import ATTACKS, DATASETS
from advbench.suites import load_suite
from advbench.targets import known_architectures

pytestmark = pytest.mark.filterwarnings("ignore")  # other libraries' own, of attacks that pages run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("sh", "bash", "console")

QUICK = {
    "backbone": "scratch",
    "batch_size": 32,
    "decoder_width": 0.02,
    "encoder": "squeezenet1_1",
    "epochs": 1,
    "max_iter": 1,
    "surrogate_epochs": 1,
}
"""Options of methods that make them quick."""


@dataclass(frozen=True)
class Block:
    """A file that a page shows, or commands.

    Args:
        text: What is in it.
        file: Its name, where it is a file.
        marks: By the first words of the comment above it, why it is not to be run as others.
    """

    text: str
    file: str | None
    marks: dict[str, str]

    @property
    def lines(self) -> list[str]:
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def blocks(page: Path) -> Iterator[Block]:
    marks: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            marks = dict(re.findall(r"<!-- (not run|slow|fails): (.+?) -->", token.content))
        elif token.type == "fence":
            if title := re.search(r'title="(.+)"', token.info):
                yield Block(token.content, title[1], {})
            elif token.info in SHELLS:
                yield Block(token.content, None, marks)
            marks = {}


WITH_COMMANDS = [page for page in PAGES if any(block.file is None for block in blocks(page))]


def smaller(words: list[str]) -> list[str]:
    """The same command on fewer images, with fewer epochs and a quick network; an option given twice is its last."""
    if words[0] not in ("run", "train") or "--help" in words:
        return words
    given = dict(itertools.pairwise(words))
    added = []
    if ":" not in given["--target"]:
        assert given["--target"] in known_architectures()
        added += ["--target", "squeezenet1_1"]
    if ":" not in given["--target"] or "--target-epochs" in given:
        added += ["--target-epochs", "1", "--target-images", "40"]
    if words[0] == "train":
        return words + added
    if "--via" in given:
        surrogates = given["--via"].split(",")
        assert set(surrogates) <= set(known_architectures())
        added += ["--via-epochs", "1", "--via", ",".join(["squeezenet1_1"] * len(surrogates))]
    attack = given["--attack"]
    fields = {} if attack.startswith("baseline:") else ATTACKS.load(attack).model_fields
    for name in fields.keys() & QUICK.keys():
        added += [f"--{name.replace('_', '-')}", str(QUICK[name])]
    return [*words, "--limit", "2" if ":" in attack else "20", "--fit-images", "40", *added]


def lighter(text: str) -> str:
    """The same suite for one seed, with fewer epochs."""
    return re.sub(r"epochs = \d+", "epochs = 1", re.sub(r"seeds = \[0, .*\]", "seeds = [0]", text))


def understand(words: list[str]) -> None:
    """Check that a command is there, with every option that it is given."""
    if words[0] == "run":
        request = request_of(words[1:])
        build_method(request.attack, dict(request.options))
        return
    command: click.Command = main
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words)


class Terminal:
    """Runs the commands of one page, in its folder.

    Args:
        folder: Empty; the working folder.
        small: Whether commands are made smaller, and their figures are left out.
        monkeypatch: Takes back what commands change of this process.
    """

    def __init__(self, folder: Path, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._small = folder, small
        self._site = folder / ".site"
        monkeypatch.chdir(folder)
        monkeypatch.delenv("ADVBENCH_RESULTS", raising=False)
        monkeypatch.syspath_prepend(str(self._site))
        if small:  # a second for each run, and several for a comparison
            monkeypatch.setattr("advbench.report.draw_figures", lambda record, store: [])
            for place in ("plots", "archive"):
                monkeypatch.setattr(f"advbench.report.{place}.comparison_figures", lambda *results, **options: {})
        for name in ("baselines", "docs"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "benchmarks").mkdir()
        for path in (ROOT / "benchmarks").glob("*.toml"):
            self._write(folder / "benchmarks" / path.name, path.read_text())

    def _write(self, file: Path, text: str) -> None:
        file.write_text(lighter(text) if self._small and file.suffix == ".toml" else text)

    def write(self, block: Block) -> None:
        file = self._folder / str(block.file)
        self._write(file, block.text)
        sys.modules.pop(file.stem, None)  # another page or test may have imported a file of the same name

    def run(self, block: Block) -> None:
        for line in block.lines:
            words = shlex.split(line, comments=True)
            if "not run" in block.marks or ("slow" in block.marks and self._small):
                self._understand(words)
            elif words[0] == "advbench":
                self._advbench(words[1:], expected=1 if "fails" in block.marks else 0)
            else:
                self._other(words)

    def _understand(self, words: list[str]) -> None:
        if words[0] == "advbench":
            understand(words[1:])
        elif words[0] == "sbatch":  # what it would run comes last
            self._understand(shlex.split(words[-1]))
        elif words[0] not in ("ray", "export"):
            self._other(words)

    def _advbench(self, words: list[str], expected: int) -> None:
        words, file = self._redirected(words)
        if "RESULT" in words:
            stored = Path("advbench-results").glob("*/record.json")
            latest = max(stored, key=lambda path: path.stat().st_mtime_ns).parent.name[:10]
            words = [latest if word == "RESULT" else word for word in words]
        done = CliRunner().invoke(main, smaller(words) if self._small else words)
        assert done.exit_code == expected, (words, done.output, done.exception)
        assert done.stdout
        if file is not None:
            Path(file).write_text(done.stdout)

    def _redirected(self, words: list[str]) -> tuple[list[str], str | None]:
        return (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)

    def _other(self, words: list[str]) -> None:
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
            case ["pip", "install", what]:
                self._install(what)
            case ["python", script]:
                runpy.run_path(script, run_name="__main__")
            case ["pytest", *rest]:
                environment = os.environ | {"PYTHONPATH": f"{self._site}{os.pathsep}{ROOT}"}
                command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *rest]
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout[-3000:]
                assert re.search(r"\d\d passed", done.stdout), done.stdout
            case _:
                pytest.fail(f"no test knows how to check '{shlex.join(words)}'")

    def _install(self, what: str) -> None:
        """Install a package that the page or the repository holds, where this process finds it."""
        extra = re.fullmatch(r"advbench\[(\w+)\]", what)
        if extra:
            assert re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
            return
        package = self._folder / what
        assert what.startswith(".")
        if not (package / "pyproject.toml").is_file():
            return  # the repository itself, which is under test
        with_sources = self._folder / ".sources"
        with_sources.mkdir()
        for file in package.iterdir():
            if file.suffix in (".py", ".toml"):
                shutil.copy(file, with_sources)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        subprocess.run([*install, "--target", str(self._site), str(with_sources)], check=True, capture_output=True)
        importlib.invalidate_caches()  # it may have been looked for before there was such a folder
        forget_names()


def forget_names() -> None:
    """Let the registries look for other packages' names again."""
    for registry in (ATTACKS, DATASETS):
        registry.__dict__.pop("entries", None)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    yield Terminal(tmp_path, request.param, monkeypatch)
    for file in tmp_path.glob("*.py"):  # another test may have a file of the same name
        sys.modules.pop(file.stem, None)
    monkeypatch.undo()
    forget_names()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
@pytest.mark.parametrize(
    "terminal", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["small", "as-written"], indirect=True
)
def test_every_command_of_a_page_works(page: Path, terminal: Terminal) -> None:
    for block in blocks(page):
        if block.file is not None:
            terminal.write(block)
        else:
            terminal.run(block)


def test_no_command_is_missed() -> None:
    """A command that stands in no block of a shell's language would be run by nobody."""
    for page in PAGES:
        for token in MarkdownIt().parse(page.read_text()):
            if token.type == "code_block" or (token.type == "fence" and token.info not in SHELLS):
                assert not re.search(r"^(\$ )?(advbench|pip|make|ray|pytest) ", token.content, flags=re.MULTILINE), page


def meant(words: list[str]) -> tuple[dict[str, object], Method]:
    """What a command asks for, and the method with every option filled in."""
    request = request_of(words)
    size = request.dataset.image_size
    assert size is not None
    setting = Setting(request.goal, request.budget, size, request.target.architecture)
    method = build_method(request.attack, dict(request.options)).resolve(setting)
    return request.model_dump(mode="json", exclude={"options"}), method


def test_the_page_on_pgn_asks_for_what_the_report_measured() -> None:
    """Shorter than the suite, which spells out what has since become the default."""
    lines = [line for block in blocks(ROOT / "docs" / "pgn.md") if block.file is None for line in block.lines]
    short = next(line for line in lines if "--dataset stl10" in line)
    suite = load_suite(ROOT / "benchmarks" / "butterfly-labels.toml", "hours")
    places = {"target": "ResNet50", "goal": "degrade", "method": "Proposed-B, all three"}
    (cell,) = (cell for cell in suite.cells() if places.items() <= dict(cell.names).items())
    assert meant(shlex.split(short)[2:]) == meant(cell.arguments)
