"""A method gets what its threat model grants, and nothing else. Each cheat is refused, whatever it tries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.errors import AccessDenied, BudgetSpent, InvalidConfig, InvalidPerturbation
from advbench.targets import FunctionTarget, ModuleTarget
from advbench.threat import THREATS
from advbench.types import Capability

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(6)
TRUTH = torch.zeros(6, dtype=torch.long)

MakeTarget = Callable[..., ModuleTarget]


def opened(target: Any, threat: str) -> tuple[Access, QueryLedger]:
    ledger = QueryLedger(6)
    return perturb_access(target, THREATS[threat], ledger, ROWS, TRUTH), ledger


def calls_backward(access: Access) -> object:
    images = IMAGES.clone().requires_grad_()
    access.scores(images).sum().backward()
    return images.grad


def asks_for_gradients(access: Access) -> object:
    return access.gradient(IMAGES, lambda scores, part: scores[:, 0])


def reaches_for_the_module(access: Access) -> object:
    return access.module()


def reaches_for_parameters(access: Access) -> object:
    return access._target.parameters()  # type: ignore[attr-defined]


def reaches_for_scores(access: Access) -> object:
    return access.scores(IMAGES)


def reaches_for_labels(access: Access) -> object:
    return access.labels(IMAGES)


def reaches_for_the_structure(access: Access) -> object:
    return access.structure


def reaches_for_test_labels(access: Access) -> object:
    return access.true_labels


CHEATS: dict[str, list[Callable[[Access], object]]] = {
    "black-box-labels": [
        calls_backward,
        asks_for_gradients,
        reaches_for_the_module,
        reaches_for_parameters,
        reaches_for_scores,
        reaches_for_the_structure,
        reaches_for_test_labels,
    ],
    "black-box-scores": [
        calls_backward,
        asks_for_gradients,
        reaches_for_the_module,
        reaches_for_parameters,
        reaches_for_the_structure,
        reaches_for_test_labels,
    ],
    "known-structure": [
        calls_backward,
        asks_for_gradients,
        reaches_for_the_module,
        reaches_for_parameters,
        reaches_for_scores,
        reaches_for_test_labels,
    ],
    "white-box": [calls_backward, reaches_for_parameters, reaches_for_test_labels],
}


@pytest.mark.parametrize(
    ("threat", "cheat"), [(threat, cheat) for threat, cheats in CHEATS.items() for cheat in cheats]
)
def test_a_cheat_is_refused(threat: str, cheat: Callable[[Access], object], linear_target: MakeTarget) -> None:
    access, _ = opened(linear_target(), threat)
    with pytest.raises(AccessDenied):
        cheat(access)


GRANTED: dict[str, list[Callable[[Access], object]]] = {
    "black-box-labels": [reaches_for_labels],
    "black-box-scores": [reaches_for_labels, reaches_for_scores],
    "known-structure": [reaches_for_labels, reaches_for_the_structure],
    "white-box": [
        reaches_for_labels,
        reaches_for_scores,
        asks_for_gradients,
        reaches_for_the_structure,
        reaches_for_the_module,
    ],
}


@pytest.mark.parametrize(("threat", "use"), [(threat, use) for threat, uses in GRANTED.items() for use in uses])
def test_what_is_granted_is_given(threat: str, use: Callable[[Access], object], linear_target: MakeTarget) -> None:
    access, _ = opened(linear_target(), threat)
    assert use(access) is not None


@pytest.mark.parametrize("threat", THREATS)
def test_no_attribute_of_the_handle_leads_to_the_target(threat: str, linear_target: MakeTarget) -> None:
    """Walks all attributes and containers; functions' closures are beyond what the handle guards."""
    access, _ = opened(linear_target(), threat)
    seen: set[int] = set()
    waiting: list[object] = [access]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | int | torch.Tensor | type):
            continue
        seen.add(id(thing))
        assert not isinstance(thing, nn.Module | ModuleTarget)
        if isinstance(thing, dict):
            waiting += list(thing.values())
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += list(thing)
        elif not callable(thing):
            slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(thing, name) for name in slots] + list(vars(thing).values() if not slots else [])
    assert len(seen) > 1


def test_the_copy_of_the_module_is_a_copy(linear_target: MakeTarget) -> None:
    target = linear_target()
    access, _ = opened(target, "white-box")
    before = target.scores(IMAGES)
    with torch.no_grad():
        for parameter in access.module().parameters():
            parameter.zero_()
    assert torch.equal(target.scores(IMAGES), before)


def test_labels_while_perturbing_come_only_with_true_labels(linear_target: MakeTarget) -> None:
    threat = THREATS["black-box-labels"].with_true_labels()
    access = perturb_access(linear_target(), threat, QueryLedger(6), ROWS, TRUTH)
    assert torch.equal(access.true_labels, TRUTH)
    assert threat.name == "black-box-labels+true-labels"


def test_the_attackers_own_labels_are_granted_in_fitting(linear_target: MakeTarget) -> None:
    access = fit_access(linear_target(), THREATS["black-box-labels"], QueryLedger(6), TRUTH)
    assert access.grants(Capability.TRUE_LABELS)
    assert torch.equal(access.true_labels, TRUTH)


