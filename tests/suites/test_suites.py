"""Suites: from a file to all of its results, whatever happens on the way."""

import json
import re
import sys
import time
import types
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from advbench.bench import RunRequest, request_identity, run_cell
from advbench.cli import main
from advbench.cli.main import request_of
from advbench.cli.watch import Watch
from advbench.errors import InvalidConfig, UnknownName
from advbench.progress import SILENT
from advbench.report.compare import compare
from advbench.results import ResultStore
from advbench.runtime import Runtime
from advbench.suites import Done, Event, Journal, PlannedCell, State, SuiteCell, load_suite, local, plan, run_locally
from advbench.targets import FunctionTarget
from advbench.types import Status

SUITE = """\
title = "Two methods"
seeds = [0, 1]

[defaults]
limit = 10
target-epochs = 0

[targets.small]
target = "quick_targets:plain"

[budgets."linf 0.1"]
epsilon = 0.1

[budgets.unbounded]

[methods.noise]
attack = "noise"

[methods.signs]
attack = "fgsm"
label = "predicted"

[[exclude]]
method = "noise"
budget = "unbounded"

[scales.paper.defaults]
limit = 20
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return path


def command(*words: str | Path | int) -> Any:
    return CliRunner().invoke(main, list(map(str, words)))


class TestFile:
    def test_the_product_less_what_is_excluded(self, suite: Path) -> None:
        cells = list(load_suite(suite).cells())
        assert len(cells) == 1 * 2 * 2 * 2 - 2
        assert cells[0].arguments == [
            "--limit", "10", "--target-epochs", "0", "--target", "quick_targets:plain", "--epsilon", "0.1",
            "--goal", "degrade", "--attack", "noise", "--seed", "0",
        ]  # fmt: skip

    def test_a_scale_changes_what_it_names(self, suite: Path) -> None:
        assert load_suite(suite, "paper").defaults["limit"] == 20
        with pytest.raises(UnknownName, match="paper"):
            load_suite(suite, "papr")

    @pytest.mark.parametrize(
        ("found", "wrong", "line", "words"),
        [
            ("seeds = [0, 1]", "seeds = [0, 'one']", 2, "seeds.1"),
            ("seeds = [0, 1]", "goals = ['worse']", 2, "goals"),
            ("[methods.noise]", "[method.noise]", 16, "method"),
            ("limit = 10", "limit = {a = 1}", 5, "limit"),
            ('method = "noise"', 'method = "nosie"', 24, "nosie"),
            ("[scales.paper", '[[exclude]]\nmethod = "nosie"\n\n[scales.paper', 28, "nosie"),
            ("[scales.paper", "[[exclude]]\nmethod = {a = 1}\n\n[scales.paper", 28, "exclude.1.method"),
            ("epsilon = 0.1", "epsilon = ", 12, "line 12"),
            ("[scales.paper.defaults]", "[scales]\npaper = 3", 27, "expected a table for each name"),
            ("seeds = [0, 1]", 'scale = ["paper"]', 2, "expected the name of one of the scales"),
            ('attack = "fgsm"', 'use = ["one", "gone"]\n[sets.one]\nsteps = 1', 20, "uses the set 'gone'"),
            ("limit = 10", "seed = 7", 5, "seeds = [...]"),
            ('attack = "fgsm"', 'attack = "fgsm"\ngoal = "enhance"', 21, "goals = [...]"),
            ("epsilon = 0.1", 'results = "elsewhere"', 12, "--results"),
            ("limit = 10", "devices = 2", 5, "each cell on one device"),
            ('attack = "fgsm"', 'use = "one"\n[sets.one]\nuse = "two"\n[sets.two]', 22, 'use = ["A", "B"]'),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(
        self, suite: Path, found: str, wrong: str, line: int, words: str
    ) -> None:
        suite.write_text(SUITE.replace(found, wrong, 1))
        with pytest.raises(InvalidConfig, match=rf"line {line}\b") as error:
            load_suite(suite)
        assert words in str(error.value)

    def test_a_file_that_is_no_text_is_refused(self, suite: Path) -> None:
        suite.write_bytes(SUITE.encode() + b"# \xff")
        with pytest.raises(InvalidConfig, match="cannot read the suite"):
            load_suite(suite)

    def test_what_is_granted_can_be_taken_back(self, suite: Path) -> None:
        suite.write_text(SUITE.replace("limit = 10", "limit = 10\ntrue-labels = false\ndownload = false", 1))
        assert not any(request_of(cell.arguments).true_labels for cell in load_suite(suite).cells())

    def test_each_cell_is_the_command_that_it_prints(self, suite: Path) -> None:
        """An option reaches the request as it does on the command line, the method's own included."""
        cells = {str(cell): request_of(cell.arguments) for cell in load_suite(suite).cells()}
        signs = cells["small, linf 0.1, degrade, signs, 1"]
        assert (signs.attack, signs.options, signs.seed, signs.budget.epsilon) == (
            "fgsm", {"label": "predicted"}, 1, 0.1,
        )  # fmt: skip

    def test_of_several_sets_the_last_wins_and_the_place_before_all(self, suite: Path) -> None:
        sets = """
[sets.one]
attack = "pgd"
steps = 1
restarts = 1

[sets.two]
steps = 2
restarts = 2

[methods.both]
use = ["one", "two"]
restarts = 3
"""
        suite.write_text(SUITE + sets)
        cells = {str(cell): cell.options for cell in load_suite(suite).cells()}
        options = cells["small, linf 0.1, degrade, both, 0"]
        assert (options["attack"], options["steps"], options["restarts"]) == ("pgd", 2, 3)


