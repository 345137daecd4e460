"""What every registered method keeps to, at once for new ones: shapes, budgets, seeds, batches, counts, failures."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from advbench.access import QueryLedger, fit_access, perturb_access
from advbench.bench import build_method
from advbench.bench.evaluate import check_perturbed
from advbench.datasets import Dataset
from advbench.methods import Context, Method, Perturber, Setting, TrainingImages
from advbench.progress import SILENT
from advbench.registry import ATTACKS
from advbench.runtime import Runtime
from advbench.targets import Classifier, ClassifierSpec, ModuleTarget, Training, make_classifier
from advbench.tensors import Images
from advbench.threat import THREATS, Budget, threat_model
from advbench.types import Goal, Norm

QUICK: dict[str, dict[str, Any]] = {
    name: {"epochs": 1, "backbone": "scratch", "batch_size": 32} for name in ("pgn-50", "pgn-101", "pgn-b")
} | {
    "carlini-wagner": {"max_steps": 5, "searches": 2, "initial_c": 1.0},
    "ddn": {"steps": 5},
    "deepfool": {"max_steps": 5},
    "fmn": {"steps": 5},
    "pgd": {"steps": 3},
}
"""Options that make a method quick to fit; a new method that is quick by itself needs none."""

BUDGETS = {
    "linf": Budget(norm=Norm.LINF, epsilon=0.1),
    "l2": Budget(norm=Norm.L2, epsilon=1.5),
    "l1": Budget(norm=Norm.L1, epsilon=20),
}
CASES = [
    (name, goal, norm)
    for name in ATTACKS.entries
    for goal in sorted(ATTACKS.load(name).goals)
    for norm in BUDGETS
    if norm in ATTACKS.load(name).norms
]
_fitted: dict[tuple[str, Goal, str], tuple[Method, Context, Perturber, QueryLedger]] = {}


def fitted(
    case: tuple[str, Goal, str], digits: Dataset, target: ModuleTarget
) -> tuple[Method, Context, Perturber, QueryLedger]:
    """Fit each case once for all tests here."""
    if case not in _fitted:
        name, goal, norm = case
        budget = BUDGETS[norm]
        method = build_method(name, dict(QUICK.get(name, {})))
        method = method.resolve(Setting(goal, budget, digits.image_size, target.architecture))
        fit = digits.fit.first(96, seed=1, what="images")
        validation = digits.validation.first(40, seed=1, what="images")
        context = Context(goal, budget, 0, digits.image_size, 10, runtime=Runtime(device="cpu"))
        ledger = QueryLedger(len(fit) + len(validation))
        access = fit_access(
            target, threat_model(None, method.needs(goal)), ledger, torch.cat([fit.labels, validation.labels])
        )
        perturber = method.fit(access, TrainingImages(fit, validation), context)
        _fitted[case] = (method, context, perturber, ledger)
    return _fitted[case]


def apply(
    case: tuple[str, Goal, str],
    digits: Dataset,
    target: ModuleTarget,
    images: Images,
    rows: torch.Tensor,
    ledger: QueryLedger | None = None,
) -> Images:
    method, _, perturber, _ = fitted(case, digits, target)
    threat = threat_model(None, method.needs(case[1]))
    labels = digits.evaluation.labels[rows]
    door = perturb_access(target, threat, ledger or QueryLedger(len(digits.evaluation)), rows, labels)
    return perturber.perturb(images, door)


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest) -> tuple[str, Goal, str]:
    chosen: tuple[str, Goal, str] = request.param
    return chosen


def test_shape_type_range_and_budget_are_kept(
    case: tuple[str, Goal, str], digits: Dataset, target: ModuleTarget
) -> None:
    rows = torch.arange(24)
    images = digits.evaluation.images(rows)
    before = images.clone()
    perturbed = apply(case, digits, target, images, rows)
    check_perturbed(perturbed, images, BUDGETS[case[2]])
    assert perturbed.device == images.device
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert torch.equal(images, before), "the clean images were changed in place"
    assert not perturbed.requires_grad


def test_batches_do_not_matter_and_equal_seeds_give_equal_images(
    case: tuple[str, Goal, str], digits: Dataset, target: ModuleTarget
) -> None:
    rows = torch.arange(12)
    images = digits.evaluation.images(rows)
    whole = apply(case, digits, target, images, rows)
    parts = [apply(case, digits, target, images[part], part) for part in rows.split(5)]
    moved = (torch.cat(parts) - whole).abs()
    # A sign that hangs on rounding may flip a pixel; nothing else may differ.
    assert (moved > 1e-4).float().mean() < 0.01
    assert torch.equal(apply(case, digits, target, images, rows), whole)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_batches_and_single_images(
    case: tuple[str, Goal, str], count: int, digits: Dataset, target: ModuleTarget
) -> None:
    rows = torch.arange(count)
    images = digits.evaluation.images(rows) if count else torch.zeros(0, 3, 32, 32)
    assert apply(case, digits, target, images, rows).shape == images.shape


def test_queries_and_gradients_are_what_the_module_saw(
    case: tuple[str, Goal, str], digits: Dataset, target: ModuleTarget
) -> None:
    fitted(case, digits, target)
    seen: list[int] = []
    differentiated: list[int] = []
    watched = ModuleTarget(target.module(), 10, "resnet18", "resnet18")
    watched._module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))

    def watch(module: torch.nn.Module, inputs: object, scores: torch.Tensor) -> None:
        if scores.requires_grad:
            scores.register_hook(lambda gradient: differentiated.append(len(gradient)))

    watched._module.register_forward_hook(watch)
    watched._fast = watched._module
    ledger = QueryLedger(len(digits.evaluation))
    rows = torch.arange(7)
    apply(case, digits, watched, digits.evaluation.images(rows), rows, ledger)
    assert int(ledger.queries.sum()) == sum(seen)
    assert int(ledger.gradients.sum()) == sum(differentiated)


def test_what_was_learnt_can_be_stored_and_restored(
    case: tuple[str, Goal, str], digits: Dataset, target: ModuleTarget
) -> None:
    method, context, perturber, _ = fitted(case, digits, target)
    rows = torch.arange(6)
    images = digits.evaluation.images(rows)
    expected = apply(case, digits, target, images, rows)
    again = method.restore(perturber.state(), context)
    threat = threat_model(None, method.needs(case[1]))
    door = perturb_access(target, threat, QueryLedger(len(digits.evaluation)), rows, digits.evaluation.labels[rows])
    assert torch.allclose(again.perturb(images, door), expected, atol=1e-6)


def test_another_seed_changes_only_what_is_random(digits: Dataset, target: ModuleTarget) -> None:
    rows = torch.arange(4)
    images = digits.evaluation.images(rows)
    for name, changes in (("noise", True), ("fgsm", False)):
        case = (name, Goal.DEGRADE, "linf")
        method, context, _, _ = fitted(case, digits, target)
        other = method.restore({}, replace(context, seed=1))
        door = perturb_access(target, THREATS["white-box"], QueryLedger(100), rows, rows)
        assert torch.equal(other.perturb(images, door), apply(case, digits, target, images, rows)) is not changes


def test_a_surrogate_carries_any_image_method_to_a_target_that_is_never_asked(
    digits: Dataset, target: ModuleTarget
) -> None:
    from advbench.methods import Transfer

    spec = ClassifierSpec(architecture="resnet18", training=Training(epochs=1, images=200, seed=3))

    def train_classifier(wanted: ClassifierSpec) -> Classifier:
        made = make_classifier(wanted, digits, Runtime(device="cpu"), SILENT, role="surrogate")
        assert isinstance(made, Classifier)
        return made

    context = Context(
        Goal.DEGRADE, BUDGETS["linf"], 0, 32, 10, runtime=Runtime(device="cpu"), train_classifier=train_classifier
    )
    ledger = QueryLedger(100)
    method = Transfer(inner=build_method("fgsm", {}), surrogate=spec)
    assert threat_model(None, method.needs(Goal.DEGRADE)).name == "black-box-labels"
    train = TrainingImages(digits.fit, digits.validation)
    labels = torch.cat([digits.fit.labels, digits.validation.labels])
    door = fit_access(target, THREATS["black-box-labels"], QueryLedger(len(labels)), labels)
    perturber = method.fit(door, train, context)
    rows = torch.arange(10)
    images = digits.evaluation.images(rows)
    perturbed = perturber.perturb(images, perturb_access(target, THREATS["black-box-labels"], ledger, rows, rows))
    check_perturbed(perturbed, images, BUDGETS["linf"])
    assert ledger.queries.sum() == 0
    direct = apply(("fgsm", Goal.DEGRADE, "linf"), digits, target, images, rows)
    assert not torch.equal(perturbed, direct)
