"""What decides a result, and what a surrogate must not be."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from advbench.bench import RunRequest, prepare, request_identity, run_cell, verify_result
from advbench.bench.cell import context_of
from advbench.bench.request import request_of_record
from advbench.cli import main
from advbench.cli.main import request_of
from advbench.datasets import DatasetSpec
from advbench.errors import FitDiverged, StorageError
from advbench.progress import SILENT
from advbench.registry import ATTACKS, Entry
from advbench.results import CellRecord, ResultStore
from advbench.runtime import Runtime
from advbench.targets import ClassifierSpec, FunctionTarget, ModuleTarget, Training, build_network
from advbench.threat import Budget
from advbench.types import Goal, Norm, Status

PLUGIN = Path(__file__).parents[2] / "docs" / "examples" / "plugin"
QUICK = Training(epochs=1, images=60)


def request(**changes: Any) -> RunRequest:
    asked: dict[str, Any] = {
        "attack": "pgn-b",
        "options": {"backbone": "scratch"},
        "target": ClassifierSpec(architecture="resnet18", training=QUICK),
        "budget": Budget(epsilon=0.3),
        "runtime": Runtime(device="cpu"),
    }
    return RunRequest(**(asked | changes))


def test_a_surrogate_of_the_targets_architecture_is_not_the_target() -> None:
    """Trained alike on the same images, it would have the very same weights: a white box in disguise."""
    asked = request()
    prepared = prepare(asked, SILENT)
    make = context_of(prepared, SILENT, None).train_classifier
    assert make is not None
    assert (
        ModuleTarget(make(asked.target), 10).fingerprint
        != ModuleTarget(make(asked.target.model_copy(update={"architecture": "squeezenet1_1"})), 10).fingerprint
    )
    surrogate = ModuleTarget(make(asked.target), 10, "resnet18", "resnet18")
    assert surrogate.fingerprint != prepared.target.fingerprint


def test_a_surrogate_sees_the_attackers_images_and_no_more() -> None:
    spec = ClassifierSpec(architecture="squeezenet1_1", training=Training(epochs=1))
    fingerprints = set()
    for fit_images in (40, 60):
        prepared = prepare(request(dataset=DatasetSpec(fit_images=fit_images, image_size=64)), SILENT)
        make = context_of(prepared, SILENT, None).train_classifier
        assert make is not None
        fingerprints.add(ModuleTarget(make(spec), 10).fingerprint)
    assert len(fingerprints) == 2


def test_what_fits_share_is_of_one_target_its_images_and_a_seed(home: Path) -> None:
    def place(part: str = "warm-up", **changes: Any) -> tuple[Path, str]:
        with context_of(prepare(request(**changes), SILENT), SILENT, None).shared({"part": part}) as shared:
            assert shared.work is not None
            assert shared.work.is_dir()
        assert shared.work.is_dir(), "it did not outlive the fit"
        return shared.work, shared.identity

    first = place()
    assert first[0].is_relative_to(home)
    assert place(goal=Goal.ENHANCE, budget=Budget(), options={"backbone": "scratch", "epochs": 3}) == first
    others = [
        place("another part"),
        place(seed=1),
        place(dataset=DatasetSpec(fit_images=60)),
        place(target=ClassifierSpec(architecture="resnet18", training=Training(epochs=1, images=70))),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize("via", [None, "squeezenet1_1"])
def test_goals_and_norms_that_a_method_does_not_serve_are_incompatible(via: str | None) -> None:
    surrogate = (ClassifierSpec(architecture=via, training=QUICK),) if via else ()
    square: dict[str, Any] = {"attack": "square", "options": {}, "via": surrogate, "threat": "white-box"}
    l1 = prepare(request(**square, budget=Budget(norm=Norm.L1, epsilon=10)), SILENT)
    assert l1.incompatible == "square does not serve the norm l1: use --norm l2 or linf"
    enhance = prepare(request(**square, goal=Goal.ENHANCE), SILENT)
    assert enhance.incompatible == "square does not serve the goal enhance"
    assert prepare(request(**square), SILENT).incompatible is None


def test_weights_count_by_content_and_not_by_name(tmp_path: Path) -> None:
    def key(path: Path) -> str:
        return prepare(request(options={"backbone": "scratch", "encoder_weights": str(path)}), SILENT).spec.key

    state = {name: value.clone() for name, value in build_network("resnet18", 10, 32).state_dict().items()}
    (tmp_path / "elsewhere").mkdir()
    first, moved = tmp_path / "weights.safetensors", tmp_path / "elsewhere" / "weights.safetensors"
    save_file(state, first)
    save_file(state, moved)
    before = key(first)
    assert key(moved) == before
    changed = load_file(first)
    changed["conv1.weight"][0] += 1
    save_file(changed, first)
    assert key(first) != before


class Asked:
    """How often a target was asked, and at which question it raises, once."""

    times = 0
    last = 0
    error: Exception = RuntimeError()


def brightness(images: torch.Tensor) -> torch.Tensor:
    """A class for each tenth of the brightness."""
    Asked.times += 1
    if Asked.times == Asked.last:
        raise Asked.error
    return (10 * images.mean(dim=(1, 2, 3))).long()


def wide(classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, classes + 6))


def run_on(target: str, results: Path) -> CellRecord:
    small = {"backbone": "scratch", "encoder": "squeezenet1_1", "discriminator": "squeezenet1_1"}
    asked = request(
        options=small | {"decoder_width": 0.02, "epochs": 3, "batch_size": 32},
        target=ClassifierSpec(architecture=f"failing_targets:{target}", training=Training(epochs=0)),
        dataset=DatasetSpec(limit=20, fit_images=64),
        results=results,
    )
    outcome = run_cell(asked, SILENT)
    assert outcome is not None
    return outcome.record


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("failing_targets")
    module.bright = lambda classes: FunctionTarget(brightness, classes, name="bright")  # type: ignore[attr-defined]
    module.wide = wide  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Asked, "times", 0)
    monkeypatch.setattr(Asked, "last", 0)


@pytest.mark.usefixtures("failing")
class TestFailures:
    @pytest.mark.parametrize(
        ("error", "goes_on"), [(RuntimeError("CUDA out of memory"), True), (FitDiverged("prompt: NaN"), False)]
    )
    def test_a_fit_that_may_succeed_next_time_goes_on_where_it_was(
        self, error: Exception, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = run_on("bright", tmp_path / "whole")
        assert whole.metrics is not None, whole.reason
        asked = Asked.times
        monkeypatch.setattr(Asked, "error", error)
        monkeypatch.setattr(Asked, "last", asked + int(0.7 * asked))
        failed = run_on("bright", tmp_path / "failed")
        assert (failed.status, failed.reason) == (Status.FAILED, f"{type(error).__name__}: {error}")
        work = ResultStore(tmp_path / "failed").work_folder(failed.key)
        assert work.exists() == goes_on
        before = Asked.times
        again = run_on("bright", tmp_path / "failed")
        assert (Asked.times - before < asked) == goes_on, "it asked again what it had asked before"
        assert again.metrics is not None, again.reason
        assert again.metrics.fit.queries == whole.metrics.fit.queries
        assert again.history == whole.history
        assert not work.exists()

    def test_scores_of_other_classes_than_the_datasets_are_refused(self, tmp_path: Path) -> None:
        record = run_on("wide", tmp_path)
        assert (record.status, record.metrics) == (Status.FAILED, None)
        assert "the dataset has 10 classes: expected (20, 10)" in (record.reason or "")


def test_a_request_of_another_version_is_refused_in_one_line() -> None:
    spec = prepare(request(), SILENT).spec
    asked = request().model_dump(mode="json") | {"via_moon": True}
    record = CellRecord.model_construct(key=spec.key, spec=spec, request=asked)  # type: ignore[call-arg]
    with pytest.raises(StorageError, match="via_moon: .*use the version that made it"):
        request_of_record(record)


def test_the_code_of_another_packages_method_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "fading_plugin.py"
    source.write_text((PLUGIN / "contrast_reduction.py").read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = {**ATTACKS.entries, "fading": Entry("fading_plugin:ContrastReduction", "")}
    monkeypatch.setitem(vars(ATTACKS), "entries", entries)
    found = []
    for _ in range(2):
        asked = request(attack="fading", options={})
        found.append((prepare(asked, SILENT).spec.key, request_identity(asked.model_dump(mode="json"))))
        source.write_text(source.read_text().replace("0.5", "0.0"))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]
    assert "source" not in prepare(request(), SILENT).spec.parameters


@pytest.mark.filterwarnings("ignore")  # Foolbox imports what SciPy has moved
def test_the_version_of_a_peers_library_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in ("3.3.3", "3.3.4"):
        monkeypatch.setattr("advbench.bench.content.version", lambda _, number=number: number)
        asked = request(attack="foolbox:LinfFastGradientAttack", options={})
        spec = prepare(asked, SILENT).spec
        assert spec.parameters["source"] == f"foolbox {number}"
        found.append((spec.key, request_identity(asked.model_dump(mode="json"))))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_the_code_of_a_network_that_a_factory_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "far_factory.py").write_text("import far_network\n\ndef make(classes):\n    return far_network.Net()\n")
    target = ClassifierSpec(architecture="far_factory:make", training=QUICK.model_copy(update={"epochs": 0}))
    asked = request(attack="noise", options={}, target=target)
    found = []
    for scale in ("1", "-1"):
        (tmp_path / "far_network.py").write_text(
            "from torch import nn\n\n\nclass Net(nn.Module):\n"
            f"    def forward(self, images):\n        return {scale} * images.flatten(1)[:, :10]\n"
        )
        found.append(prepare(asked, SILENT).spec.key)
        for name in ("far_factory", "far_network"):  # as a process of another day would
            monkeypatch.delitem(sys.modules, name)
    assert found[0] != found[1]


def test_what_lies_in_a_folder_counts_before_it_is_read(tmp_path: Path) -> None:
    def identity() -> str:
        asked = request(dataset=DatasetSpec(name="imagefolder", folder=tmp_path))
        return request_identity(asked.model_dump(mode="json"))

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"12345")
    first = identity()
    assert identity() == first
    (tmp_path / "a" / "2.png").write_bytes(b"1")
    more = identity()
    (tmp_path / "a" / "notes.txt").write_bytes(b"1")
    assert identity() == more != first
    (tmp_path / "a" / "2.png").unlink()
    assert identity() == first


def test_each_of_these_makes_another_result() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"budget": Budget(epsilon=0.2)},
        {"budget": Budget()},
        {"goal": "enhance"},
        {"threat": "white-box"},
        {"max_fit_queries": 10**6},
        {"options": {"backbone": "scratch", "gamma": 2.0}},
        {"attack": "noise", "options": {}},
        {"target": ClassifierSpec(architecture="resnet18", training=QUICK.model_copy(update={"seed": 5}))},
    ]
    keys = [prepare(request(**change), SILENT).spec.key for change in changes]
    assert len(set(keys)) == len(keys)


def test_a_run_that_ended_early_still_prints_its_record(tmp_path: Path) -> None:
    """A whole record is printed for what failed too, so that a script can read why."""
    arguments = ["run", "--attack", "pgn-b", "--target", "resnet18", "--target-images", "60", "--target-epochs", "1",
                 "--device", "cpu", "--epsilon", "0.3", "--backbone", "scratch", "--threat", "black-box-labels",
                 "--max-fit-queries", "1", "--limit", "20", "--results", str(tmp_path), "--json"]  # fmt: skip
    done = CliRunner().invoke(main, arguments)
    record = json.loads(done.stdout)
    assert (done.exit_code, record["status"]) == (1, "budget-spent")
    assert "1 queries in this phase" in record["reason"]


TOWARDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "next": lambda scores: scores.argsort(axis=1)[:, -2],
    "least-likely": lambda scores: scores.argmin(axis=1),
}


@pytest.mark.parametrize(
    ("attack", "towards"),
    [
        ("pgd", "next"),
        ("pgd", "least-likely"),
        ("pgd", "random"),
        ("mi-fgsm", "random"),
        ("simba", "next"),
        ("nes", "next"),
    ],
)
def test_how_many_reach_the_class_that_they_are_led_to_is_measured(
    attack: str, towards: str, factories: str, tmp_path: Path
) -> None:
    words = ["--attack", attack, "--towards", towards, "--target", f"{factories}:plain", "--epsilon", "0.1"]
    outcome = run_cell(request_of([*words, "--limit", "60", "--results", str(tmp_path)]), SILENT)
    assert outcome is not None
    metrics = outcome.record.metrics
    assert metrics is not None
    samples = pq.read_table(outcome.folder / "samples.parquet")
    sought, clean = samples["sought"].to_numpy(), samples["clean_prediction"].to_numpy()
    assert (sought != clean).all()
    if towards in TOWARDS:
        scores = np.stack(samples["clean_scores"].to_numpy())
        assert (sought == TOWARDS[towards](scores)).all()
    reached = (samples["valid_prediction"].to_numpy() == sought).mean()
    assert metrics.targeted_success_rate == reached > 0
    assert verify_result(outcome.record, ResultStore(tmp_path), SILENT).holds


def test_a_surrogates_idea_of_the_class_to_reach_is_measured_on_the_target(factories: str, tmp_path: Path) -> None:
    words = ["--attack", "pgd", "--towards", "next", "--via", f"{factories}:other", "--target", f"{factories}:plain"]
    outcome = run_cell(request_of([*words, "--epsilon", "0.3", "--limit", "60", "--results", str(tmp_path)]), SILENT)
    assert outcome is not None
    samples = pq.read_table(outcome.folder / "samples.parquet")
    assert outcome.record.metrics is not None
    reached = (samples["valid_prediction"].to_numpy() == samples["sought"].to_numpy()).mean()
    assert outcome.record.metrics.targeted_success_rate == reached < 0.5


def test_where_any_other_class_will_do_none_is_sought(factories: str, tmp_path: Path) -> None:
    words = ["--attack", "pgd", "--target", f"{factories}:plain", "--epsilon", "0.3", "--limit", "20"]
    outcome = run_cell(request_of([*words, "--results", str(tmp_path)]), SILENT)
    assert outcome is not None
    assert outcome.record.metrics is not None
    assert outcome.record.metrics.targeted_success_rate is None
    assert "sought" not in pq.read_table(outcome.folder / "samples.parquet").column_names