class TestLedger:
    def test_each_query_and_gradient_is_counted_for_its_sample(self, linear_target: MakeTarget) -> None:
        access, ledger = opened(linear_target(), "white-box")
        access.labels(IMAGES)
        access.scores(IMAGES[:2], rows=torch.tensor([4, 4]))
        access.gradient(IMAGES[:1], lambda scores, part: scores[:, 0], rows=torch.tensor([1]))
        assert ledger.queries.tolist() == [1, 2, 1, 1, 3, 1]
        assert ledger.gradients.tolist() == [0, 1, 0, 0, 0, 0]

    def test_several_gradients_after_one_pass_are_one_query(self, linear_target: MakeTarget) -> None:
        access, ledger = opened(linear_target(), "white-box")
        answer = access.jacobian(IMAGES[:2], lambda scores, part: scores[:, :3], 3, rows=torch.tensor([1, 4]))
        assert answer.gradients.shape == (2, 3, 3, 4, 4)
        assert ledger.queries.tolist() == [0, 1, 0, 0, 1, 0]
        assert ledger.gradients.tolist() == [0, 3, 0, 0, 3, 0]

    def test_counts_equal_what_the_module_saw(self, linear_target: MakeTarget) -> None:
        target = linear_target()
        seen = []
        target._module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        access, ledger = opened(target, "black-box-scores")
        for size in (6, 6):
            access.scores(IMAGES[:size])
        assert ledger.queries.sum() == sum(seen) == 12

    def test_images_without_their_samples_are_refused(self, linear_target: MakeTarget) -> None:
        access, _ = opened(linear_target(), "white-box")
        with pytest.raises(InvalidConfig, match="pass rows="):
            access.labels(IMAGES[:2])

    def test_the_budget_of_each_image_is_enforced(self, linear_target: MakeTarget) -> None:
        ledger = QueryLedger(6, max_each=2)
        access = perturb_access(linear_target(), THREATS["black-box-labels"], ledger, ROWS, TRUTH)
        access.labels(IMAGES)
        access.labels(IMAGES)
        with pytest.raises(BudgetSpent, match="2 queries for each image"):
            access.labels(IMAGES[:1], rows=torch.tensor([3]))
        assert ledger.queries.tolist() == [2] * 6

    def test_the_budget_of_a_phase_is_enforced_before_it_is_passed(self, linear_target: MakeTarget) -> None:
        ledger = QueryLedger(6, max_total=10)
        access = fit_access(linear_target(), THREATS["black-box-labels"], ledger, TRUTH)
        access.labels(IMAGES)
        with pytest.raises(BudgetSpent, match="10 queries in this phase"):
            access.labels(IMAGES)
        assert ledger.queries.sum() == 6


@pytest.mark.parametrize("classes", [[0, 1, 0, 1, 0, 9], [0, 1]])
def test_a_class_that_is_not_there_cannot_be_sought(classes: list[int], linear_target: MakeTarget) -> None:
    access, _ = opened(linear_target(), "black-box-labels")
    access.seek(torch.tensor([-1, 1, 0, -1, 1, 0]))
    with pytest.raises(InvalidPerturbation, match="the class that each of 6 samples is to reach"):
        access.seek(torch.tensor(classes))


class TestFunctionTargets:
    def test_labels_come_from_the_function(self) -> None:
        target = FunctionTarget(lambda images: images.mean(dim=(1, 2, 3)) > 0.5, 2)
        access, ledger = opened(target, "black-box-labels")
        assert access.labels(IMAGES).tolist() == (IMAGES.mean(dim=(1, 2, 3)) > 0.5).long().tolist()
        assert ledger.queries.sum() == 6

    def test_only_what_a_function_can_give_is_offered(self) -> None:
        labels = FunctionTarget(lambda images: torch.zeros(len(images)), 2)
        scores = FunctionTarget(lambda images: torch.zeros(len(images), 2), 2, outputs="scores")
        assert Capability.SCORES not in labels.offers
        assert Capability.SCORES in scores.offers
        for target in (labels, scores):
            assert not {Capability.INPUT_GRADIENTS, Capability.WEIGHTS, Capability.STRUCTURE} & target.offers
            with pytest.raises(AccessDenied):
                opened(target, "white-box")[0].gradient(IMAGES, lambda s, part: F.cross_entropy(s, TRUTH[part]))

    def test_gradients_of_a_function_are_refused_by_the_target_itself(self) -> None:
        with pytest.raises(AccessDenied, match="function"):
            FunctionTarget(lambda images: torch.zeros(len(images)), 2).jacobian(IMAGES, lambda s, part: s[:, :1], 1)


def test_a_part_of_the_samples_has_their_labels_and_the_same_ledger_and_grants(linear_target: MakeTarget) -> None:
    ledger = QueryLedger(9)
    truth, positions = torch.arange(6), torch.tensor([4, 1])
    whole = perturb_access(
        linear_target(), THREATS["black-box-labels"].with_true_labels(), ledger, torch.arange(3, 9), truth
    )
    part = whole.at(positions)
    assert part.rows.tolist() == [7, 4]
    assert part.true_labels.tolist() == [4, 1]
    assert whole.true_labels.tolist() == truth.tolist()
    part.labels(IMAGES[positions])
    assert ledger.queries.tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 0]
    with pytest.raises(AccessDenied):
        part.scores(IMAGES[positions])
    with pytest.raises(AccessDenied):
        reaches_for_test_labels(opened(linear_target(), "black-box-labels")[0].at(positions))
