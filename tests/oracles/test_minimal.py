"""Closed forms: the shortest perturbation of a linear, and of a piecewise-linear, classifier is known exactly."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.errors import InvalidConfig
from advbench.methods import Context, Setting
from advbench.methods.geometry import dual, lengths
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal, Norm

NORMS = {"deepfool": [Norm.L2, Norm.LINF], "carlini-wagner": [Norm.L2], "ddn": [Norm.L2], "fmn": list(Norm)}
OPTIONS: dict[str, dict[str, Any]] = {
    # An overshoot is 1.02 times the optimum by definition, so half a percent of it is asked for, or it is taken back.
    "deepfool": {"overshoot": 0.005},
    "carlini-wagner": {"max_steps": 200, "searches": 6, "initial_c": 0.02, "learning_rate": 0.001},
    "ddn": {"steps": 300, "first_length": 0.1, "gamma": 0.02},
    "fmn": {"steps": 200, "step_size": 0.1},
}
CASES = [(attack, norm) for attack, norms in NORMS.items() for norm in norms]


def interior(count: int, size: tuple[int, int] = (4, 4)) -> Tensor:
    """Images so far from 0 and 1 that a short perturbation never meets them."""
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4


def perturb(
    target: ModuleTarget, attack: str, norm: Norm, images: Tensor, ledger: QueryLedger | None = None, **options: Any
) -> Tensor:
    rows = torch.arange(len(images))
    ledger = ledger or QueryLedger(len(images))
    door = perturb_access(target, THREATS["white-box"].with_true_labels(), ledger, rows, target.labels(images))
    context = Context(Goal.DEGRADE, Budget(norm=norm), 0, images.shape[-1], target.num_classes)
    return build_method(attack, options).restore({}, context).perturb(images, door)


def linear(images: Tensor, classes: int, order: str = "as drawn", seed: int = 0) -> ModuleTarget:
    """Logits Wx + b, whose classes are all near the images; in ``order`` the nearest come first or last."""
    generator = torch.Generator().manual_seed(seed)
    values = images[0].numel()
    weight = torch.randn(classes, values, generator=generator)
    bias = -weight @ images.flatten(1).mean(dim=0) + 0.3 * torch.randn(classes, generator=generator)
    module = nn.Sequential(nn.Flatten(), nn.Linear(values, classes))
    if order != "as drawn":
        shares = (images.flatten(1) @ weight.T + bias).mean(dim=0).argsort(descending=order == "nearest first")
        weight, bias = weight[shares], bias[shares]
    module[1].weight.data, module[1].bias.data = weight, bias
    return ModuleTarget(module, classes, "linear", "linear")


def shortest_linear(weight: Tensor, scores: Tensor, norm: Norm) -> Tensor:
    """min over k of (z_y - z_k) / ||w_k - w_y||_dual, ``(batch,)``."""
    own = scores.argmax(dim=1)
    gaps = scores.amax(dim=1, keepdim=True) - scores
    order = {Norm.L2: 2, Norm.LINF: torch.inf, Norm.L1: 1}[dual(norm)]
    spans = torch.linalg.vector_norm(weight[None] - weight[own][:, None], order, dim=2)
    nearest: Tensor = (gaps / spans).scatter(1, own[:, None], torch.inf).amin(dim=1)
    return nearest


def assert_optimal(target: ModuleTarget, images: Tensor, perturbed: Tensor, norm: Norm, optimum: Tensor) -> None:
    assert (target.labels(perturbed) != target.labels(images)).all()
    ratio = lengths(perturbed - images, norm).flatten() / optimum
    assert ratio.max() <= 1.01, ratio
    assert ratio.min() >= 0.999, "shorter than the shortest there is: the oracle is wrong"


@pytest.mark.parametrize("order", ["as drawn", "nearest first", "nearest last"])
@pytest.mark.parametrize(("classes", "size"), [(2, (4, 4)), (5, (3, 7)), (40, (8, 8))])
@pytest.mark.parametrize("norm", NORMS["deepfool"])
def test_the_shortest_way_out_among_many_classes(norm: Norm, classes: int, size: tuple[int, int], order: str) -> None:
    """The nearest class is neither the one of highest score nor the last: a minimum kept wrongly over them shows."""
    images = interior(12, size)
    target = linear(images, classes, order)
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    perturbed = perturb(target, "deepfool", norm, images, candidates=classes, **OPTIONS["deepfool"])
    assert_optimal(target, images, perturbed, norm, shortest_linear(weight, target.scores(images), norm))


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_shortest_perturbation_between_two_classes(attack: str, norm: Norm) -> None:
    """Those that follow the highest other score or the cross-entropy are sure to find the nearest of two alone."""
    images = interior(8)
    target = linear(images, 2)
    weight = dict(target.module().named_parameters())["1.weight"].detach()
    perturbed = perturb(target, attack, norm, images, **OPTIONS[attack])
    assert_optimal(target, images, perturbed, norm, shortest_linear(weight, target.scores(images), norm))


class Roof(nn.Module):
    """Two classes, the second scored by the highest of several linear pieces, the first by nought.

    Where the first class is predicted it is an intersection of half-spaces, so the shortest way out of it is the
    distance to the nearest plane, however many pieces lie in between.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        highest = (images.flatten(1) @ self.weight.T + self.bias).amax(dim=1, keepdim=True)
        return torch.cat([torch.zeros_like(highest), highest], dim=1)


