"""Generators trained directly: their losses are the papers', a step is the chain rule, and fits resume."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from advbench.access import QueryLedger, fit_access
from advbench.bench import build_method
from advbench.checkpoint import Checkpoint
from advbench.datasets import Dataset
from advbench.errors import InvalidConfig
from advbench.methods import Context, Setting, TrainingImages
from advbench.methods.generators import GAP, AdvGAN
from advbench.methods.generators.atn import rerank
from advbench.methods.generators.gap import _Fit, log_cross_entropy
from advbench.methods.pgn import Generator
from advbench.methods.pgn.networks import encoder_of
from advbench.runtime import Runtime
from advbench.targets import Classifier, ModuleTarget, build_network
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal

ATTACKS = ("advgan", "atn", "gap", "gap-universal")
SCORES = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0], [40.0, 0.0, 0.0], [90.0, 0.0, -9.0]])
LABELS = torch.tensor([0, 2, 0, 0])


class Setup:
    """A small fit on real digits."""

    def __init__(
        self, digits: Dataset, target: ModuleTarget, attack: str, goal: Goal = Goal.DEGRADE, **options: Any
    ) -> None:
        self.target = target
        budget = Budget(epsilon=0.3)
        small = {"encoder": "squeezenet1_1", "backbone": "scratch", "decoder_width": 0.02}
        chosen: dict[str, Any] = {**small, "epochs": 3, "batch_size": 16} | options
        self.method = build_method(attack, chosen).resolve(Setting(goal, budget, 32, target.architecture))
        self.train = TrainingImages(digits.fit.first(32, seed=1, what=""), digits.validation.first(20, seed=1, what=""))
        self.context = Context(goal, budget, 0, 32, 10, runtime=Runtime(device="cpu"), identity="test")
        self.labels = torch.cat([self.train.fit.labels, self.train.validation.labels])
        self.ledger = QueryLedger(len(self.labels))

    def access(self) -> Any:
        self.ledger = QueryLedger(len(self.labels))
        return fit_access(self.target, THREATS["white-box"], self.ledger, self.labels)

    def fit(self, work: Path | None = None) -> Any:
        return self.method.fit(self.access(), self.train, replace(self.context, work=work))


def test_a_class_that_there_is_not_is_refused_before_anything_is_trained(digits: Dataset, target: ModuleTarget) -> None:
    setup = Setup(digits, target, "atn", target_class=10)
    with pytest.raises(InvalidConfig, match="--target-class 10: the classes are 0 to 9"):
        setup.fit()
    assert not setup.ledger.queries.any()


class TestLosses:
    def test_the_logarithm_of_the_cross_entropy_keeps_its_gradient(self) -> None:
        scores = SCORES.double().requires_grad_()
        found = log_cross_entropy(scores, LABELS)
        expected = F.cross_entropy(scores[:2], LABELS[:2], reduction="none").log()
        assert torch.allclose(found[:2], expected, atol=1e-9)
        assert found[2].item() == pytest.approx(math.log(2) - 40), "to first order, H is 2 exp(-40)"
        (gradient,) = torch.autograd.grad(found.sum(), scores)
        assert torch.isfinite(gradient).all()
        assert gradient[3, 0] == -1, "where H is exp(-90), log H still falls with the margin"

    def test_reranking_puts_the_wanted_class_first_and_keeps_the_order(self) -> None:
        y = torch.tensor([[0.7, 0.2, 0.1]])
        found = rerank(y, torch.tensor([2]), alpha=1.5)
        assert torch.allclose(found, torch.tensor([[0.7, 0.2, 1.05]]) / 1.95)

    def test_advgans_margin(self) -> None:
        method = AdvGAN(confidence=1.0)
        assert torch.allclose(method.margin_loss(SCORES, LABELS, Goal.DEGRADE)[:2], torch.tensor([1.5, -1.0]))
        assert torch.allclose(method.margin_loss(SCORES, LABELS, Goal.ENHANCE)[:2], torch.tensor([-1.0, 2.0]))


class TestStep:
    @pytest.mark.parametrize("goal", Goal)
    def test_pulling_the_gradient_back_is_training_through_the_module(
        self, goal: Goal, digits: Dataset, target: ModuleTarget
    ) -> None:
        """The same gradients as autograd's through generator, clamp and target at once, which needs the weights."""
        setup = Setup(digits, target, "gap", goal, averaging=0, schedule="constant")
        method = setup.method
        assert isinstance(method, GAP)
        torch.manual_seed(0)
        encoder = encoder_of(Classifier(build_network("resnet18", 10, 64), torch.nn.Identity()))
        generator = Generator(encoder, 1 / 32, setup.context.budget, 1.0)
        own = copy.deepcopy(generator).eval()
        access = setup.access()
        fit = _Fit(method, generator, access, setup.train, setup.context)
        fit.clean_scores = torch.zeros(32, 10)
        fit._set_rates(0)
        rows = torch.arange(16)
        images, labels = setup.train.fit.images(rows), setup.train.fit.labels[rows]
        fit.generator.eval()  # the batch norms of a batch would multiply the rounding of either way
        figures = fit.step(images, labels, rows)

        scores = target.module()((images + own(images)).clamp(0, 1))
        loss = F.cross_entropy(scores, labels) if goal is Goal.ENHANCE else -log_cross_entropy(scores, labels).mean()
        loss.backward()
        assert figures.generator_loss.item() == pytest.approx(loss.item(), rel=1e-4)
        assert torch.equal(figures.answers, scores.argmax(dim=1))
        pairs = list(zip(fit.generator.parameters(), own.parameters(), strict=True))
        # Adam's first moment after one step holds a tenth of the gradient.
        found = torch.cat([fit.generator_optimizer.state[mine]["exp_avg"].flatten() for mine, _ in pairs])
        expected = torch.cat([0.1 * theirs.grad.flatten() for _, theirs in pairs if theirs.grad is not None])
        assert F.cosine_similarity(found.double(), expected.double(), dim=0) > 0.999
        assert found.norm() == pytest.approx(expected.norm().item(), rel=2e-2)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_what_fitting_asks_is_counted(self, attack: str, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(digits, target, attack, epochs=2)
        setup.fit()
        # Each fit image once clean and once an epoch; each validation image once an epoch.
        assert setup.ledger.queries.tolist() == [3] * 32 + [2] * 20
        assert setup.ledger.gradients.tolist() == [2] * 32 + [0] * 20

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_weights_are_not_needed(self, attack: str) -> None:
        needs = build_method(attack, {}).needs(Goal.DEGRADE)
        assert Capability.WEIGHTS not in needs.fit
        assert not needs.perturb


class TestFit:
    @pytest.mark.parametrize("goal", Goal)
    def test_direct_training_serves_both_goals(self, goal: Goal, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(digits, target, "gap", goal, epochs=4, learning_rate=2e-3, loss="cross-entropy", batch_size=16)
        losses = [epoch["generator_loss"] for epoch in setup.fit().history()]
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_killed_after_an_epoch_it_ends_in_the_same_numbers(
        self, attack: str, digits: Dataset, target: ModuleTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = Setup(digits, target, attack, epochs=2)
        whole = setup.fit()
        asked = setup.ledger.counts()
        save = Checkpoint.save

        def save_and_die(self: Checkpoint, state: dict[str, Any]) -> None:
            save(self, state)
            raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            setup.fit(tmp_path)
        monkeypatch.setattr(Checkpoint, "save", save)
        resumed = setup.fit(tmp_path)
        assert torch.equal(setup.ledger.counts(), asked)
        assert resumed.history() == whole.history()
        assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())

    def test_one_perturbation_for_all_images(self, digits: Dataset, target: ModuleTarget) -> None:
        fitted = Setup(digits, target, "gap-universal", epochs=1).fit()
        grey = torch.full((2, 3, 32, 32), 0.5)
        moved = fitted.perturb(grey, None) - grey
        assert torch.equal(moved[0], moved[1])
        assert moved.abs().max() > 0
        assert set(fitted.state()) == {"perturbation"}
