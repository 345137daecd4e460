"""Universal perturbations: the paper's algorithm, the closed form on a linear model, and fits that are killed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advbench.access import QueryLedger, fit_access, perturb_access
from advbench.bench import build_method
from advbench.checkpoint import Checkpoint
from advbench.datasets import ArrayPixels, Dataset, LabelledImages
from advbench.errors import InvalidConfig, UnknownName
from advbench.methods import Context, Setting, TrainingImages
from advbench.methods.fast_feature_fool import FastFeatureFool
from advbench.methods.geometry import project
from advbench.methods.uap import UAP, _UAPFit
from advbench.runtime import Runtime
from advbench.seeding import seeded
from advbench.targets import ModuleTarget, Normalise
from advbench.tensors import Images
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal, Norm

MakeTarget = Callable[..., ModuleTarget]
LINF = Budget(epsilon=0.25)


class Setup:
    """A small fit."""

    def __init__(
        self, target: ModuleTarget, train: TrainingImages, attack: str, goal: Goal = Goal.DEGRADE,
        budget: Budget = LINF, size: int = 32, **options: Any,
    ) -> None:  # fmt: skip
        self.target, self.train, self.budget = target, train, budget
        self.method = build_method(attack, options).resolve(Setting(goal, budget, size, target.architecture))
        runtime = Runtime(device="cpu")
        self.context = Context(goal, budget, 0, size, target.num_classes, runtime=runtime, identity="test")
        self.labels = torch.cat([train.fit.labels, train.validation.labels])
        self.ledger = QueryLedger(len(self.labels))

    def fit(self, work: Path | None = None) -> Any:
        self.ledger = QueryLedger(len(self.labels))
        access = fit_access(self.target, THREATS["white-box"], self.ledger, self.labels)
        return self.method.fit(access, self.train, replace(self.context, work=work))


def some(digits: Dataset, fit: int = 96, validation: int = 30) -> TrainingImages:
    return TrainingImages(digits.fit.first(fit, seed=1, what=""), digits.validation.first(validation, seed=1, what=""))


def grey(count: int, labels: torch.Tensor) -> LabelledImages:
    """Small images away from black and white, so that nothing is clipped."""
    pixels = torch.randint(100, 156, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return LabelledImages(ArrayPixels(pixels), torch.arange(count), labels, tuple(map(str, range(count))))


def fooled(target: ModuleTarget, images: Images, perturbed: Images) -> float:
    return float((target.labels(images) != target.labels(perturbed)).float().mean())


def applied(perturber: Any, target: ModuleTarget, images: Images) -> Images:
    """What the fitted method makes of images, for which it may ask nothing."""
    ledger = QueryLedger(len(images), max_total=0)
    rows = torch.arange(len(images))
    result: Images = perturber.perturb(images, perturb_access(target, THREATS["black-box-labels"], ledger, rows, rows))
    return result


class TestClosedForm:
    @pytest.mark.parametrize("goal", Goal)
    @pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
    def test_on_two_classes_the_best_perturbation_is_found(
        self, goal: Goal, norm: Norm, linear_target: MakeTarget
    ) -> None:
        """Of all v in the ball, epsilon sign(w) moves a linear margin most under linf, epsilon w / ||w|| under l2."""
        target = linear_target(classes=2)
        weight = dict(target.module().named_parameters())["1.weight"].detach()
        zeros = grey(24, torch.zeros(24, dtype=torch.long))
        budget = Budget(norm=norm, epsilon=0.1)
        options = {"batch_size": 8, "epochs": 5, "relative_step": 0.5}
        setup = Setup(target, TrainingImages(zeros, zeros), "gradient-uap", goal, budget, size=4, **options)
        toward = weight[1] - weight[0] if goal is Goal.DEGRADE else weight[0] - weight[1]
        expected = 0.1 * (toward.sign() if norm is Norm.LINF else toward / toward.norm())
        found = setup.fit().state()["perturbation"].flatten()
        assert torch.allclose(found, expected, atol=1e-4)

    def test_a_constant_model_leaves_zero(self) -> None:
        class Constant(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return 0 * images.flatten(1)[:, :3]

        some_images = grey(6, torch.arange(6) % 3)
        train = TrainingImages(some_images, some_images)
        cases: dict[str, dict[str, Any]] = {"gradient-uap": {}, "uap": {"inner": "fgsm"}}
        for attack, options in cases.items():
            setup = Setup(ModuleTarget(Constant(), 3), train, attack, size=4, **options)
            assert setup.fit().state()["perturbation"].abs().max() == 0


class TestUAP:
    def test_one_image_at_a_time_is_algorithm_1(self, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(target, some(digits, 24, 10), "uap", inner="fgsm", batch_size=1, epochs=2, delta=0.0)
        found = setup.fit()
        images, labels = setup.train.fit.images(), setup.train.fit.labels
        inner = build_method("fgsm", {})
        v = torch.zeros(1, 3, 32, 32)
        clean = target.labels(images)
        rates, vs = [], []
        for epoch in range(2):
            with seeded(0, "uap", "epoch", epoch) as generator:
                order = torch.randperm(24, generator=generator)
            for i in order.tolist():  # lines 4 to 9
                x = images[[i]]
                moved = (x + v).clamp(0, 1)
                if target.labels(moved) == clean[i]:
                    door = perturb_access(target, THREATS["white-box"], QueryLedger(24), torch.tensor([i]), labels[[i]])
                    v = project(v + inner.restore({}, setup.context).perturb(moved, door) - moved, Norm.LINF, 0.25)
            rates.append(fooled(target, images, (images + v).clamp(0, 1)))
            vs.append(v)
        history = found.history()
        assert [epoch["fooling_rate"] for epoch in history] == pytest.approx(rates)
        chosen = min(reversed(history), key=lambda epoch: epoch["validation_accuracy"])
        # Signs that hang on rounding, and what follows from them.
        differing = (found.state()["perturbation"] - vs[int(chosen["epoch"]) - 1]).abs() > 1e-5
        assert differing.float().mean() < 0.01

    def test_it_ends_when_enough_images_are_fooled(self, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(target, some(digits), "uap", inner="fgsm", delta=0.99, epochs=5)
        history = setup.fit().history()
        assert len(history) == 1
        assert history[0]["fooling_rate"] >= 0.01

    def test_another_librarys_shortest_perturbation_reaches_the_boundary_too(
        self, digits: Dataset, target: ModuleTarget
    ) -> None:
        """Only v is held to the budget: what a step adds to it takes an image over the boundary."""
        pytest.importorskip("foolbox")
        train = some(digits, 8, 2)
        options: dict[str, Any] = {"inner": "foolbox:LinfDeepFoolAttack", "epochs": 1, "batch_size": 8}
        setup = Setup(target, train, "uap", budget=Budget(epsilon=0.002), **options)
        assert isinstance(setup.method, UAP)
        fit = _UAPFit(
            setup.method, fit_access(target, THREATS["white-box"], setup.ledger, setup.labels), train, setup.context
        )
        rows, images = torch.arange(8), train.fit.images()
        before = target.labels(images)
        over = fit._inner(images, rows, before)
        assert (target.labels(over) != before).all()
        assert (over - images).abs().amax() > 0.002

    def test_its_inner_attack_is_checked_and_recorded(self) -> None:
        setting = Setting(Goal.DEGRADE, LINF, 32, "resnet18")
        method = build_method("uap", {"inner": "pgd", "inner_options": "steps=5,random-start=false"}).resolve(setting)
        assert isinstance(method, UAP)
        assert (method.inner_options["steps"], method.inner_options["random_start"]) == (5, False)
        assert method.inner_options["relative_step"] == 0.125, "the record is to show every value"
        assert Capability.INPUT_GRADIENTS in method.needs(Goal.DEGRADE).fit
        assert not method.needs(Goal.DEGRADE).perturb
        with pytest.raises(InvalidConfig, match="attack on single images"):
            build_method("uap", {"inner": "pgn-b"}).resolve(setting)
        with pytest.raises(UnknownName, match="fgsm"):
            build_method("uap", {"inner": "fgsn"}).resolve(setting)
        with pytest.raises(UnknownName, match="steps"):
            build_method("uap", {"inner": "pgd", "inner_options": "stepz=5"}).resolve(setting)

    @pytest.mark.parametrize("attack", ["uap", "gradient-uap", "fast-feature-fool", "gap-universal"])
    def test_without_a_budget_it_is_refused(self, attack: str) -> None:
        options = {"inner": "fgsm"} if attack == "uap" else {}
        with pytest.raises(InvalidConfig, match="needs a budget"):
            build_method(attack, options).resolve(Setting(Goal.DEGRADE, Budget(), 32, "resnet18"))


OPTIONS: dict[str, dict[str, Any]] = {
    "uap": {"inner": "fgsm", "epochs": 3, "delta": 0.0},
    "gradient-uap": {"epochs": 3},
    "fast-feature-fool": {"epochs": 3, "steps": 5},
}


class TestFit:
    @pytest.mark.parametrize("attack", OPTIONS)
    def test_it_fools_more_than_random_signs(self, attack: str, digits: Dataset, target: ModuleTarget) -> None:
        images = digits.evaluation.images()
        options: dict[str, dict[str, Any]] = {
            "uap": {"inner": "fgsm", "epochs": 3},
            "gradient-uap": {"epochs": 5, "batch_size": 16},
            "fast-feature-fool": {"epochs": 2, "steps": 50, "relative_rate": 0.05},
        }
        setup = Setup(target, some(digits), attack, **options[attack])
        perturbed = applied(setup.fit(), target, images)
        signs = torch.randint(0, 2, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        by_chance = [fooled(target, images, (images + 0.25 * sign).clamp(0, 1)) for sign in signs]
        margin = {"gradient-uap": 0.3, "uap": 0.1, "fast-feature-fool": 0.0}[attack]
        assert fooled(target, images, perturbed) > sum(by_chance) / 5 + margin

    def test_one_perturbation_can_help(self, digits: Dataset, target: ModuleTarget) -> None:
        images, labels = digits.evaluation.images(), digits.evaluation.labels
        fitted = Setup(target, some(digits), "gradient-uap", Goal.ENHANCE, epochs=4).fit()
        losses = [epoch["loss"] for epoch in fitted.history()]
        assert losses[-1] < losses[0]
        right = [(target.labels(shown) == labels).float().mean() for shown in (images, applied(fitted, target, images))]
        assert right[1] > right[0]

    @pytest.mark.parametrize("attack", OPTIONS)
    def test_killed_after_any_epoch_it_ends_in_the_same_numbers(
        self, attack: str, digits: Dataset, target: ModuleTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = Setup(target, some(digits, 40, 10), attack, **OPTIONS[attack])
        whole = setup.fit()
        asked = setup.ledger.counts()
        save = Checkpoint.save
        left = [2]

        def save_and_die(self: Checkpoint, state: dict[str, Any]) -> None:
            save(self, state)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            setup.fit(tmp_path)
        monkeypatch.setattr(Checkpoint, "save", save)
        resumed = setup.fit(tmp_path)
        assert torch.equal(setup.ledger.counts(), asked), "what was asked before the kill was forgotten"
        assert resumed.history() == whole.history()
        assert torch.equal(resumed.state()["perturbation"], whole.state()["perturbation"])

    def test_what_fitting_asks_is_counted(self, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(target, some(digits, 40, 10), "gradient-uap", epochs=2)
        setup.fit()
        assert setup.ledger.queries.tolist() == [2] * 50
        assert setup.ledger.gradients.tolist() == [2] * 40 + [0] * 10
        setup = Setup(target, some(digits, 40, 10), "fast-feature-fool", epochs=2, steps=2)
        setup.fit()
        assert setup.ledger.queries.tolist() == [0] * 40 + [2] * 10, "weights are no queries, and no image is used"
        assert setup.ledger.gradients.sum() == 0


class TestFastFeatureFool:
    def test_its_loss_is_the_sum_of_log_mean_activations(self) -> None:
        """Two rectified layers by hand, with v in place of an image that normalises to zero."""
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3), torch.nn.ReLU(inplace=True),
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        )  # fmt: skip
        from advbench.methods.fast_feature_fool import _Excitement
        from advbench.targets import Classifier

        normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        v = 0.1 * torch.randn(1, 3, 8, 8)
        first = network[0](v / 0.2).relu()
        second = network[2](first).relu()
        expected = first.mean().log() + second.mean().log()
        assert torch.allclose(_Excitement(Classifier(network, normalise))(v), expected, atol=1e-5)

    def test_a_model_without_layers_to_excite_is_refused(self, linear_target: MakeTarget) -> None:
        images = grey(4, torch.arange(4))
        setup = Setup(linear_target(), TrainingImages(images, images), "fast-feature-fool", size=4)
        assert isinstance(setup.method, FastFeatureFool)
        with pytest.raises(InvalidConfig, match="no convolutional layer"):
            setup.fit()