class Network(nn.Module):
    """One hidden layer of ReLU, ``(batch, 2)``: the distance of the images to each of its linear pieces is exact."""

    def __init__(self, direction: Tensor, thresholds: Tensor, slopes: Tensor, offset: float) -> None:
        super().__init__()
        self.direction, self.thresholds = nn.Parameter(direction), nn.Parameter(thresholds)
        self.slopes, self.offset = nn.Parameter(slopes), offset

    def forward(self, images: Tensor) -> Tensor:
        along = images.flatten(1) @ self.direction
        hidden = torch.relu(along[:, None] - self.thresholds)
        score = hidden @ self.slopes - self.offset
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_shortest_perturbation_to_the_nearest_of_several_pieces(attack: str, norm: Norm) -> None:
    """Pieces of equal scale: the highest is the nearest, and stays it along the way."""
    images = interior(8)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 48, generator=generator)
    order = {Norm.L2: 2, Norm.LINF: torch.inf, Norm.L1: 1}[dual(norm)]
    weight /= torch.linalg.vector_norm(weight, order, dim=1, keepdim=True)
    bias = -(images.flatten(1) @ weight.T).amax(dim=0) - 0.01 * torch.rand(6, generator=generator) - 0.02
    target = ModuleTarget(Roof(weight, bias), 2, "roof", "roof")
    optimum = -(images.flatten(1) @ weight.T + bias).amax(dim=1)
    assert_optimal(target, images, perturb(target, attack, norm, images, **OPTIONS[attack]), norm, optimum)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [("deepfool", Norm.L2), ("deepfool", Norm.LINF), ("ddn", Norm.L2), ("fmn", Norm.L2), ("fmn", Norm.LINF)],
)
def test_the_shortest_perturbation_through_the_kinks_of_a_network(attack: str, norm: Norm) -> None:
    """A convex score of one direction: it grows steeper at each threshold, and crosses nought at a known place.

    DeepFool's step, by the slope before the kinks, goes far beyond: a search back along it finds the place.
    """
    images = interior(8)
    direction = torch.randn(48, generator=torch.Generator().manual_seed(4))
    order = {Norm.L2: 2, Norm.LINF: torch.inf, Norm.L1: 1}[dual(norm)]
    direction /= torch.linalg.vector_norm(direction, order)
    along = images.flatten(1) @ direction
    start, top = along.min() - 0.1, along.max()
    thresholds = torch.stack([start, top + 0.01, top + 0.02])
    slopes = torch.tensor([1.0, 0.5, 2.0])
    crossing = top + 0.04
    offset = float(((crossing - thresholds) * slopes).sum())
    target = ModuleTarget(Network(direction, thresholds, slopes, offset), 2, "network", "network")
    optimum = crossing - along
    options = OPTIONS[attack] | ({"bisections": 10} if attack == "deepfool" else {})
    assert_optimal(target, images, perturb(target, attack, norm, images, **options), norm, optimum)


