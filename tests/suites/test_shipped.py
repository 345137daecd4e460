"""The suites that come with advbench, and what in a suite's file saves saying a thing twice."""

import tomllib
from pathlib import Path

import pytest

from advbench.cli.main import request_of
from advbench.errors import InvalidConfig
from advbench.results import ResultStore
from advbench.suites import State, load_suite, plan
from advbench.threat import Budget
from advbench.types import Norm

SHIPPED = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.toml"))

SUITE = """\
title = "Sets and scales"
scale = "mini"

[sets.long]
epochs = 40
gamma = 1

[methods.pgn-b]
use = "long"
attack = "pgn-b"
gamma = 2

[methods.pgn-50]
attack = "pgn-50"

[methods.noise]
attack = "noise"

[[exclude]]
method = "pgn-5*"

[scales.mini.defaults]
limit = 10

[scales.paper.defaults]
limit = 20
"""


def scales() -> list[tuple[Path, str | None]]:
    found: list[tuple[Path, str | None]] = []
    for path in SHIPPED:
        named = tomllib.loads(path.read_text()).get("scales", {})
        found += [(path, scale) for scale in named] or [(path, None)]
    return found


@pytest.mark.parametrize(("path", "scale"), scales(), ids=lambda value: getattr(value, "stem", str(value)))
def test_every_cell_of_every_scale_can_run(path: Path, scale: str | None, tmp_path: Path) -> None:
    planned = plan(load_suite(path, scale), request_of, ResultStore(tmp_path))
    shown_on_purpose = {"square does not serve the goal enhance"} if path.stem == "smoke" else set()
    unfit = {cell.reason for cell in planned if cell.state is not State.TO_RUN}
    assert planned
    assert unfit == shown_on_purpose


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if "[scales." in path.read_text()], ids=lambda path: path.stem
)
def test_mini_is_what_runs_where_no_scale_is_named(path: Path) -> None:
    assert load_suite(path) == load_suite(path, "mini") != load_suite(path, "paper")


def test_both_protocols_are_in_the_papers_tables() -> None:
    """Unbounded, and the matched budget: in linf, and where all methods are compared at the paper's size, in l2 too."""
    for table in (1, 2, 3):
        (path,) = (path for path in SHIPPED if path.stem == f"butterfly-table{table}")
        for scale in ("mini", "paper"):
            cells = load_suite(path, scale).cells()
            budgets = {request_of(cell.arguments).budget for cell in cells}
            l2 = {Budget(norm=Norm.L2, epsilon=24)} if scale == "paper" and table < 3 else set()
            assert budgets == {Budget(), Budget(epsilon=16 / 255)} | l2


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "sets.toml"
        path.write_text(SUITE)
        return path

    def test_a_place_has_the_options_of_its_set_and_its_own_go_before(self, path: Path) -> None:
        cells = {cell.names["method"]: cell.options for cell in load_suite(path).cells()}
        assert cells["pgn-b"] == {
            "limit": 10, "goal": "degrade", "epochs": 40, "gamma": 2, "attack": "pgn-b", "seed": 0,
        }  # fmt: skip

    def test_an_exclusion_takes_a_star(self, path: Path) -> None:
        assert [cell.names["method"] for cell in load_suite(path).cells()] == ["pgn-b", "noise"]

    def test_the_named_scale_is_the_usual_one(self, path: Path) -> None:
        assert load_suite(path).defaults == {"limit": 10}
        assert load_suite(path, "paper").defaults == {"limit": 20}

    @pytest.mark.parametrize(
        ("found", "wrong", "line", "words"),
        [
            ('use = "long"', 'use = "lang"', 9, "lang"),
            ('method = "pgn-5*"', 'method = "pgn-7*"', 20, "pgn-7"),
            ("limit = 10", "limit = {a = 1}", 23, "limit"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(
        self, path: Path, found: str, wrong: str, line: int, words: str
    ) -> None:
        path.write_text(SUITE.replace(found, wrong, 1))
        with pytest.raises(InvalidConfig, match=rf"line {line}\b") as error:
            load_suite(path)
        assert words in str(error.value)
