"""Reports as folders: whole, the same everywhere, and made again from their own records."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from advbench.bench import build_method, run_cell
from advbench.cli import main
from advbench.cli.main import request_of
from advbench.errors import StorageError
from advbench.methods import Setting
from advbench.progress import SILENT
from advbench.report.archive import Archive, write_archive
from advbench.results import ResultStore
from advbench.suites import load_suite

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(path.parent for path in (ROOT / "reports").rglob("manifest.json"))

SUITE = """
title = "A report to keep"
question = "Which method moves digits?"
[defaults]
dataset = "digits"
limit = 20
target = "quick_targets:plain"
epsilon = 0.3
[methods.noise]
attack = "noise"
[methods.fgsm]
attack = "fgsm"
[methods."fgsm without access"]
attack = "fgsm"
threat = "black-box-labels"
[methods.later]
attack = "pgd"
"""


def command(*words: Any) -> Any:
    return CliRunner().invoke(main, list(map(str, words)))


def report(folder: Path) -> Any:
    """Write the report of the suite beside it."""
    words = ["report", folder / "kept.toml", "--results", folder / "results", "--folder", folder / "report"]
    return command(*words, "--regions", 1)


@pytest.fixture(scope="module")
def place(factories: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, of which two cells are stored, and its report."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "kept.toml").write_text(SUITE)
    for cell in load_suite(folder / "kept.toml").cells():
        if cell.names["method"] in ("noise", "fgsm"):
            run_cell(request_of([*cell.arguments, "--results", str(folder / "results")]), SILENT)
    written = report(folder)
    assert written.exit_code == 0, written.output
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_whole_and_the_same_when_written_again(place: Path) -> None:
    files = contents(place / "report")
    text = files["README.md"].decode()
    assert "2 of 4 cells" in text
    assert f"advbench report {place / 'kept.toml'} --folder {place / 'report'} --regions 1" in text
    assert "Decision regions around a" in text
    assert "figures/regions-1.png" in text
    assert "does not grant input-gradients" in text
    assert "later, 0: to run: it was not run yet" in text
    figures = {line.split("(figures/")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert len(figures) > 3
    assert files.keys() == {"README.md", "manifest.json", "samples.parquet", "tables.csv", "tables.tex"} | {
        f"figures/{name}" for name in figures
    }
    assert str(place / "results") not in files["manifest.json"].decode()
    assert report(place).exit_code == 0
    assert contents(place / "report") == files


def test_of_an_older_report_what_is_no_more_goes_and_others_files_stay(place: Path, tmp_path: Path) -> None:
    older = tmp_path / "report"
    shutil.copytree(place / "report", older)
    manifest = json.loads((older / "manifest.json").read_text())
    manifest["figures"].append({"name": "gamma-7", "title": "It was drawn", "alt": "before"})
    (older / "manifest.json").write_text(json.dumps(manifest))
    for name in ("figures/gamma-7.png", "against-butterfly.csv", "figures/regions.png", "against-mine.csv"):
        (older / name).touch()
    whole = contents(place / "report").keys()
    write_archive(older, Archive(place / "report").manifest, {}, ResultStore(place / "results"))
    assert contents(older).keys() == whole - {"figures/regions-1.png"} | {"figures/regions.png", "against-mine.csv"}


def test_a_changed_answer_changes_the_tables(place: Path, tmp_path: Path) -> None:
    """The tables come from the kept answers, not from a copy of themselves."""
    shutil.copy(place / "report" / "manifest.json", tmp_path)
    kept = pq.read_table(place / "report" / "samples.parquet")
    wrong = pa.array([(label + 1) % 10 for label in kept["label"].to_pylist()], pa.int16())
    column = kept.column_names.index("valid_prediction")
    pq.write_table(kept.set_column(column, "valid_prediction", wrong), tmp_path / "samples.parquet")
    assert Archive(place / "report").pages()["README.md"] == (place / "report" / "README.md").read_text()
    assert "| 0.0 [0.0, 16.1]" in Archive(tmp_path).pages()["README.md"]


def test_cells_with_one_result_are_one_column_of_as_many_images(place: Path, tmp_path: Path) -> None:
    """As where one cell spells out what the other leaves to the defaults."""
    shutil.copy(place / "report" / "samples.parquet", tmp_path)
    manifest = json.loads((place / "report" / "manifest.json").read_text())
    noise = next(run for run in manifest["runs"] if run["names"]["method"] == "noise")
    manifest["runs"].append({**noise, "names": {**noise["names"], "method": "the same noise"}})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    archive = Archive(tmp_path)
    assert len(archive.manifest.records) == 2
    text = archive.pages()["README.md"]
    assert "3 of 5 cells" in text
    assert "| noise = the same noise |" in text
    write_archive(tmp_path / "again", archive.manifest, {}, ResultStore(place / "results"))
    again = Archive(tmp_path / "again")
    assert len(again.samples(again.manifest.records[0])) == 20


def test_a_changed_checkout_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "report" / "samples.parquet", tmp_path)
    manifest = json.loads((place / "report" / "manifest.json").read_text())
    kept = [run["record"] for run in manifest["runs"] if run["record"]]
    for record, changed in zip(kept, (True, False), strict=True):
        record["environment"]["git"] = {"revision": "0123456789abcdef", "changed": changed}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "Revision: 0123456789ab, 0123456789ab with changes." in Archive(tmp_path).pages()["README.md"]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="write it again"):
        Archive(tmp_path)
    assert "nothing to write" in command("report", tmp_path / "any.toml").output


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_tables_are_made_again_from_their_manifest(folder: Path) -> None:
    archive = Archive(folder)
    assert archive.manifest.records
    for name, text in archive.pages().items():
        assert (folder / name).read_text() == text, f"{folder.name}/{name} is not what its records say"
    suite = archive.manifest.suite
    assert load_suite(ROOT / suite.file, suite.scale).identity == suite.identity
    assert all((folder / "figures" / f"{figure.name}.png").is_file() for figure in archive.manifest.figures)


LATER = {"skips": False, "generator_steps": 1, "augment": False}
"""Options of PGN that the oldest committed records lack, and what was done before there were any."""

WITHOUT_EFFECT = {"discriminator_backbone", "warm_up_learning_rate"}
"""Recorded then also where the discriminator is the target's own, or does not warm up."""


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_records_are_what_their_suites_still_ask_for(folder: Path) -> None:
    """A default that changes does not change what a committed suite means: it spells out what it was run with."""
    manifest = Archive(folder).manifest
    suite = load_suite(ROOT / manifest.suite.file, manifest.suite.scale)
    cells = {json.dumps(cell.names): cell for cell in suite.cells()}
    made = [(run.record, cells[json.dumps(run.names)]) for run in manifest.runs if run.record]
    assert made
    for record, cell in made:
        asked, spec = request_of(cell.arguments), record.spec
        assert (asked.attack, asked.goal, asked.budget, asked.seed) == (spec.attack, spec.goal, spec.budget, spec.seed)
        assert asked.target.model_dump(mode="json") == record.request["target"], f"{folder.name}: {cell}"
        setting = Setting(asked.goal, asked.budget, spec.dataset.image_size, asked.target.architecture)
        now = build_method(asked.attack, dict(asked.options)).resolve(setting).model_dump(mode="json", by_alias=True)
        then = spec.parameters["inner"] if asked.via else spec.parameters
        idle = set() if now.get("warm_up_epochs") else WITHOUT_EFFECT
        for name in (now.keys() | then.keys()) - idle:
            before = then[name] if name in then else LATER[name]
            assert _file_name(before) == _file_name(now[name]), f"{folder.name}: {cell}: {name}"


def _file_name(value: Any) -> Any:
    """Of weights, which a record names by their content and a request by where they lie."""
    return Path(value.split()[0]).name if isinstance(value, str) and value else value