class TestPlan:
    def test_what_cannot_run_says_why_and_nothing_is_trained(self, suite: Path, home: Path, tmp_path: Path) -> None:
        suite.write_text(SUITE + '\n[methods.bad]\nattack = "fgsm"\nlable = "true"\n')
        before = sorted((home / "classifiers").glob("*")) if (home / "classifiers").is_dir() else []
        planned = plan(load_suite(suite), request_of, ResultStore(tmp_path / "results"))
        states = {str(cell.cell): (cell.state, cell.reason or "") for cell in planned}
        assert states["small, linf 0.1, degrade, signs, 0"] == (State.TO_RUN, "")
        assert states["small, unbounded, degrade, signs, 0"][0] is State.INCOMPATIBLE
        assert "needs a budget" in states["small, unbounded, degrade, signs, 0"][1]
        assert states["small, linf 0.1, degrade, bad, 0"][0] is State.INVALID
        assert "did you mean '--label'" in states["small, linf 0.1, degrade, bad, 0"][1]
        assert before == (sorted((home / "classifiers").glob("*")) if (home / "classifiers").is_dir() else [])

    @pytest.mark.parametrize(
        ("found", "wrong", "line", "words"),
        [
            ('label = "predicted"', 'lable = "true"', 21, "did you mean '--label'"),
            ("limit = 10", "limit = 10\nepslon = 0.3", 6, "--epslon"),
            ("limit = 10", "limit = 10\ntarget-epoch = 3", 6, "did you mean '--target-epochs'"),
            ('attack = "fgsm"', 'use = "shared"\nattack = "fgsm"\n\n[sets.shared]\nsharp = false', 24, "--no-sharp"),
            (
                'attack = "fgsm"',
                'use = ["a", "b"]\nattack = "fgsm"\n\n[sets.a]\nsharp = true\n\n[sets.b]\nsharp = false',
                27,
                "--no-sharp",
            ),
            ('attack = "fgsm"', 'attack = "fgms"', 20, "did you mean 'fgsm'"),
            ("limit = 10", "limit = 1", 5, "1 is not in the range x>=2"),
            ("limit = 10", "limit = 10\nimage-size = 7", 6, "7 is not in the range 8<=x<=1024"),
            ("limit = 10", 'limit = 10\ntarget-images = "all"', 6, "'all' is not a valid integer"),
            ("limit = 10", 'limit = 10\nprecision = "bf17"', 6, "'bf17' is not one of"),
            ("limit = 10", 'limit = 10\ndataset = "digit"', 6, "did you mean 'digits'"),
            ("limit = 10", 'limit = 10\nvia = "resnet19"', 6, "did you mean 'resnet"),
            ('"quick_targets:plain"', '"vgg"', 9, "did you mean 'vgg"),
            ("epsilon = 0.1", "epsilon = 16", 12, "16/255"),
            ("epsilon = 0.1", 'epsilon = "much"', 12, "is not a number or a fraction"),
            ('label = "predicted"', 'label = "guessed"', 21, "--label of fgsm"),
            ('label = "predicted"', 'threat = "white"', 21, "did you mean 'white-box'"),
        ],
    )
    def test_what_cannot_be_meant_is_named_with_its_line(
        self, suite: Path, found: str, wrong: str, line: int, words: str, tmp_path: Path
    ) -> None:
        suite.write_text(SUITE.replace(found, wrong, 1))
        planned = plan(load_suite(suite), request_of, ResultStore(tmp_path / "results"))
        reason = next(cell.reason or "" for cell in planned if cell.state is State.INVALID)
        assert f"{suite}, line {line}: " in reason
        assert words in reason
        assert command("suite", "plan", suite, "--results", tmp_path / "results").exit_code == 1

    def test_what_only_the_target_refuses_is_incompatible_once_it_was_asked(
        self, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = types.ModuleType("remote_targets")
        module.labels = lambda classes: FunctionTarget(  # type: ignore[attr-defined]
            lambda images: torch.zeros(len(images), dtype=torch.long), classes, name="api 1"
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
        suite.write_text(SUITE.replace("quick_targets:plain", "remote_targets:labels"))
        (cell,) = [cell for cell in load_suite(suite).cells() if str(cell) == "small, linf 0.1, degrade, signs, 0"]
        run_cell(request_of([*cell.arguments, "--results", str(tmp_path / "results")]), SILENT)
        planned = {
            str(each.cell): each for each in plan(load_suite(suite), request_of, ResultStore(tmp_path / "results"))
        }
        assert planned[str(cell)].state is State.INCOMPATIBLE
        assert planned[str(cell)].reason == "target 'api 1' does not offer input-gradients"
        assert planned["small, linf 0.1, degrade, signs, 1"].state is State.TO_RUN

    def test_what_failed_before_is_found_again_whatever_else_the_file_says(self, suite: Path, tmp_path: Path) -> None:
        store = ResultStore(tmp_path / "results")
        loaded = load_suite(suite)
        failed = plan(loaded, request_of, store)[0]
        Journal.of(loaded, store).add(failed, Done(0, Status.FAILED, "no network today", None, 0.0))
        suite.write_text(SUITE.replace("Two", "Three") + '\n[methods.more]\nattack = "identity"\n')
        planned = command("suite", "plan", suite, "--results", store.location)
        assert planned.exit_code == 0, planned.output
        assert planned.output.count("to run; before, it ended as failed: no network today") == 1
        status = command("suite", "status", suite, "--results", store.location).output
        assert f"{failed.cell}: failed: no network today" in status
        assert "1 of these failed before" in status


def test_times_are_estimated_from_the_runs_most_like_them(suite: Path, factories: str, tmp_path: Path) -> None:
    """Of the same method, target and goal at the same image size; failing that, at another."""
    store = ResultStore(tmp_path / "results")
    larger = suite.with_name("larger.toml")
    larger.write_text(SUITE.replace("limit = 10", "limit = 10\nimage-size = 40"))
    for file, seconds in ((suite, 100.0), (larger, 7.0)):
        before = set(store.keys())
        command("suite", "run", file, "--only", "method=noise", "--only", "seed=0", "--results", tmp_path / "results")
        (key,) = set(store.keys()) - before
        path = tmp_path / "results" / key / "record.json"
        record = json.loads(path.read_text())
        record["metrics"] |= {"fit_seconds": seconds, "ms_per_image": 0.0}
        path.write_text(json.dumps(record))
    largest = suite.with_name("largest.toml")
    largest.write_text(SUITE.replace("limit = 10", "limit = 10\nimage-size = 48"))
    found = [
        next(cell.seconds for cell in plan(load_suite(file), request_of, store) if cell.cell.names["seed"] == 1)
        for file in (suite, larger, largest)
    ]
    assert found == [100, 7, 53.5]


def test_a_part_of_a_suite(suite: Path, factories: str, tmp_path: Path) -> None:
    """What fits all patterns is run, and of what is stored by that, the whole suite runs nothing again."""
    results = tmp_path / "results"
    part = ("--only", "method=n*", "--only", "seed=1", "--results", results)
    assert "1 cells: 1 to run" in command("suite", "plan", suite, *part).output
    ran = command("suite", "run", suite, *part, "--workers", 1)
    assert ran.exit_code == 0, ran.output
    assert "1 cells: 1 stored" in ran.output
    assert "1 cells: 1 stored" in command("suite", "status", suite, *part).output
    assert len(ResultStore(results).keys()) == 1
    assert "1 stored" in command("suite", "plan", suite, "--results", results).output


def test_brackets_in_a_name_are_no_pattern(suite: Path, tmp_path: Path) -> None:
    text = SUITE.replace("[methods.noise]", '[methods."noise [8 px]"]')
    suite.write_text(text.replace('method = "noise"', 'method = "noise*"'))
    planned = command("suite", "plan", suite, "--only", "method=noise [8 px]", "--results", tmp_path)
    assert "noise [8 px]" in planned.output
    suite.write_text(text.replace('method = "noise"', 'method = "noise [8 px]"'))
    places = {(cell.names["method"], cell.names["budget"]) for cell in load_suite(suite).cells()}
    assert ("noise [8 px]", "unbounded") not in places
    assert ("noise [8 px]", "linf 0.1") in places


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("method", "takes AXIS=PATTERN, and this suite has the axes target"),
        ("methods=noise", "got 'methods=noise'"),
        ("method=nosie", "fits no cell: of what is left, method is one of noise, signs"),
    ],
)
def test_a_part_that_is_not_there_is_refused(suite: Path, only: str, words: str) -> None:
    answer = command("suite", "plan", suite, "--only", only)
    assert answer.exit_code == 2
    assert words in " ".join(answer.output.split())