@pytest.mark.parametrize("norm", NORMS["deepfool"])
class TestDeepFool:
    def test_its_overshoot_is_the_only_excess_on_a_linear_classifier(self, norm: Norm) -> None:
        images = interior(6)
        target = linear(images, 5)
        weight = dict(target.module().named_parameters())["1.weight"].detach()
        optimum = shortest_linear(weight, target.scores(images), norm)
        perturbed = perturb(target, "deepfool", norm, images)
        assert torch.allclose(lengths(perturbed - images, norm).flatten() / optimum, torch.tensor(1.02), rtol=1e-3)
        back = perturb(target, "deepfool", norm, images, bisections=8)
        assert_optimal(target, images, back, norm, optimum)

    def test_one_pass_finds_the_way_and_one_sees_that_it_fools(self, norm: Norm) -> None:
        images = interior(6)
        target, ledger = linear(images, 5), QueryLedger(6)
        perturb(target, "deepfool", norm, images, ledger)
        assert (ledger.queries == 2).all(), "the label comes with the first pass"
        assert (ledger.gradients == 4 + 1).all(), "all others at first, then the nearest"
        ledger = QueryLedger(6)
        perturb(target, "deepfool", norm, images, ledger, bisections=3)
        assert (ledger.queries == 5 + 1).all(), "the last sees that what came back still fools"

    def test_results_do_not_depend_on_the_batch(self, norm: Norm) -> None:
        images = interior(9)
        target = linear(images, 6)
        whole = perturb(target, "deepfool", norm, images)
        for size in (1, 2, 4):
            parts = torch.cat([perturb(target, "deepfool", norm, part) for part in images.split(size)])
            assert torch.allclose(parts, whole, atol=1e-6)
            assert (target.labels(parts) != target.labels(images)).all()

    def test_chunks_that_bound_memory_do_not_matter(self, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
        images = interior(9)
        target = linear(images, 6)
        whole = perturb(target, "deepfool", norm, images)
        monkeypatch.setattr("advbench.methods.deepfool.GRADIENT_VALUES", 2 * 6 * 48)
        assert torch.allclose(perturb(target, "deepfool", norm, images), whole, atol=1e-6)

    def test_the_two_nearest_of_many_classes_are_enough_among_a_thousand(self, norm: Norm) -> None:
        """A random network of 1,000 classes: keeping two of the candidates costs nothing that can be measured."""
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16 * 49, 64),
            nn.Tanh(),
            nn.Linear(64, 1000),
        )
        target, images = ModuleTarget(module, 1000, "many", "many"), interior(24, (16, 16))
        sizes = {}
        for nearest in (1, 2, 19):
            perturbed = perturb(target, "deepfool", norm, images, candidates=20, nearest=nearest)
            assert (target.labels(perturbed) != target.labels(images)).all()
            sizes[nearest] = lengths(perturbed - images, norm).mean().item()
        assert sizes[2] <= 1.001 * sizes[19]

    def test_an_edge_of_the_pixel_range_is_crossed_by_no_pixel_and_stops_no_step(self, norm: Norm) -> None:
        """Black images, of whose pixels half can only fall: the distance is that along the other half."""
        images = torch.zeros(4, 3, 4, 4)
        weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(5))
        module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        module[1].weight.data = torch.cat([torch.zeros(1, 48), weight])
        module[1].bias.data = torch.tensor([0.1, 0.0])
        target = ModuleTarget(module, 2, "linear", "linear")
        order = 2 if norm is Norm.L2 else 1
        optimum = 0.1 / torch.linalg.vector_norm(weight.clamp(min=0), order)
        perturbed = perturb(target, "deepfool", norm, images, bisections=8)
        assert_optimal(target, images, perturbed, norm, optimum.expand(4))


