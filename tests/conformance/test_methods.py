"""What every registered method keeps to, at once for new ones: shapes, budgets, seeds, batches, counts, failures.

Each case is fitted once, on a target that is small, trained, and counts by itself what passes through it.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.bench import RunRequest, build_method, prepare, run_cell
from advbench.bench.evaluate import check_perturbed
from advbench.datasets import Dataset
from advbench.errors import InvalidConfig
from advbench.methods import Context, ImageMethod, Method, Perturber, Setting, TrainingImages, Transfer
from advbench.methods.gradient import MinimalMethod
from advbench.progress import SILENT
from advbench.registry import ATTACKS
from advbench.results import CellRecord, ResultStore
from advbench.runtime import Runtime
from advbench.targets import Classifier, ClassifierSpec, ModuleTarget, Training, make_classifier
from advbench.tensors import Images, Rows
from advbench.threat import THREATS, Budget, ThreatModel, threat_model
from advbench.types import Goal, Norm, Status

GENERATOR = {"backbone": "scratch", "encoder": "squeezenet1_1", "decoder_width": 0.02, "epochs": 1, "batch_size": 32}
QUICK: dict[str, dict[str, Any]] = {
    "advgan": GENERATOR,
    "apgd-ce": {"steps": 3},
    "apgd-dlr": {"steps": 3},
    "apgd-t": {"steps": 2, "targets": 2},
    "atn": GENERATOR,
    "autoattack": {"steps": 2, "targets": 2, "queries": 5},
    "carlini-wagner": {"max_steps": 5, "searches": 2, "initial_c": 1.0},
    "ddn": {"steps": 5},
    "di-fgsm": {"steps": 2},
    "fab-t": {"steps": 3, "targets": 2},
    "fast-feature-fool": {"epochs": 1, "steps": 5},
    "fmn": {"steps": 5},
    "gap": GENERATOR,
    "gap-universal": GENERATOR,
    "gradient-uap": {"epochs": 1},
    "mi-fgsm": {"steps": 2},
    "nes": {"queries": 22, "directions": 5},
    "ni-fgsm": {"steps": 2},
    "pgd": {"steps": 3},
    "pgn-101": GENERATOR,
    "pgn-50": GENERATOR,
    "pgn-b": GENERATOR | {"discriminator": "squeezenet1_1"},
    "prompt": {"epochs": 1},
    "si-ni-fgsm": {"steps": 2, "scales": 2},
    "simba": {"queries": 20},
    "square": {"queries": 10},
    "ti-fgsm": {"steps": 2},
    "tta": {"versions": 4},
    "uap": {"epochs": 1, "inner": "fgsm"},
    "vmi-fgsm": {"steps": 2, "neighbours": 1},
}
"""Options that make a method quick; a new method that is quick by itself needs none."""

BUDGETS = {
    "linf": Budget(norm=Norm.LINF, epsilon=0.1),
    "l2": Budget(norm=Norm.L2, epsilon=1.5),
    "l1": Budget(norm=Norm.L1, epsilon=20),
}
CPU = Runtime(device="cpu")
Case = tuple[str, Goal, str]


def served(name: str) -> list[str]:
    """The norms that a method serves, in the order of ``BUDGETS``."""
    norms: frozenset[Norm] = getattr(ATTACKS.load(name), "norms", frozenset(Norm))
    return [norm for norm in BUDGETS if Norm(norm) in norms]


NAMES = [name for name, entry in ATTACKS.entries.items() if entry.alias_of is None]
GOALS = [(name, goal) for name in NAMES for goal in sorted(ATTACKS.load(name).goals)]
SIBLINGS = {name: [other for other in NAMES if ATTACKS.load(other) is ATTACKS.load(name)] for name in NAMES}
"""All names of a name's class."""
CASES: list[Case] = [
    (name, goal, norm)
    for name, goal in GOALS
    for norm in (served(name) if name == SIBLINGS[name][0] else served(name)[:1])
]
"""Of several names of one class, the first in every norm and the others in one."""
FIRST: list[Case] = [(name, goal, served(name)[0]) for name, goal in GOALS]
"""One norm of each: where what is held does not hang on the norm."""
LEARNERS: list[Case] = [
    case for case in FIRST if not issubclass(ATTACKS.load(case[0]), ImageMethod) and case[0] == SIBLINGS[case[0]][-1]
]
"""One name of each class that learns before it perturbs."""


