"""What docs/ repeats of the code is what the code says, and the site is built without a warning."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from advbench.methods import build_method
from advbench.registry import ATTACKS
from advbench.results import DIAGNOSTICS, Metrics
from advbench.threat import THREATS, threat_model
from advbench.types import Capability, Goal

ROOT = Path(__file__).parents[2]


def table(*rows: list[str]) -> str:
    head, *rest = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rest))


def listed(names: Iterator[str] | frozenset[Capability]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "-"


def needs() -> Iterator[list[str]]:
    """A row for each method, and one for each goal where they need different things."""
    for name, entry in ATTACKS.entries.items():
        if entry.alias_of is not None or not entry.location.startswith("advbench."):
            continue
        method = build_method(name, {})
        by_goal = {goal: method.needs(goal) for goal in Goal if goal in method.goals}
        goals = [", ".join(by_goal)] if len(set(map(str, by_goal.values()))) == 1 else list(by_goal)
        for words in goals:
            need = by_goal[Goal(words.split(",")[0])]
            norms = ", ".join(norm for norm in ("linf", "l2", "l1") if norm in method.norms)
            row = [f"`{name}`", words, norms, listed(need.fit), listed(need.perturb)]
            yield [*row, f"`{threat_model(None, need).name}`"]


def test_what_each_method_touches() -> None:
    expected = table(["method", "goals", "norms", "in fit", "in perturb", "suffices"], *needs())
    assert expected in (ROOT / "docs/threat-models.md").read_text(), expected


def test_what_each_preset_grants() -> None:
    text = (ROOT / "docs/threat-models.md").read_text()
    for name, threat in THREATS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` | `labels`")]
        granted = {part.strip(" `") for part in row.split("|")[2].split(",")}
        assert granted == set(threat.perturb)
        assert threat.fit == threat.perturb | {Capability.TRUE_LABELS}
    assert all(f"| `{capability}` |" in text for capability in Capability)


def test_every_flag() -> None:
    rows = [[f"{told.mark} `{name}`", told.meaning, told.remedy] for name, told in DIAGNOSTICS.items()]
    expected = table(["flag", "what was seen", "remedy"], *rows)
    assert expected in (ROOT / "docs/diagnostics.md").read_text(), expected


def test_every_metric_is_defined() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    undefined = [name for name in Metrics.model_fields if f"`{name}`" not in text and not name.endswith("_interval")]
    assert not undefined


def test_every_environment_variable_is_told() -> None:
    source = "".join(path.read_text() for path in (ROOT / "advbench").rglob("*.py"))
    read = set(re.findall(r"ADVBENCH_\w+", source))
    told = re.findall(r"^\| `(ADVBENCH_\w+)` \|", (ROOT / "docs/index.md").read_text(), flags=re.MULTILINE)
    assert sorted(told) == sorted(read)


def test_the_example_is_short() -> None:
    for example in (ROOT / "docs/examples").rglob("*.py"):
        assert len(example.read_text().splitlines()) < 60


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings", "l2m4m")),
    reason="needs the docs extra",
)
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}  # of MkDocs' future, not of ours
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("index.html")}
    assert {"tutorial/index.html", "methods/index.html", "reference/results/index.html"} <= pages.keys()
    assert "<math" in pages["metrics/index.html"]
    assert "A method that learns before it perturbs, from another package" in pages["methods/index.html"]
    for name, text in pages.items():
        assert 'src="http' not in text, name
        assert 'rel="stylesheet" href="http' not in text, name
