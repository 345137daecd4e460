"""Methods carried by surrogates: one or several, methods that learn too, and a target that is never asked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.bench import build_method, cell
from advbench.datasets import ArrayPixels, Dataset, LabelledImages
from advbench.errors import BudgetSpent, InvalidConfig
from advbench.files import digest, digest_state
from advbench.methods import Context, Method, Perturber, Setting, TrainingImages, Transfer, clip_to_budget
from advbench.runtime import Runtime
from advbench.targets import (
    Classifier,
    ClassifierSpec,
    EnsembleTarget,
    ModuleTarget,
    Training,
    build_network,
    untrained_classifier,
)
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


@pytest.mark.parametrize("attack", ["autoattack", "pgd"])
def test_what_a_method_returns_clean_is_no_failure_through_surrogates_either(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, bool] = {}
    monkeypatch.setattr(cell, "loss_flags", lambda samples, goal, *, only_changed: asked.update(changed=only_changed))
    inner = build_method(attack, {})
    prepared = SimpleNamespace(method=carry(inner, "1"), request=SimpleNamespace(goal=Goal.DEGRADE))
    cell._result_flags(prepared, SimpleNamespace(samples=None))  # type: ignore[arg-type]
    assert asked["changed"] is inner.returns_failures_clean


def test_a_copy_of_several_networks_is_refused() -> None:
    carry(Learner(needed=Capability.WEIGHTS), "1")
    with pytest.raises(InvalidConfig, match="no single network"):
        carry(Learner(needed=Capability.WEIGHTS), "1", "2")


@pytest.mark.parametrize("attack", ["pgd", "vmi-fgsm", "nes", "simba"])
def test_only_the_true_labels_are_wanted_of_the_target(attack: str) -> None:
    make: Callable[[dict[str, Any]], Transfer] = lambda options: carry(build_method(attack, options), "1")  # noqa: E731
    assert make({}).needs(Goal.DEGRADE).perturb == frozenset()
    assert make({"label": "true"}).needs(Goal.DEGRADE).perturb == {Capability.TRUE_LABELS}


class TestSubstitutes:
    """Surrogates that learn from what the target says of altered images."""

    EPOCHS = 3

    @pytest.fixture
    def method(self) -> Transfer:
        taught = ClassifierSpec(architecture="squeezenet1_1", training=Training(epochs=self.EPOCHS, batch_size=16))
        method = Transfer(inner=build_method("fgsm", {}), surrogates=(taught,), learns="answers")
        return method.resolve(Setting(Goal.DEGRADE, BUDGET, 32, "resnet18"))

    @pytest.fixture
    def images(self, digits: Dataset) -> TrainingImages:
        return TrainingImages(digits.fit.first(64, seed=1, what=""), digits.validation.first(30, seed=1, what=""))

    def fitted(
        self,
        method: Transfer,
        target: ModuleTarget,
        images: TrainingImages,
        allowed: int | None = None,
        **circumstances: Any,
    ) -> tuple[Perturber, QueryLedger]:
        labels = torch.cat([images.fit.labels, images.validation.labels])
        ledger = QueryLedger(len(labels), max_total=allowed)
        access = fit_access(target, THREATS["black-box-labels"], ledger, labels)
        around = Context(Goal.DEGRADE, BUDGET, 0, 32, 10, runtime=Runtime(device="cpu"))
        return method.fit(access, images, replace(around, **circumstances)), ledger

    def moved(self, perturber: Perturber, target: ModuleTarget, images: TrainingImages) -> Images:
        rows, ledger = torch.arange(30), QueryLedger(30)
        door = perturb_access(target, THREATS["black-box-labels"], ledger, rows, rows)
        perturbed = perturber.perturb(images.validation.images(rows), door)
        assert not ledger.queries.any()
        return perturbed

    def test_they_ask_about_each_fit_image_once_an_epoch(
        self, method: Transfer, target: ModuleTarget, images: TrainingImages
    ) -> None:
        perturber, ledger = self.fitted(method, target, images)
        assert ledger.queries.tolist() == [self.EPOCHS] * 64 + [0] * 30
        assert not ledger.gradients.any()
        assert "foretold" in perturber.notes()[0]
        assert method.needs(Goal.DEGRADE).fit == {Capability.LABELS, Capability.TRUE_LABELS}

    def test_what_is_stored_gives_them_back(
        self, method: Transfer, target: ModuleTarget, images: TrainingImages
    ) -> None:
        perturber, _ = self.fitted(method, target, images)
        stored = {name: value.clone() for name, value in perturber.state().items()}
        again = method.restore(stored, Context(Goal.DEGRADE, BUDGET, 0, 32, 10, runtime=Runtime(device="cpu")))
        assert torch.equal(self.moved(again, target, images), self.moved(perturber, target, images))
        assert stored.keys() == again.state().keys()

    def test_they_come_to_answer_as_the_target_does(
        self, target: ModuleTarget, digits: Dataset, method: Transfer
    ) -> None:
        """Not as the truth is: this target takes every image for another class than it is."""

        class Shifted(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return target.scores(images).roll(1, dims=1)

        longer = method.surrogates[0].model_copy(update={"training": Training(epochs=8, batch_size=16)})
        longer = longer.model_copy(update={"architecture": "resnet18"})
        images = TrainingImages(digits.fit.first(400, seed=1, what=""), digits.validation.first(100, seed=1, what=""))
        shifted = ModuleTarget(Shifted(), 10)
        perturber, _ = self.fitted(method.model_copy(update={"surrogates": (longer,)}), shifted, images)
        substitute = Classifier(build_network("resnet18", 10, 32), nn.Identity()).eval()
        substitute.load_state_dict(
            {name.removeprefix("substitute-0."): value for name, value in perturber.state().items()}
        )
        rows = torch.arange(100)
        with torch.no_grad():
            guessed = substitute(images.validation.images(rows)).argmax(dim=1)
        assert (guessed == shifted.labels(images.validation.images(rows))).float().mean() > 0.5
        assert (guessed == images.validation.labels).float().mean() < 0.2

    def test_fits_of_one_target_share_them_and_each_counts_the_queries(
        self, method: Transfer, target: ModuleTarget, images: TrainingImages, tmp_path: Path
    ) -> None:
        @contextmanager
        def shared_work(part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
            yield tmp_path, str(part)

        class Silent(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                raise AssertionError("the target was asked again")

        first, _ = self.fitted(method, target, images, shared_work=shared_work)
        other = method.model_copy(update={"inner": build_method("pgd", {"steps": 2})})
        second, ledger = self.fitted(other, ModuleTarget(Silent(), 10), images, shared_work=shared_work)
        assert ledger.queries.tolist() == [self.EPOCHS] * 64 + [0] * 30
        assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())
        with pytest.raises(BudgetSpent):
            self.fitted(other, target, images, allowed=self.EPOCHS * 64 - 1, shared_work=shared_work)

    @pytest.mark.parametrize("before", ["0", "1", "01", ""])
    def test_several_ask_each_for_itself_whoever_was_taught_before(
        self, before: str, method: Transfer, target: ModuleTarget, images: TrainingImages, tmp_path: Path
    ) -> None:
        @contextmanager
        def shared_work(part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
            folder = tmp_path / digest(dict(part))
            folder.mkdir(exist_ok=True)
            yield folder, digest(dict(part))

        (one,) = method.surrogates
        two = one.model_copy(update={"training": one.training.model_copy(update={"seed": 1})})
        for position in before:
            alone = method.model_copy(update={"surrogates": ((one, two)[int(position)],)})
            _, ledger = self.fitted(alone, target, images, shared_work=shared_work)
            assert ledger.queries.sum() == self.EPOCHS * 64
        both = method.model_copy(update={"surrogates": (one, two)})
        perturber, ledger = self.fitted(both, target, images, shared_work=shared_work)
        assert ledger.queries.tolist() == [2 * self.EPOCHS] * 64 + [0] * 30
        names = {name.partition(".")[0] for name in perturber.state()}
        assert names == {"substitute-0", "substitute-1"}

    def test_one_of_the_targets_architecture_starts_from_weights_of_its_own(self, method: Transfer) -> None:
        alike, other = (
            method.resolve(Setting(Goal.DEGRADE, BUDGET, 32, architecture)).surrogates[0]
            for architecture in ("squeezenet1_1", "resnet18")
        )
        assert other == method.surrogates[0]
        first, second = (untrained_classifier(spec, 10, 32)[0] for spec in (alike, other))
        assert isinstance(first, Classifier)
        assert isinstance(second, Classifier)
        assert digest_state(first.state_dict()) != digest_state(second.state_dict())

    def test_one_that_would_never_ask_is_refused(self) -> None:
        with pytest.raises(InvalidConfig, match="at least 1"):
            carry(build_method("fgsm", {}), "squeezenet1_1", learns="answers").model_copy(
                update={"surrogates": (ClassifierSpec(architecture="resnet18", training=Training(epochs=0)),)}
            ).resolve(Setting(Goal.DEGRADE, BUDGET, 32, "linear"))