class RoundedOtherwise(ModuleTarget):
    """Scored by one network; gradients, and the scores that come with them, are of one whose biases are a bit off."""

    def differentiable(self) -> nn.Module:
        module = self.module()
        generator = torch.Generator().manual_seed(2)
        module[1].bias.data += 3e-5 * torch.randn(self.num_classes, generator=generator)  # type: ignore[index]
        return module


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_what_fools_in_one_rounding_fools_in_the_one_that_scores(
    attack: str, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = interior(32)
    exact = linear(images, 5)
    weight = dict(exact.module().named_parameters())["1.weight"].detach()
    optimum = shortest_linear(weight, exact.scores(images), norm)
    images = images[optimum > optimum.median()]
    target = RoundedOtherwise(exact.module(), 5, "linear", "linear")
    options = OPTIONS[attack] | ({"bisections": 30} if attack == "deepfool" else {})
    perturbed = perturb(target, attack, norm, images, **options)
    assert (target.labels(perturbed) != target.labels(images)).all()
    alone = lengths(perturb(exact, attack, norm, images, **options) - images, norm)
    assert (lengths(perturbed - images, norm) <= 1.01 * alone).all()
    if attack in ("ddn", "fmn"):
        monkeypatch.setattr("advbench.methods.gradient.OVERSHOOTS", ())
        short = perturb(target, attack, norm, images, **options)
        assert (target.labels(short) == target.labels(images)).any(), "there was nothing to mend"


@pytest.mark.parametrize("attack", NORMS)
def test_labels_are_asked_for_at_the_end_also_where_the_true_class_is_told(attack: str) -> None:
    assert Capability.LABELS in build_method(attack, {"label": "true"}).needs(Goal.DEGRADE).perturb


@pytest.mark.parametrize("kappa", [0.0, 5.0])
def test_confidence_asks_nothing_of_an_image_that_is_wrong_to_begin_with(kappa: float) -> None:
    images = interior(6)
    target = linear(images, 5)
    wrong = (target.labels(images) + 1) % 5
    door = perturb_access(target, THREATS["white-box"].with_true_labels(), QueryLedger(6), torch.arange(6), wrong)
    method = build_method("carlini-wagner", {**OPTIONS["carlini-wagner"], "label": "true", "kappa": kappa})
    context = Context(Goal.DEGRADE, Budget(norm=Norm.L2), 0, 4, 5)
    assert torch.equal(method.restore({}, context).perturb(images, door), images)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_an_image_of_another_class_to_begin_with_is_left_as_it_is(attack: str, norm: Norm) -> None:
    images = interior(6)
    target = linear(images, 5)
    own = target.labels(images)
    wrong = torch.where(torch.arange(6) % 2 == 0, (own + 1) % 5, own)
    door = perturb_access(target, THREATS["white-box"].with_true_labels(), QueryLedger(6), torch.arange(6), wrong)
    context = Context(Goal.DEGRADE, Budget(norm=norm), 0, 4, 5)
    method = build_method(attack, {**OPTIONS[attack], "label": "true"})
    perturbed = method.restore({}, context).perturb(images, door)
    assert torch.equal(perturbed[::2], images[::2])
    assert (target.labels(perturbed[1::2]) != own[1::2]).all()


class Constant(nn.Module):
    """Scores that do not depend on the image."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1).sum(dim=1, keepdim=True) * 0 + self.value
        return torch.cat([first, first.expand(-1, 3) - 1], dim=1)


QUICK: dict[str, dict[str, Any]] = {"carlini-wagner": {"max_steps": 10, "searches": 2}}


@pytest.mark.parametrize("value", [1.0, float("nan")])
@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_a_constant_or_broken_classifier_leaves_images_finite(attack: str, norm: Norm, value: float) -> None:
    images = interior(3)
    perturbed = perturb(
        ModuleTarget(Constant(value), 4, "constant", "constant"), attack, norm, images, **QUICK.get(attack, {})
    )
    assert torch.isfinite(perturbed).all()


@pytest.mark.parametrize(("attack", "norm"), [(a, n) for a in NORMS for n in Norm if n not in NORMS[a]])
def test_a_norm_that_is_not_minimised_is_refused(attack: str, norm: Norm) -> None:
    with pytest.raises(InvalidConfig, match="--norm l2"):
        build_method(attack, {}).resolve(Setting(Goal.DEGRADE, Budget(norm=norm), 32, "resnet18"))


def test_a_budget_holds_the_shortest_perturbation_to_it() -> None:
    images = interior(6)
    target = linear(images, 5)
    full = lengths(perturb(target, "deepfool", Norm.L2, images) - images).flatten()
    door = perturb_access(target, THREATS["white-box"], QueryLedger(6), torch.arange(6), target.labels(images))
    context = Context(Goal.DEGRADE, Budget(norm=Norm.L2, epsilon=float(full.median())), 0, 4, 5)
    held = lengths(build_method("deepfool", {}).restore({}, context).perturb(images, door) - images).flatten()
    assert torch.allclose(held, full.clamp(max=float(full.median())), rtol=1e-4)
