"""Methods carried by surrogates: one or several, methods that learn too, and a target that is never asked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.bench import build_method
from advbench.datasets import ArrayPixels, LabelledImages
from advbench.errors import InvalidConfig
from advbench.methods import Context, Method, Perturber, Setting, TrainingImages, Transfer, clip_to_budget
from advbench.targets import Classifier, ClassifierSpec, EnsembleTarget, ModuleTarget
from advbench.tensors import Images
from advbench.threat import THREATS, Budget, Needs
from advbench.types import Capability, Goal

BUDGET = Budget(epsilon=0.1)
COUNT = 12


class Learner(Method):
    """Learns one perturbation for all images from the signs of gradients, for the sake of these tests."""

    needed: Capability = Capability.INPUT_GRADIENTS

    def needs(self, goal: Goal) -> Needs:
        return Needs(fit=frozenset({self.needed, Capability.TRUE_LABELS}))

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        images = torch.cat([train.fit.images(slice(None)), train.validation.images(slice(None))])
        labels = access.true_labels
        gradient = access.gradient(
            images, lambda scores, part: nn.functional.cross_entropy(scores, labels[part], reduction="none")
        ).gradient
        return Learnt(gradient.mean(0), context)

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        return Learnt(state["direction"], context)


class Learnt:
    def __init__(self, direction: Tensor, context: Context) -> None:
        self.direction, self.context = direction, context

    def perturb(self, images: Images, access: Access) -> Images:
        return clip_to_budget(images + 0.1 * self.direction.sign(), images, self.context.budget)

    def state(self) -> dict[str, Tensor]:
        return {"direction": self.direction}

    def history(self) -> tuple[()]:
        return ()

    def notes(self) -> tuple[()]:
        return ()


def linear(seed: int) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), nn.Identity())


def train_classifier(spec: ClassifierSpec) -> Classifier:
    return linear(int(spec.architecture))


@pytest.fixture
def train() -> TrainingImages:
    pixels = torch.randint(0, 256, (COUNT, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = LabelledImages(
        ArrayPixels(pixels), torch.arange(COUNT), torch.arange(COUNT) % 4, tuple(map(str, range(COUNT)))
    )
    return TrainingImages(images, images)


def carry(inner: Method, *surrogates: str, **options: Any) -> Transfer:
    method = Transfer(inner=inner, surrogates=tuple(map(spec, surrogates)), **options)
    return method.resolve(Setting(Goal.DEGRADE, BUDGET, 4, "linear"))


def spec(name: str) -> ClassifierSpec:
    return ClassifierSpec(architecture=name)


def context() -> Context:
    return Context(Goal.DEGRADE, BUDGET, 0, 4, 4, train_classifier=train_classifier)


def asked_nothing(method: Method, train: TrainingImages) -> tuple[Perturber, Images, Images]:
    """Fit and perturb; the target is a network that raises when it is asked anything."""

    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the target was asked")

    target = ModuleTarget(Silent(), 4)
    labels = torch.cat([train.fit.labels, train.validation.labels])
    ledgers = QueryLedger(2 * COUNT), QueryLedger(COUNT)
    threat = THREATS["black-box-labels"]
    perturber = method.fit(fit_access(target, threat, ledgers[0], labels), train, context())
    images, rows = train.fit.images(slice(None)), torch.arange(COUNT)
    perturbed = perturber.perturb(images, perturb_access(target, threat, ledgers[1], rows, rows))
    assert not any(ledger.queries.any() for ledger in ledgers)
    return perturber, images, perturbed


def test_a_method_that_learns_is_fitted_on_the_surrogate(train: TrainingImages) -> None:
    method = carry(Learner(), "1")
    perturber, images, perturbed = asked_nothing(method, train)
    own = ModuleTarget(linear(1), 4)
    labels = torch.cat([train.fit.labels, train.validation.labels])
    direct = Learner().fit(fit_access(own, THREATS["white-box"], QueryLedger(2 * COUNT), labels), train, context())
    assert torch.equal(perturber.state()["direction"], direct.state()["direction"])
    assert not torch.equal(perturbed, images)
    again = method.restore(perturber.state(), context())
    rows = torch.arange(COUNT)
    door = perturb_access(own, THREATS["black-box-labels"], QueryLedger(COUNT), rows, rows)
    assert torch.equal(again.perturb(images, door), perturbed)


def test_nothing_is_shared_with_fits_that_ask_the_target_itself(train: TrainingImages) -> None:
    class Sharing(Learner):
        def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
            with context.shared({"part": 1}) as circumstances:
                return super().fit(access, train, circumstances)

    def shared_work(part: Mapping[str, Any]) -> NoReturn:
        raise AssertionError("it would take over what the target was asked, or leave there what a surrogate said")

    labels = torch.cat([train.fit.labels, train.validation.labels])
    door = fit_access(ModuleTarget(linear(0), 4), THREATS["white-box"], QueryLedger(2 * COUNT), labels)
    carry(Sharing(), "1").fit(door, train, replace(context(), shared_work=shared_work))
    with pytest.raises(AssertionError, match="take over"):
        Sharing().fit(door, train, replace(context(), shared_work=shared_work))


def test_several_surrogates_are_the_ensemble_of_them(train: TrainingImages) -> None:
    members = [ModuleTarget(linear(seed), 4) for seed in (1, 2)]
    images, rows = train.fit.images(slice(None)), torch.arange(COUNT)
    for fusion in ("logits", "probabilities", "loss"):
        _, _, perturbed = asked_nothing(carry(build_method("fgsm", {}), "1", "2", fusion=fusion), train)
        ensemble = EnsembleTarget(members, fusion)
        door = perturb_access(ensemble, THREATS["white-box"], QueryLedger(COUNT), rows, rows)
        direct = build_method("fgsm", {}).restore({}, context()).perturb(images, door)
        assert torch.equal(perturbed, direct)


def test_a_single_surrogate_has_nothing_to_fuse() -> None:
    alone = {carry(build_method("fgsm", {}), "1", fusion=fusion).model_dump_json() for fusion in ("logits", "loss")}
    assert len(alone) == 1
    both = {carry(build_method("fgsm", {}), "1", "2", fusion=fusion).model_dump_json() for fusion in ("logits", "loss")}
    assert len(both) == 2


def test_a_copy_of_several_networks_is_refused() -> None:
    carry(Learner(needed=Capability.WEIGHTS), "1")
    with pytest.raises(InvalidConfig, match="no single network"):
        carry(Learner(needed=Capability.WEIGHTS), "1", "2")


@pytest.mark.parametrize("attack", ["pgd", "vmi-fgsm", "nes", "simba"])
def test_only_the_true_labels_are_wanted_of_the_target(attack: str) -> None:
    make: Callable[[dict[str, Any]], Transfer] = lambda options: carry(build_method(attack, options), "1")  # noqa: E731
    assert make({}).needs(Goal.DEGRADE).perturb == frozenset()
    assert make({"label": "true"}).needs(Goal.DEGRADE).perturb == {Capability.TRUE_LABELS}
