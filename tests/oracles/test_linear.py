"""Closed forms: on a linear classifier the best step, and what it gains, are known exactly."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.methods import Context
from advbench.methods.geometry import dual, lengths, project, unit_step
from advbench.metrics import mean_average_precision, perturbation_sizes, proportion, structural_similarity, to_uint8
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

MakeTarget = Callable[..., ModuleTarget]
IMAGES = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
ROWS = torch.arange(32)


def perturb(target: ModuleTarget, attack: str, budget: Budget, goal: Goal, **options: object) -> torch.Tensor:
    truth = target.labels(IMAGES)
    threat = THREATS["white-box"].with_true_labels()
    door = perturb_access(target, threat, QueryLedger(32), ROWS, truth)
    context = Context(goal, budget, 0, 4, target.num_classes)
    return build_method(attack, dict(options)).restore({}, context).perturb(IMAGES, door)


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_two_classes_under_linf_move_the_margin_by_epsilon_times_the_weights_l1(
    attack: str, goal: Goal, linear_target: MakeTarget
) -> None:
    """For logits Wx + b of two classes, the margin moves by at most epsilon ||w1 - w0||_1: the sign step reaches it."""
    target = linear_target(classes=2)
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    gain = (weight[1] - weight[0]).abs().sum()
    margins = []
    for images in (IMAGES, perturb(target, attack, Budget(epsilon=0.1), goal)):
        scores = target.scores(images)
        predicted = target.labels(IMAGES)
        margins.append(scores.gather(1, predicted[:, None]) - scores.gather(1, 1 - predicted[:, None]))
    moved = (margins[1] - margins[0]).flatten()
    expected = (-1 if goal is Goal.DEGRADE else 1) * 0.1 * gain
    assert torch.allclose(moved, expected.expand_as(moved), atol=1e-4)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_two_classes_under_l2_move_the_margin_by_epsilon_times_the_weights_l2(
    attack: str, linear_target: MakeTarget
) -> None:
    target = linear_target(classes=2)
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    perturbed = perturb(target, attack, Budget(norm=Norm.L2, epsilon=0.2), Goal.DEGRADE, **_exact(attack))
    before, after = target.scores(IMAGES), target.scores(perturbed)
    moved = ((after - before)[:, 1] - (after - before)[:, 0]).abs()
    assert torch.allclose(moved, 0.2 * (weight[1] - weight[0]).norm().expand_as(moved), rtol=1e-3)


def _exact(attack: str) -> dict[str, object]:
    return {"random_start": False} if attack == "pgd" else {}


@pytest.mark.parametrize("label", ["predicted", "true"])
def test_fgsm_is_the_sign_of_the_cross_entropys_gradient(label: str, linear_target: MakeTarget) -> None:
    """The gradient of the cross-entropy of a linear model is W^T (softmax - onehot), whatever the class order."""
    target = linear_target(classes=7)
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    residual = target.scores(IMAGES).softmax(1) - F.one_hot(target.labels(IMAGES), 7)
    expected = IMAGES + 0.05 * (residual @ weight).view_as(IMAGES).sign()
    assert torch.allclose(perturb(target, "fgsm", Budget(epsilon=0.05), Goal.DEGRADE, label=label), expected, atol=1e-6)


class TestGeometry:
    @pytest.mark.parametrize("norm", Norm)
    def test_a_projection_is_the_nearest_point_of_the_ball(self, norm: Norm) -> None:
        generator = torch.Generator().manual_seed(0)
        delta = torch.randn(40, 3, 2, 2, generator=generator)
        nearest = project(delta, norm, 0.7)
        assert (lengths(nearest, norm) <= 0.7 * (1 + 1e-5)).all()
        inside = project(0.01 * delta, norm, 0.7)
        assert torch.allclose(inside, 0.01 * delta, atol=1e-7)
        for _ in range(50):  # no point of the ball is nearer (variational inequality of a projection on a convex set)
            other = project(torch.randn(delta.shape, generator=generator), norm, 0.7)
            product = ((delta - nearest) * (other - nearest)).flatten(1).sum(dim=1)
            assert (product <= 1e-4).all()

    @pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
    def test_a_unit_step_gains_the_dual_norm(self, norm: Norm) -> None:
        gradient = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        step = unit_step(gradient, norm)
        assert torch.allclose(lengths(step, norm), torch.ones(8, 1, 1, 1))
        gain = (step * gradient).flatten(1).sum(dim=1)
        assert torch.allclose(gain, lengths(gradient, dual(norm)).flatten(), rtol=1e-5)

    def test_each_sample_may_have_its_own_radius(self) -> None:
        delta = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        radii = torch.linspace(0, 1, 5).view(-1, 1, 1, 1)
        for norm in Norm:
            alone = torch.cat([project(delta[[i]], norm, float(radii[i])) for i in range(5)])
            assert torch.allclose(project(delta, norm, radii), alone, atol=1e-6)


class TestMetrics:
    def test_sizes_of_a_known_perturbation(self) -> None:
        clean = torch.zeros(2, 3, 2, 2)
        perturbed = clean.clone()
        perturbed[0, 0, 0, 0], perturbed[0, 1, 1, 1] = 0.3, -0.4
        sizes = perturbation_sizes(clean, perturbed)
        assert_allclose(sizes.l1, [0.7, 0], rtol=1e-6)
        assert_allclose(sizes.l2, [0.5, 0], rtol=1e-6)
        assert_allclose(sizes.linf, [0.4, 0], rtol=1e-6)
        assert_allclose(sizes.rmsd, [0.5 / 12**0.5, 0], rtol=1e-6)
        assert_allclose(sizes.psnr, [-20 * np.log10(0.5 / 12**0.5), np.inf], rtol=1e-6)

    def test_similarity_is_one_for_equal_images_and_less_for_others(self) -> None:
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert_allclose(structural_similarity(images, images), np.ones(3), rtol=1e-5)
        assert (structural_similarity(images, 1 - images) < 0.5).all()

    def test_eight_bits_are_rounded_and_not_cut(self) -> None:
        levels = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.2, -0.1])
        assert_allclose(to_uint8(levels) * 255, [0, 0, 1, 255, 255, 0], atol=1e-4)

    @pytest.mark.parametrize(
        ("hits", "count", "low", "high"),
        [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (500, 1000, 0.4691, 0.5309)],
    )
    def test_wilson_intervals(self, hits: int, count: int, low: float, high: float) -> None:
        share = proportion(np.arange(count) < hits)
        assert_allclose(share, (hits / count, low, high), atol=1e-4)

    def test_no_samples_have_no_share(self) -> None:
        assert np.isnan(proportion(np.zeros(0, dtype=bool)).value)

    def test_mean_average_precision_does_not_hang_on_how_sure_the_target_is(self) -> None:
        """Between two classes, scaled logits rank as they did, though float32 rounds most of their softmax to 1."""
        torch.manual_seed(0)
        margins, labels = torch.randn(200), torch.randint(0, 2, (200,))
        logits = torch.stack([margins + labels, torch.zeros(200)], dim=1)
        plain, sure = (
            mean_average_precision((scale * logits).softmax(dim=1).numpy(), 1 - labels.numpy()) for scale in (1, 20)
        )
        assert ((20 * logits).softmax(dim=1) == 1).float().mean() > 0.2
        assert_allclose(sure, plain, rtol=1e-12)

    def test_mean_average_precision_by_hand(self) -> None:
        # Class 0 ranks its two samples 1st and 3rd: (1/1 + 2/3) / 2; class 1 its one first: 1. Class 2 is absent.
        probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.7, 0.3, 0.0]], dtype=np.float32)
        probabilities[1, 1], probabilities[2, 1] = 0.2, 0.3
        labels = np.array([0, 0, 1])
        expected = ((1 + 2 / 3) / 2 + 1) / 2
        assert_allclose(mean_average_precision(probabilities, labels), expected)