def label(case: Case) -> str:
    return "-".join(map(str, case))


class Watched(nn.Module):
    """A classifier that counts; a copy of it is a plain one.

    It computes in float64, so that batches of other sizes do not round to other answers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()
        self.images = self.gradients = 0

    def forward(self, images: Images) -> Tensor:
        self.images += len(images)
        scores: Tensor = self.network(images.double()).float()
        if scores.requires_grad:
            scores.register_hook(self._count)
        return scores

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)

    def __deepcopy__(self, memo: dict[int, Any]) -> Classifier:
        return Classifier(copy.deepcopy(self.network, memo).float(), nn.Identity())


class Plain(ModuleTarget):
    """Answers in fitting from the very module that is watched, and claims an architecture that can be built."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, 10, "small", "squeezenet1_1")

    def _fast_module(self) -> nn.Module:
        return self._module

    @property
    def watched(self) -> Any:
        return self._module


@pytest.fixture(scope="module")
def small(digits: Dataset) -> Dataset:
    """Digits, and few of them."""
    return replace(
        digits,
        fit=digits.fit.first(40, seed=1, what="images"),
        validation=digits.validation.first(20, seed=1, what="images"),
        evaluation=digits.evaluation.first(12, seed=1, what="images"),
    )


@pytest.fixture(scope="module")
def network(digits: Dataset) -> nn.Module:
    """Knows most digits after a second."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()]
        made = nn.Sequential(*layers, nn.Linear(288, 10))
        optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
        for _ in range(10):
            for rows in torch.randperm(600).split(100):
                loss = F.cross_entropy(made(digits.fit.images(rows)), digits.fit.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert (made(digits.evaluation.images()).argmax(dim=1) == digits.evaluation.labels).float().mean() > 0.8
    return made


@pytest.fixture(scope="module")
def small_target(network: nn.Module) -> Plain:
    return Plain(Watched(copy.deepcopy(network)))


@dataclass
class Fitted:
    """A case, ready to perturb."""

    case: Case
    method: Method
    context: Context
    perturber: Perturber
    ledger: QueryLedger
    passed: tuple[int, int]
    """Images and gradients that passed through the target while it was fitted."""

    @property
    def budget(self) -> Budget:
        return self.context.budget

    @property
    def threat(self) -> ThreatModel:
        threat = threat_model(None, self.method.needs(self.case[1]))
        return threat.with_true_labels() if threat.lacks(self.method.needs(self.case[1])) else threat

    def door(self, target: ModuleTarget, dataset: Dataset, rows: Rows, labels: Tensor | None = None) -> Access:
        self.ledger = QueryLedger(len(dataset.evaluation))
        truth = dataset.evaluation.labels[rows] if labels is None else labels
        return perturb_access(target, self.threat, self.ledger, rows, truth)

    def perturb(self, target: ModuleTarget, dataset: Dataset, rows: Rows) -> Images:
        images = dataset.evaluation.images(rows) if len(rows) else torch.zeros(0, 3, 32, 32)
        return self.perturber.perturb(images, self.door(target, dataset, rows))


def fit(case: Case, dataset: Dataset, target: ModuleTarget, **options: Any) -> Fitted:
    name, goal, norm = case
    method = build_method(name, QUICK.get(name, {}) | options)
    method = method.resolve(Setting(goal, BUDGETS[norm], 32, target.architecture))
    context = Context(goal, BUDGETS[norm], 0, 32, 10, runtime=CPU)
    train = TrainingImages(dataset.fit, dataset.validation)
    labels = torch.cat([train.fit.labels, train.validation.labels])
    fitted = Fitted(case, method, context, None, QueryLedger(len(labels)), (0, 0))  # type: ignore[arg-type]
    watched = target._module
    before = torch.tensor([getattr(watched, "images", 0), getattr(watched, "gradients", 0)])
    fitted.perturber = method.fit(fit_access(target, fitted.threat, fitted.ledger, labels), train, context)
    after = torch.tensor([getattr(watched, "images", 0), getattr(watched, "gradients", 0)])
    assert fitted.ledger.counts().sum(dim=1).tolist() == (after - before).tolist(), "counts of the fit are wrong"
    return fitted


_fitted: dict[Case, Fitted] = {}


@pytest.fixture
def fitted(request: pytest.FixtureRequest, small: Dataset, small_target: Plain) -> Fitted:
    """Each case is fitted once for all tests here."""
    case: Case = request.param
    if case not in _fitted:
        _fitted[case] = fit(case, small, small_target)
    return _fitted[case]


every_case = pytest.mark.parametrize("fitted", CASES, ids=label, indirect=True)
"""Every name and goal, in its norms."""


@every_case
def test_shape_type_range_and_budget_are_kept_and_all_is_counted(
    fitted: Fitted, small: Dataset, small_target: Plain
) -> None:
    rows = torch.arange(12)
    images = small.evaluation.images(rows)
    before = images.clone()
    watched = small_target.watched
    watched.images = watched.gradients = 0
    perturbed = fitted.perturber.perturb(images, fitted.door(small_target, small, rows))
    counted = fitted.ledger.counts().sum(dim=1).tolist()
    assert counted == [watched.images, watched.gradients]
    check_perturbed(perturbed, images, fitted.budget)
    assert perturbed.device == images.device
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert torch.equal(images, before), "the clean images were changed in place"
    assert not perturbed.requires_grad


@every_case
def test_batches_do_not_matter_and_equal_seeds_give_equal_images(
    fitted: Fitted, small: Dataset, small_target: Plain
) -> None:
    rows = torch.arange(7)
    whole = fitted.perturb(small_target, small, rows)
    parts = [fitted.perturb(small_target, small, part) for part in rows.split([0, 1, 4, 2])]
    moved = (torch.cat(parts) - whole).abs()
    # A sign that hangs on rounding may flip a pixel; nothing else may differ.
    assert (moved > 1e-4).float().mean() < 0.01
    again = fitted.method.restore(fitted.perturber.state(), fitted.context)
    restored = again.perturb(small.evaluation.images(rows), fitted.door(small_target, small, rows))
    assert torch.allclose(restored, whole, atol=1e-6), "what was learnt is not all in the state"


@pytest.mark.parametrize("case", FIRST, ids=label)
def test_images_that_are_wrong_already(case: Case, small: Dataset, small_target: Plain) -> None:
    """Half of them are of another class than the true one: no crash, and nothing left to do for a minimal method."""
    labelled = "label" in ATTACKS.load(case[0]).model_fields
    method = fit(case, small, small_target, **({"label": "true"} if labelled else {}))
    rows = torch.arange(8)
    images = small.evaluation.images(rows)
    predicted = small_target.labels(images)
    wrong = rows % 2 == 0
    door = method.door(small_target, small, rows, torch.where(wrong, (predicted + 1) % 10, predicted))
    perturbed = method.perturber.perturb(images, door)
    check_perturbed(perturbed, images, method.budget)
    if isinstance(method.method, MinimalMethod):
        assert torch.equal(perturbed[wrong], images[wrong])


@pytest.mark.parametrize("case", FIRST, ids=label)
def test_a_constant_model_teaches_nothing_and_breaks_nothing(case: Case, small: Dataset) -> None:
    """All scores equal for every image, and every gradient zero."""
    constant = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 10))
    for name in ("2.weight", "2.bias"):
        nn.init.zeros_(constant.get_parameter(name))
    target = Plain(Watched(constant))
    fitted = fit(case, small, target)
    rows = torch.arange(6)
    images = small.evaluation.images(rows)
    check_perturbed(fitted.perturb(target, small, rows), images, fitted.budget)


class Plan:
    """What the targets of ``run_cell`` are to do, as they are made by name."""

    network: nn.Module
    calls = 0
    last = sys.maxsize
    error: BaseException = RuntimeError("the power failed")


class Planned(Watched):
    """Breaks off after so many calls."""

    def forward(self, images: Images) -> Tensor:
        Plan.calls += 1
        if Plan.calls > Plan.last:
            raise Plan.error
        return super().forward(images)


class NaNs(Watched):
    """Sound on images of 256 levels, as clean ones are; NaN on all others."""

    def forward(self, images: Images) -> Tensor:
        levels = 255 * images.detach().flatten(1)
        broken = ((levels - levels.round()).abs() > 1e-3).any(dim=1, keepdim=True)
        return super().forward(images).masked_fill(broken, torch.nan)


@pytest.fixture
def cell(
    small: Dataset, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., CellRecord]]:
    """The real harness, on few images, with a target that misbehaves."""
    module = ModuleType("conformance_targets")
    module.planned = lambda classes: Plain(Planned(copy.deepcopy(network)))  # type: ignore[attr-defined]
    module.nans = lambda classes: Plain(NaNs(copy.deepcopy(network)))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("advbench.bench.request.load_dataset", lambda spec: small)
    monkeypatch.setattr(Plan, "calls", 0)
    monkeypatch.setattr(Plan, "last", sys.maxsize)

    def run(case: Case, factory: str, results: str = "results", **options: Any) -> CellRecord:
        name, goal, norm = case
        Plan.calls = 0
        asked = RunRequest(
            attack=name,
            options=QUICK.get(name, {}) | options,
            target=ClassifierSpec(architecture=f"conformance_targets:{factory}", training=Training(epochs=0)),
            goal=goal,
            budget=BUDGETS[norm],
            runtime=CPU,
            batch_size=5,
            results=tmp_path / results,
        )
        outcome = run_cell(asked, SILENT)
        assert outcome is not None
        return outcome.record

    yield run


@pytest.mark.parametrize("case", FIRST, ids=label)
def test_a_target_that_breaks_off_is_a_failure_with_its_reason(case: Case, cell: Callable[..., CellRecord]) -> None:
    Plan.last = 8  # after the clean accuracy and the warnings, before the evaluation can end
    record = cell(case, "planned")
    assert (record.status, record.metrics) == (Status.FAILED, None)
    assert record.reason == "RuntimeError: the power failed"
    assert record.clean_accuracy is not None


@pytest.mark.parametrize("case", FIRST, ids=label)
def test_a_target_that_answers_nan_is_never_robust(case: Case, cell: Callable[..., CellRecord], tmp_path: Path) -> None:
    record = cell(case, "nans")
    if record.status is not Status.OK:
        assert (record.status, record.metrics) == (Status.FAILED, None)
        return
    samples = ResultStore(tmp_path / "results").samples(record)
    for version in ("clean", "raw", "valid", "uint8"):
        assert torch.tensor(samples[f"{version}_scores"].to_pylist()).isfinite().all()


@pytest.mark.parametrize("case", LEARNERS, ids=label)
def test_interrupted_and_resumed_ends_as_uninterrupted(
    case: Case, cell: Callable[..., CellRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once a little after the middle: whatever was learnt, asked and found is the same in the end."""
    options = {"epochs": 2} if "epochs" in QUICK.get(case[0], {}) else {}
    whole = cell(case, "planned", "whole", **options)
    assert whole.metrics is not None, whole.reason
    Plan.last, calls = int(0.6 * Plan.calls), Plan.calls
    monkeypatch.setattr(Plan, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        cell(case, "planned", "killed", **options)
    Plan.last = 10 * calls
    resumed = cell(case, "planned", "killed", **options)
    assert resumed.metrics is not None, resumed.reason
    times = {"fit_seconds": 0.0, "ms_per_image": 0.0}
    assert resumed.metrics.model_copy(update=times) == whole.metrics.model_copy(update=times)
    assert resumed.history == whole.history
    assert resumed.files["state.safetensors"] == whole.files["state.safetensors"]


def refusal(name: str, goal: Goal, norm: str) -> str | None:
    """Why a run is refused before anything is spent, or None where it is not."""
    asked = RunRequest(
        attack=name,
        options=QUICK.get(name, {}),
        target=ClassifierSpec(architecture="conformance_targets:planned", training=Training(epochs=0)),
        goal=goal,
        budget=BUDGETS[norm],
        runtime=CPU,
    )
    try:
        return prepare(asked, SILENT).incompatible
    except InvalidConfig as error:
        return str(error)


@pytest.mark.parametrize("name", NAMES)
def test_goals_and_norms_that_are_not_served_are_refused(name: str, cell: Callable[..., CellRecord]) -> None:
    goals, norms = ATTACKS.load(name).goals, served(name)
    for goal in set(Goal) - goals:
        assert refusal(name, goal, norms[0])
    for norm in BUDGETS.keys() - set(norms):
        assert refusal(name, sorted(goals)[0], norm)
    assert Plan.calls == 0


def test_another_seed_changes_only_what_is_random(small: Dataset, small_target: Plain) -> None:
    rows = torch.arange(4)
    images = small.evaluation.images(rows)
    for name, changes in (("noise", True), ("fgsm", False)):
        method = fit((name, Goal.DEGRADE, "linf"), small, small_target)
        other = method.method.restore({}, replace(method.context, seed=1))
        moved = other.perturb(images, method.door(small_target, small, rows))
        assert torch.equal(moved, method.perturb(small_target, small, rows)) is not changes


def test_an_alias_is_the_same_class_with_the_same_presets() -> None:
    for name, entry in ATTACKS.entries.items():
        if entry.alias_of is not None:
            meant = ATTACKS.entry(entry.alias_of)
            assert (entry.location, entry.presets) == (meant.location, meant.presets), name


def test_a_surrogate_carries_any_image_method_to_a_target_that_is_never_asked(
    small: Dataset, small_target: Plain
) -> None:
    def train_classifier(wanted: ClassifierSpec) -> Classifier:
        made = make_classifier(wanted, small, CPU, SILENT, role="surrogate")
        assert isinstance(made, Classifier)
        return made

    context = Context(Goal.DEGRADE, BUDGETS["linf"], 0, 32, 10, runtime=CPU, train_classifier=train_classifier)
    surrogate = ClassifierSpec(architecture="squeezenet1_1", training=Training(epochs=1, seed=3))
    method = Transfer(inner=build_method("fgsm", {}), surrogates=(surrogate,))
    threat = threat_model(None, method.needs(Goal.DEGRADE))
    assert threat.name == "black-box-labels"
    labels = torch.cat([small.fit.labels, small.validation.labels])
    door = fit_access(small_target, threat, QueryLedger(len(labels)), labels)
    perturber = method.fit(door, TrainingImages(small.fit, small.validation), context)
    rows = torch.arange(10)
    images = small.evaluation.images(rows)
    ledger = QueryLedger(12)
    perturbed = perturber.perturb(images, perturb_access(small_target, threat, ledger, rows, rows))
    check_perturbed(perturbed, images, BUDGETS["linf"])
    assert ledger.queries.sum() == 0
    white_box = perturb_access(small_target, THREATS["white-box"], ledger, rows, rows)
    direct = build_method("fgsm", {}).restore({}, context).perturb(images, white_box)
    assert not torch.equal(perturbed, direct)