def test_run_again_and_it_is_answered_from_the_store(suite: Path, factories: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = command("suite", "run", suite, "--results", results, "--workers", 1)
    assert first.exit_code == 0, first.output
    assert "4 stored" in first.output
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/record.json")}
    assert len(before) == 4
    again = command("suite", "run", suite, "--results", results, "--workers", 1)
    assert again.exit_code == 0, again.output
    assert before == {path: path.stat().st_mtime_ns for path in results.glob("*/record.json")}
    planned = command("suite", "plan", suite, "--results", results).output
    assert "4 stored, 2 incompatible" in planned
    store = ResultStore(results)
    (table,) = compare(store.records(), store)
    assert table.methods == ["fgsm", "noise"]
    assert table.rows[0].cells["fgsm"].seeds == [0, 1]
    stray: list[str | Path | int] = [
        "run",
        "--attack",
        "identity",
        "--target",
        f"{factories}:plain",
        "--limit",
        10,
        "--results",
        results,
    ]
    assert command(*stray).exit_code == 0
    compared = command("compare", "--suite", suite, "--results", results, "--format", "json")
    (own,) = json.loads(compared.output)
    assert own["methods"] == ["noise", "signs"], "the suite's results, by its own names, and no other"
    assert sorted(own["rows"][0]["cells"]["signs"]["keys"]) == sorted(table.rows[0].cells["fgsm"].keys)
    both = command("compare", table.rows[0].cells["fgsm"].keys[0], "--suite", suite, "--results", results)
    assert "name results or a suite, not both" in both.output


def test_the_order_in_which_options_are_given_makes_no_other_result(factories: str, tmp_path: Path) -> None:
    common = ["--target", f"{factories}:plain", "--attack", "pgd", "--epsilon", "0.1", "--limit", "10"]
    orders = (["--steps", "2", "--restarts", "2"], ["--restarts", "2", "--steps", "2"])
    one, other = (request_identity(request_of([*common, *order]).model_dump(mode="json")) for order in orders)
    assert one == other


@pytest.mark.parametrize(("dataset", "alike"), [("imagefolder", False), ("imagenet-10", False), ("stl10", True)])
def test_a_folder_counts_where_the_name_does_not_say_which_images(dataset: str, alike: bool) -> None:
    common = ["--target", "resnet18", "--attack", "noise", "--epsilon", "0.1", "--dataset", dataset]
    one, other = (request_identity(request_of([*common, "--data", data]).model_dump(mode="json")) for data in "AB")
    assert (one == other) is alike


def test_files_that_change_make_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module, weights = tmp_path / "changing_target.py", tmp_path / "weights.safetensors"
    own = ["--target", "changing_target:made", "--attack", "noise", "--epsilon", "0.1"]
    named = ["--target", "resnet18", "--init", str(weights), "--attack", "pgn-b", "--epsilon", "0.1"]
    through = ["--target", "resnet18", "--attack", "pgn-b", "--epsilon", "0.1", "--encoder-weights", str(weights)]
    identities = []
    for number in (1, 2):
        for path in (module, weights):
            path.write_text(f"# {number}")
        requests = [request_of(arguments).model_dump(mode="json") for arguments in (own, named, through)]
        identities += [request_identity(request) for request in requests]
    assert len(set(identities)) == 6


def test_another_wording_of_the_same_run_is_answered_by_its_result(suite: Path, factories: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    spelt_out = "\n[methods.spelt-out]\nattack = 'noise'\nkind = 'sign'\nthreat = 'black-box-labels'\n"
    suite.write_text(SUITE + spelt_out)
    for only in ("noise", "spelt-out"):
        ran = command("suite", "run", suite, "--only", f"method={only}", "--only", "budget=linf*", "--results", results)
        assert ran.exit_code == 0, ran.output
        assert "2 stored" in ran.output
    assert len(list(results.glob("*/record.json"))) == 2


@pytest.fixture
def requests(factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, RunRequest]:
    monkeypatch.setenv("DEADLY_MARKS", str(tmp_path))
    common = ["--attack", "noise", "--epsilon", "0.1", "--limit", "10", "--results", str(tmp_path / "results")]
    return {
        number: request_of(["--target", f"{factories}:{target}", *common])
        for number, target in enumerate(("deadly", "broken", "plain"))
    }


@pytest.mark.parametrize(("times", "ending"), [(1, Status.OK), pytest.param(9, Status.FAILED, marks=pytest.mark.slow)])
def test_a_worker_that_dies_takes_no_other_cell_with_it(
    times: int, ending: Status, requests: dict[int, RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY_TIMES", str(times))
    done = {each.cell: each for each in run_locally(requests, workers=1, tell=lambda event: None)}
    assert list(done) == [1, 2, 0], "no other cell is suspected, and the one that is comes last"
    assert done[0].status is ending
    if ending is Status.FAILED:
        assert re.search("worker process died 3 times", done[0].reason or "")
    assert done[1].status is Status.FAILED
    assert "no network today" in (done[1].reason or "")
    assert done[2].status is Status.OK


@pytest.mark.parametrize(
    ("runtime", "visible", "hired"),
    [
        (Runtime(device="auto"), "", ["0", "1"]),
        (Runtime(device="cuda"), "GPU-5f,GPU-7a", ["GPU-5f", "GPU-7a"]),
        (Runtime(device="cpu"), "", [None] * 3),
        (Runtime(device="cuda:1"), "", [None]),
        (Runtime(device="cuda", devices=2), "", [None]),
    ],
    ids=lambda value: getattr(value, "device", None),
)
def test_one_worker_for_each_accelerator_that_cells_use(
    runtime: Runtime,
    visible: str,
    hired: list[str | None],
    requests: dict[int, RunRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, shares = [], []

    class Worker:
        def __init__(self, accelerator: str | None, threads: int) -> None:
            found.append(accelerator)
            shares.append(threads)

        def begin(self, cell: int, request: RunRequest, for_others: bool) -> "Future[Done]":
            future: Future[Done] = Future()
            future.set_result(Done(cell, Status.OK, None, None, 0.0))
            return future

        def pass_on(self, tell: Any) -> None: ...

        def stop(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(local, "_processors", lambda: 9)
    monkeypatch.setattr(local, "_Worker", Worker)
    on_device = {number: request.model_copy(update={"runtime": runtime}) for number, request in requests.items()}
    assert len(list(run_locally(on_device, lambda event: None))) == 3
    assert found == hired
    assert shares == [9 // len(hired)] * len(hired), "no processor idles where there are fewer cells"


def test_a_worker_sees_its_own_accelerator_alone(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY_MARKS", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    common = ["--target", f"{factories}:seeing", "--attack", "noise", "--limit", "10", "--results", str(tmp_path)]
    requests = {number: request_of([*common, "--epsilon", f"0.{number}"]) for number in (1, 2)}
    assert {each.status for each in run_locally(requests, lambda event: None)} == {Status.OK}
    assert sorted(path.name for path in tmp_path.glob("saw-*")) == ["saw-0", "saw-1"]


@pytest.mark.parametrize(("seconds", "shown"), [((600.0, 300.0, 300.0), "0:10:00"), ((100.0, None, 100.0), "-:--:--")])
def test_the_time_to_go_is_the_plans_where_it_has_one(
    seconds: tuple[float | None, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = SuiteCell({"method": "noise"}, {})
    cells = {number: PlannedCell(cell, State.TO_RUN, seconds=each) for number, each in enumerate(seconds)}
    with Watch(cells) as watch:
        for number in range(2):
            watch.tell(Event(number, "fitting"))
        time.sleep(0.6)  # a figure that has not changed its bar is shown for half a second
    whole = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("cells"))
    assert shown in whole
