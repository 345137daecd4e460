"""Closed forms for PGD's options, the momentum family and the attacks that see scores alone, on linear classifiers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.bench.evaluate import check_perturbed
from advbench.errors import InvalidConfig
from advbench.methods import Context, Setting
from advbench.methods.geometry import clip_to_budget, lengths
from advbench.methods.nes import NES
from advbench.methods.simba import SimBA
from advbench.methods.walk import Walk
from advbench.targets import FunctionTarget, ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

MakeTarget = Callable[..., ModuleTarget]
COUNT = 32
IMAGES = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
ROWS = torch.arange(COUNT)
L1 = Budget(norm=Norm.L1, epsilon=0.2)


def perturb(
    target: ModuleTarget, attack: str, budget: Budget, options: dict[str, Any] | None = None, *,
    goal: Goal = Goal.DEGRADE, ledger: QueryLedger | None = None, threat: str = "white-box",
) -> torch.Tensor:  # fmt: skip
    ledger = ledger or QueryLedger(COUNT)
    door = perturb_access(target, THREATS[threat].with_true_labels(), ledger, ROWS, target.labels(IMAGES))
    method = build_method(attack, options or {}).resolve(Setting(goal, budget, 4, "linear"))
    perturber = method.restore({}, Context(goal, budget, 0, 4, target.num_classes))
    return perturber.perturb(IMAGES, door)


def weights_between(target: ModuleTarget) -> torch.Tensor:
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    return weight[1] - weight[0]


def margin_moved(target: ModuleTarget, perturbed: torch.Tensor) -> torch.Tensor:
    """How much further each image is on the other side of a two-class boundary."""
    before, after = target.scores(IMAGES), target.scores(perturbed)
    moved = (after - before)[:, 1] - (after - before)[:, 0]
    return torch.where(target.labels(IMAGES) == 0, moved, -moved)


def test_an_l1_projection_is_the_nearest_of_the_ball_and_of_valid_images() -> None:
    generator = torch.Generator().manual_seed(0)
    budget = Budget(norm=Norm.L1, epsilon=2)
    clean = torch.rand(40, 3, 2, 2, generator=generator).round(decimals=1).clamp(0.2, 0.9)
    wanted = clean + torch.randn(clean.shape, generator=generator)
    nearest = clip_to_budget(wanted, clean, budget)
    assert (lengths(nearest - clean, Norm.L1) <= 2 * (1 + 1e-6)).all()
    for _ in range(50):  # no point of the convex set is nearer (variational inequality)
        other = clip_to_budget(clean + torch.randn(clean.shape, generator=generator), clean, budget)
        product = ((wanted - nearest) * (other - nearest)).flatten(1).sum(dim=1)
        assert (product <= 1e-4).all()
    inside = clean + 0.01 * (wanted - clean)
    assert torch.allclose(clip_to_budget(inside, clean, budget), inside.clamp(0, 1), atol=1e-6)


def test_rounding_of_many_small_moves_stays_within_an_l1_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, epsilon in ((32, 20.0), (32, 1.0), (96, 60.0)):
        clean = torch.rand(4, 3, size, size, generator=generator).round(decimals=2)
        moved, budget = torch.randn(clean.shape, generator=generator), Budget(norm=Norm.L1, epsilon=epsilon)
        nearest = clip_to_budget(clean + epsilon * moved / lengths(moved, Norm.L1), clean, budget)
        check_perturbed(nearest, clean, budget)
        assert (lengths(nearest.double() - clean, Norm.L1) <= epsilon * (1 + 5e-7)).all()


class TestPGD:
    @pytest.mark.parametrize("options", [{"restarts": 3}, {"towards": "next"}, {"towards": "least-likely"},
                                         {"towards": "random"}, {"towards": "random", "restarts": 2}])  # fmt: skip
    def test_restarts_and_the_other_of_two_classes_reach_the_known_margin(
        self, options: dict[str, Any], linear_target: MakeTarget
    ) -> None:
        target = linear_target(classes=2)
        moved = margin_moved(target, perturb(target, "pgd", Budget(epsilon=0.1), options))
        assert torch.allclose(moved, 0.1 * weights_between(target).abs().sum(), atol=1e-4)

    def test_under_l1_all_goes_into_the_heaviest_value(self, linear_target: MakeTarget) -> None:
        """Within [0, 1] with room to spare, the margin moves by at most epsilon times the weights' largest."""
        target = linear_target(classes=2)
        moved = margin_moved(target, perturb(target, "pgd", L1, {"random_start": False}))
        assert torch.allclose(moved, 0.2 * weights_between(target).abs().max(), rtol=1e-3)

    @pytest.mark.parametrize("random_start", [True, False])
    def test_under_l1_with_little_room_the_heaviest_values_fill_up(
        self, random_start: bool, linear_target: MakeTarget
    ) -> None:
        """The optimum fills values up to the edge of [0, 1], the heaviest first, until epsilon is used up."""
        target, budget = linear_target(classes=2), Budget(norm=Norm.L1, epsilon=4)
        difference = weights_between(target)
        signs = torch.where(target.labels(IMAGES) == 0, 1, -1).view(-1, 1) * difference.sign()
        room = torch.where(signs > 0, 1 - IMAGES.flatten(1), IMAGES.flatten(1))
        order = difference.abs().argsort(descending=True)
        ordered = room[:, order]
        used = torch.minimum(ordered, (4 - ordered.cumsum(1) + ordered).clamp(min=0))
        optimum = (used * difference.abs()[order]).sum(dim=1)
        options = {"steps": 50, "random_start": random_start}
        moved = margin_moved(target, perturb(target, "pgd", budget, options))
        assert (moved / optimum).min() > 0.97
        assert (moved / optimum).max() < 1 + 1e-5

    def test_the_class_to_reach_is_the_one_that_is_asked_for(self, linear_target: MakeTarget) -> None:
        target = linear_target(classes=6)
        scores = target.scores(IMAGES)
        for towards, expected in (("least-likely", scores.argmin(1)), ("next", scores.topk(2, dim=1).indices[:, 1])):
            perturbed = perturb(target, "pgd", Budget(epsilon=1.0), {"towards": towards, "steps": 30})
            assert torch.equal(target.labels(perturbed), expected)
        reached = target.labels(perturb(target, "pgd", Budget(epsilon=1.0), {"towards": "random", "steps": 30}))
        assert (reached != scores.argmax(1)).all()
        assert len(reached.unique()) > 3

    def test_more_restarts_are_never_worse(self, linear_target: MakeTarget) -> None:
        target = linear_target(classes=6)
        labels, losses = target.labels(IMAGES), [torch.zeros(COUNT)]
        fooled = [torch.zeros(COUNT, dtype=torch.bool)]
        for restarts in (1, 2, 5):
            options = {"restarts": restarts, "steps": 1, "relative_step": 0.5}
            scores = target.scores(perturb(target, "pgd", Budget(epsilon=0.05), options))
            losses.append(F.cross_entropy(scores, labels, reduction="none"))
            fooled.append(scores.argmax(1) != labels)
            assert (fooled[-1] | ~fooled[-2]).all()
            assert ((losses[-1] >= losses[-2] - 1e-6) | (fooled[-1] & ~fooled[-2])).all()
        assert (losses[-1] > losses[1] + 1e-4).any()

    @pytest.mark.parametrize("norm", Norm)
    def test_those_fooled_leave_and_are_as_many(self, norm: Norm, linear_target: MakeTarget) -> None:
        target, ledgers = linear_target(classes=6), (QueryLedger(COUNT), QueryLedger(COUNT))
        budget = Budget(norm=norm, epsilon={Norm.LINF: 0.05, Norm.L2: 0.25, Norm.L1: 1.0}[norm])
        whole, short = (
            perturb(target, "pgd", budget, {"label": "true", "stop_when_fooled": stops}, ledger=ledger)
            for ledger, stops in zip(ledgers, (False, True), strict=True)
        )
        labels = target.labels(IMAGES)
        fooled = target.labels(whole) != labels
        assert 0 < fooled.float().mean() < 1, "the budget shows nothing"
        assert torch.equal(target.labels(short) != labels, fooled)
        assert (ledgers[0].queries == 20).all()
        assert (ledgers[1].queries[fooled] < 20).any()
        assert (ledgers[1].queries[~fooled] == 20).all()
        assert torch.equal(ledgers[1].queries, ledgers[1].gradients)

    def test_restarts_are_only_for_those_that_are_left(self, linear_target: MakeTarget) -> None:
        target, ledger = linear_target(classes=6), QueryLedger(COUNT)
        options = {"restarts": 3, "stop_when_fooled": True, "label": "true"}
        perturbed = perturb(target, "pgd", Budget(epsilon=0.05), options, ledger=ledger)
        left = target.labels(perturbed) == target.labels(IMAGES)
        assert (ledger.queries[left] == 3 * (20 + 1)).all()
        assert (ledger.queries[~left] < 3 * (20 + 1)).all()

    @pytest.mark.parametrize(
        ("goal", "options", "words"),
        [
            (Goal.ENHANCE, {"towards": "next"}, "--towards next"),
            (Goal.ENHANCE, {"stop_when_fooled": True}, "--stop-when-fooled"),
            (Goal.DEGRADE, {"restarts": 2, "random_start": False}, "--restarts"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self, goal: Goal, options: dict[str, Any], words: str, linear_target: MakeTarget
    ) -> None:
        with pytest.raises(InvalidConfig, match=words):
            perturb(linear_target(), "pgd", Budget(epsilon=0.1), options, goal=goal)


class TestMomentum:
    @pytest.mark.parametrize("goal", Goal)
    @pytest.mark.parametrize("attack", ["di-fgsm", "mi-fgsm", "ni-fgsm", "si-ni-fgsm", "vmi-fgsm"])
    def test_two_classes_move_by_epsilon_times_the_weights_l1(
        self, attack: str, goal: Goal, linear_target: MakeTarget
    ) -> None:
        """A linear model's gradient has the same signs everywhere, which no part of the family may disturb."""
        target = linear_target(classes=2)
        options = {"diversity": 0.0} if attack == "di-fgsm" else {}
        moved = margin_moved(target, perturb(target, attack, Budget(epsilon=0.1), options, goal=goal))
        sign = 1 if goal is Goal.DEGRADE else -1
        assert torch.allclose(moved, sign * 0.1 * weights_between(target).abs().sum(), atol=1e-4)

    @pytest.mark.parametrize("attack", ["mi-fgsm", "ni-fgsm", "vmi-fgsm"])
    def test_under_l2_by_epsilon_times_the_weights_l2(self, attack: str, linear_target: MakeTarget) -> None:
        target = linear_target(classes=2)
        moved = margin_moved(target, perturb(target, attack, Budget(norm=Norm.L2, epsilon=0.2)))
        assert torch.allclose(moved, 0.2 * weights_between(target).norm(), rtol=1e-3)


class TestNES:
    def test_the_estimate_comes_to_the_gradient(self, linear_target: MakeTarget) -> None:
        """With m directions in d dimensions, the estimate's relative error is about sqrt((d + 1) / m)."""
        target = linear_target(classes=2)
        images, rows = IMAGES[:4], ROWS[:4]
        door = perturb_access(target, THREATS["black-box-scores"], QueryLedger(4), rows, rows)
        context, errors = Context(Goal.DEGRADE, Budget(epsilon=0.1), 0, 4, 2), []
        aim = NES().aim_by(target.scores(images), door, context)
        sign = torch.where(aim.classes == 0, 1, -1).view(-1, 1)
        exact = (sign * weights_between(target)).view_as(images)  # of the log-odds, which are the difference of logits
        for directions in (50, 500, 5000):
            method = NES(directions=directions, sigma=0.01)
            estimate = method.estimate(Walk(images, images, aim, rows), door, context, turn=0)
            errors.append((lengths(estimate - exact) / lengths(exact)).mean().item())
            assert errors[-1] == pytest.approx((49 / directions) ** 0.5, rel=0.4)
        assert errors[-1] < 0.13

    def test_steps_move_the_margin_nearly_as_far_as_true_gradients(self, linear_target: MakeTarget) -> None:
        target = linear_target(classes=2)
        options = {"queries": 4010, "directions": 200, "sigma": 0.01}
        perturbed = perturb(target, "nes", Budget(norm=Norm.L2, epsilon=0.02), options, threat="black-box-scores")
        moved, most = margin_moved(target, perturbed), 0.02 * weights_between(target).norm()
        stayed = target.labels(perturbed) == target.labels(IMAGES)
        assert stayed.any()
        assert (moved[stayed] > 0.9 * most).all()

    def test_queries_are_those_announced(self, linear_target: MakeTarget) -> None:
        target, ledger = linear_target(classes=5), QueryLedger(COUNT)
        options = {"queries": 47, "directions": 4}
        perturbed = perturb(target, "nes", Budget(epsilon=0.02), options, ledger=ledger, threat="black-box-scores")
        left = target.labels(perturbed) == target.labels(IMAGES)
        assert ledger.queries.max() == 45  # five steps of 1 + 2 * 4
        assert (ledger.queries[left] == 45).all()
        assert set(ledger.queries.tolist()) <= {1 + 9 * steps for steps in range(5)} | {45}
        assert not ledger.gradients.any()


class TestSimBA:
    BUDGET = Budget(norm=Norm.L2, epsilon=0.6)

    @pytest.mark.parametrize("basis", ["pixel", "dct"])
    def test_more_queries_never_undo_what_was_gained(self, basis: str, linear_target: MakeTarget) -> None:
        target = linear_target(classes=3)
        labels = target.labels(IMAGES).view(-1, 1)
        before = torch.full((COUNT,), torch.inf)
        for queries in (1, 2, 3, 9, 30, 31, 90):
            options = {"queries": queries, "basis": basis, "step": 0.05, "frequencies": 1.0}
            perturbed = perturb(target, "simba", self.BUDGET, options, threat="black-box-scores")
            likely = target.scores(perturbed).log_softmax(1).gather(1, labels).squeeze(1)
            assert (likely <= before + 1e-6).all()
            assert queries > 1 or torch.equal(perturbed, IMAGES)
            before = likely

    @pytest.mark.parametrize("basis", ["pixel", "dct"])
    def test_all_of_a_linear_models_directions_are_found(self, basis: str, linear_target: MakeTarget) -> None:
        """Each direction of an orthonormal basis is tried both ways: one of the two helps, by step times its weight."""
        target = linear_target(classes=2)
        options = {"basis": basis, "step": 0.001, "frequencies": 1.0, "queries": 97}
        perturbed = perturb(target, "simba", self.BUDGET, options, threat="black-box-scores")
        vectors = SimBA(basis=basis, frequencies=1.0)._direction(torch.arange(48), IMAGES).flatten(1)
        assert torch.allclose(vectors @ vectors.T, torch.eye(48), atol=1e-5)
        stayed = target.labels(perturbed) == target.labels(IMAGES)
        steps = (perturbed - IMAGES).flatten(1) @ vectors.T / 0.001
        helps = torch.where(target.labels(IMAGES) == 0, 1, -1).view(-1, 1) * (vectors @ weights_between(target)).sign()
        assert stayed.any()
        assert ((steps * helps)[stayed] > 0.99).all()

    def test_queries_are_counted_exactly_and_the_limit_is_kept(self, linear_target: MakeTarget) -> None:
        target = linear_target(classes=5)
        asked: list[int] = []
        target._module.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
        for queries in (1, 2, 17, 50):
            ledger, own = QueryLedger(COUNT), target.labels(IMAGES)
            asked.clear()
            options = {"queries": queries, "step": 0.02}
            perturbed = perturb(target, "simba", self.BUDGET, options, ledger=ledger, threat="black-box-scores")
            assert int(ledger.queries.sum()) == sum(asked) - COUNT  # but for the labels that the test itself asks
            left = target.labels(perturbed) == own
            assert (ledger.queries[left] == queries).all()
            assert (ledger.queries <= queries).all()

    def test_to_enhance_it_uses_all_queries(self, linear_target: MakeTarget) -> None:
        target, ledger = linear_target(classes=5), QueryLedger(COUNT)
        perturbed = perturb(target, "simba", self.BUDGET, {"queries": 30}, goal=Goal.ENHANCE, ledger=ledger)
        labels = target.labels(IMAGES).view(-1, 1)
        after, before = (target.scores(images).softmax(1).gather(1, labels) for images in (perturbed, IMAGES))
        assert (after > before).all()
        assert (ledger.queries == 30).all()


@pytest.mark.parametrize("attack", ["pgd", "mi-fgsm", "vmi-fgsm", "nes", "simba"])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_constant_model_and_nan_scores_end_in_valid_images(
    attack: str, norm: Norm, value: float, linear_target: MakeTarget
) -> None:
    target = linear_target()
    for parameter in target._module.parameters():
        parameter.fill_(value)
    budget = Budget(norm=norm, epsilon=0.1)
    options = {"queries": 60} if attack in ("nes", "simba") else {}
    perturbed = perturb(target, attack, budget, options)
    assert value != value or torch.isfinite(perturbed).all()
    assert perturbed.shape == IMAGES.shape


@pytest.mark.parametrize("goal", Goal)
def test_nes_without_queries_for_a_step_is_refused(goal: Goal, linear_target: MakeTarget) -> None:
    with pytest.raises(InvalidConfig, match="--queries 50 make no step of nes with --directions 25, which takes 51"):
        perturb(linear_target(), "nes", Budget(epsilon=0.1), {"queries": 50}, goal=goal)


@pytest.mark.parametrize("attack", ["nes", "simba", "square"])
def test_a_function_is_asked_about_images_alone(attack: str) -> None:
    """At least one, each in [0, 1]: a service that answers for each image has nothing to say of none."""
    images = torch.rand(4, 3, 4, 4).round()

    def score(image: torch.Tensor) -> torch.Tensor:
        assert image.min() >= 0
        assert image.max() <= 1
        return image.flatten()[:3]

    target = FunctionTarget(lambda asked: torch.stack([score(image) for image in asked]), 3, outputs="scores")
    for count in (1, 4):
        door = perturb_access(
            target, THREATS["black-box-scores"], QueryLedger(count), torch.arange(count), target.labels(images[:count])
        )
        budget = Budget(norm=Norm.L2, epsilon=0.5)
        method = build_method(attack, {"queries": 60}).resolve(Setting(Goal.DEGRADE, budget, 4, "unknown"))
        moved = method.restore({}, Context(Goal.DEGRADE, budget, 0, 4, 3)).perturb(images[:count], door)
        assert moved.shape == images[:count].shape


@pytest.mark.parametrize(
    ("attack", "goal", "options", "words"),
    [
        ("gap", Goal.ENHANCE, {"aim": "least-likely"}, "--aim least-likely leads away from the right class"),
        ("atn", Goal.ENHANCE, {"target_class": 3}, "--target-class leads away from the right class"),
        ("autoattack", Goal.DEGRADE, {"eot": 50}, "--eot is of --version rand: --version standard would ignore it"),
        ("autoattack", Goal.DEGRADE, {"version": "rand", "queries": 10}, "--queries is of --version standard"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    attack: str, goal: Goal, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidConfig, match=words):
        build_method(attack, options).resolve(Setting(goal, Budget(epsilon=0.1), 32, "resnet18"))
