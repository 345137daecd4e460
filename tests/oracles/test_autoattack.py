"""AutoAttack and its parts where the answer is known: linear targets, sums by hand, useless answers."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.errors import InvalidConfig
from advbench.methods import Context
from advbench.methods.ascent import checkpoints
from advbench.methods.geometry import dual, lengths
from advbench.methods.hyperplane import to_hyperplane
from advbench.methods.margins import dlr, margin, targeted_dlr
from advbench.methods.square import bump, side
from advbench.seeding import per_sample_normal, stepwise_uniform
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal, Norm

COUNT = 32
IMAGES = torch.rand(COUNT, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
QUICK: dict[str, dict[str, object]] = {
    "apgd-ce": {"steps": 40},
    "apgd-dlr": {"steps": 40},
    "apgd-t": {"steps": 30},
    "autoattack": {"steps": 30, "queries": 20},
    "fab-t": {"steps": 30},
    "square": {"queries": 50},
}
NORMS = [Norm.LINF, Norm.L2]


def linear(classes: int) -> ModuleTarget:
    """A linear target whose classes all meet in the grey image, so that the images are near its boundaries."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(48, classes)
    layer.weight.data = (torch.rand(classes, 48, generator=generator) * 2 - 1) / 48**0.5
    layer.bias.data = -layer.weight.data.sum(dim=1) / 2
    return ModuleTarget(nn.Sequential(nn.Flatten(), layer), classes, "linear", "linear")


def weights(target: ModuleTarget) -> Tensor:
    return dict(target.module().named_parameters())["1.weight"].detach().view(-1, 3, 4, 4)


def perturb(
    target: ModuleTarget, attack: str, budget: Budget, goal: Goal = Goal.DEGRADE, images: Tensor = IMAGES,
    ledger: QueryLedger | None = None, labels: Tensor | None = None, **options: object,
) -> Tensor:  # fmt: skip
    rows = torch.arange(len(images))
    truth = target.labels(images) if labels is None else labels
    door = perturb_access(
        target, THREATS["white-box"].with_true_labels(), ledger or QueryLedger(len(images)), rows, truth
    )
    context = Context(goal, budget, 0, 4, target.num_classes)
    return build_method(attack, {**QUICK[attack], **options}).restore({}, context).perturb(images, door)


def distances(target: ModuleTarget, norm: Norm) -> Tensor:
    """How far each image is from the nearest other class, [0, 1] not being in the way: margin over dual norm."""
    own, scores, weight = target.labels(IMAGES), target.scores(IMAGES), weights(target)
    apart = (weight[None] - weight[own][:, None]).flatten(0, 1)
    gains = lengths(apart, dual(norm)).view(scores.shape)
    return ((scores.gather(1, own[:, None]) - scores) / gains).scatter(1, own[:, None], torch.inf).amin(dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-dlr"])
def test_apgd_reaches_the_optimum_on_a_linear_target(attack: str, norm: Norm) -> None:
    """The margin of one class over another moves by at most epsilon times the weights' dual norm."""
    target = linear(classes=3 if attack == "apgd-dlr" else 2)
    own, nearest, weight = target.labels(IMAGES), distances(target, norm), weights(target)
    epsilon = nearest.median().item()
    perturbed = perturb(target, attack, Budget(norm=norm, epsilon=epsilon), loss=attack[5:])
    left = target.labels(perturbed) != own
    assert left[nearest < epsilon * (1 - 1e-3)].all()
    assert not left[nearest > epsilon * (1 + 1e-5)].any()
    if attack == "apgd-ce":
        gain = epsilon * lengths((weight[1] - weight[0])[None], dual(norm)).item()
        for goal, held in ((Goal.DEGRADE, ~left), (Goal.ENHANCE, torch.ones_like(left))):
            perturbed = perturb(target, attack, Budget(norm=norm, epsilon=epsilon), goal)
            moved = margin(target.scores(perturbed), own) - margin(target.scores(IMAGES), own)
            expected = gain if goal is Goal.DEGRADE else -gain
            assert torch.allclose(moved[held], torch.full_like(moved[held], expected), rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["apgd-t", "autoattack", "fab-t"])
def test_exactly_the_images_within_reach_are_fooled(attack: str, norm: Norm) -> None:
    target = linear(classes=6)
    nearest = distances(target, norm)
    epsilon = nearest.median().item()
    perturbed = perturb(target, attack, Budget(norm=norm, epsilon=epsilon))
    left = target.labels(perturbed) != target.labels(IMAGES)
    sure = (nearest / epsilon - 1).abs() > 0.01
    assert torch.equal(left[sure], (nearest <= epsilon)[sure])


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("classes", [2, 6])
def test_fab_finds_the_shortest_perturbations(norm: Norm, classes: int) -> None:
    target = linear(classes=classes)
    perturbed = perturb(target, "fab-t", Budget(norm=norm))
    nearest = distances(target, norm)
    reachable = nearest < 0.29  # further than this, [0, 1] may be in the way
    assert reachable.sum() > COUNT / 4, nearest
    assert (target.labels(perturbed) != target.labels(IMAGES))[reachable].all()
    found = lengths(perturbed - IMAGES, norm).flatten()
    assert (found <= 1.01 * nearest)[reachable].all()


def test_already_wrong_images_are_left_alone() -> None:
    target = linear(classes=6)
    labels = target.labels(IMAGES)
    labels[::2] = (labels[::2] + 1) % 6
    for attack in QUICK:
        perturbed = perturb(target, attack, Budget(epsilon=0.03), labels=labels, label="true")
        assert torch.equal(perturbed[::2], IMAGES[::2]), attack


@pytest.mark.parametrize("norm", NORMS)
def test_square_keeps_to_its_queries_and_only_gets_better(norm: Norm) -> None:
    """The proposals of a longer search begin with those of a shorter one."""
    target, budget = linear(classes=4), Budget(norm=norm, epsilon=0.03 if norm is Norm.LINF else 0.15)
    own, reached = target.labels(IMAGES), []
    for queries in (1, 5, 25, 125):
        ledger = QueryLedger(COUNT)
        perturbed = perturb(target, "square", budget, ledger=ledger, queries=queries)
        reached.append(margin(target.scores(perturbed), own))
        assert ledger.queries.max() <= queries + 1
        assert ledger.gradients.sum() == 0
    left = reached[0] > 0
    for before, after in pairwise(reached):
        assert (after >= before).all()
        assert torch.equal(after[left], before[left])
        left = after > 0
    assert (reached[-1] > reached[0] + 1e-3).float().mean() > 0.5


def test_square_needs_no_more_than_scores() -> None:
    method = build_method("square", {})
    assert THREATS["black-box-scores"].lacks(method.needs(Goal.DEGRADE)) is None
    assert THREATS["black-box-labels"].lacks(method.needs(Goal.DEGRADE)) is not None


def test_squares_shrink_by_the_papers_schedule() -> None:
    assert [side(0.8, proposal, 32, 32, Norm.LINF) for proposal in (0, 10, 11, 51, 201, 4001)] == [
        29,
        29,
        20,
        14,
        10,
        3,
    ]
    assert side(0.8, 9000, 32, 32, Norm.LINF) == 1
    assert side(0.8, 9000, 32, 32, Norm.L2) == 3
    assert bump(5).norm() == pytest.approx(1)
    assert bump(1).shape == (1, 1)


@pytest.mark.parametrize("kind", ["constant", "nan"])
@pytest.mark.parametrize("attack", QUICK)
def test_targets_that_answer_nothing_useful(attack: str, kind: str) -> None:
    class Mute(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores = 0 * images.flatten(1)[:, :6]
            return scores if kind == "constant" else scores + torch.nan

    target = ModuleTarget(Mute(), 6)
    for norm in NORMS:
        perturbed = perturb(target, attack, Budget(norm=norm, epsilon=0.1))
        assert torch.isfinite(perturbed).all()
        assert (lengths(perturbed - IMAGES, norm) <= 0.1 * (1 + 1e-5)).all()


class TestAutoAttack:
    def test_gradients_are_averaged_over_passes_for_a_random_target(self) -> None:
        class Noisy(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.flatten(1)[:, :6] + 0.05 * torch.randn(len(images), 6)

        target, ledger = ModuleTarget(Noisy(), 6), QueryLedger(COUNT)
        labels = IMAGES.flatten(1)[:, :6].argmax(dim=1)
        torch.manual_seed(0)
        budget = Budget(epsilon=1e-4)
        perturb(
            target, "autoattack", budget, ledger=ledger, version="rand", eot=5, steps=2, label="true", labels=labels
        )
        counted = ledger.gradients.unique().tolist()
        assert set(counted) <= {0, 5, 10, 15, 20, 25, 30}
        assert max(counted) == 2 * 3 * 5  # two losses, a start and two steps, five passes each

    def test_notes_say_what_each_part_did(self) -> None:
        target = linear(classes=6)
        context = Context(Goal.DEGRADE, Budget(epsilon=0.03), 0, 4, 6)
        perturber = build_method("autoattack", QUICK["autoattack"]).restore({}, context)
        door = perturb_access(target, THREATS["white-box"], QueryLedger(COUNT), torch.arange(COUNT), torch.zeros(COUNT))
        perturbed = perturber.perturb(IMAGES, door)
        fooled = int((target.labels(perturbed) != target.labels(IMAGES)).sum())
        (note,) = perturber.notes()
        assert note.startswith(f"images fooled of {COUNT}: apgd-ce ")
        assert sum(int(part.split()[-1]) for part in note.split(": ")[1].split(", then ")) == fooled

    def test_square_doing_better_than_gradients_is_remarked_on(self) -> None:
        """A staircase has no gradient, and Square does not mind."""

        class Staircase(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                steps = (images * 40).floor().flatten(1) / 40 + 0 * images.flatten(1)
                return torch.stack([0.5 * torch.ones(len(images)), *steps.T[:5]], dim=1)

        context = Context(Goal.DEGRADE, Budget(epsilon=0.2), 0, 4, 6)
        target = ModuleTarget(Staircase(), 6)
        method = build_method("autoattack", {"steps": 1, "targets": 1, "queries": 40})
        perturber = method.restore({}, context)
        door = perturb_access(target, THREATS["white-box"], QueryLedger(COUNT), torch.arange(COUNT), torch.zeros(COUNT))
        perturber.perturb(IMAGES, door)
        fooled = {
            part.split()[0]: int(part.split()[1]) for part in perturber.notes()[0].split(": ")[1].split(", then ")
        }
        assert (len(perturber.notes()) == 2) is (fooled["square"] > 0)
        assert fooled["square"] > 0


class TestPieces:
    def test_the_difference_of_logits_ratio_by_hand(self) -> None:
        scores = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
        labels = torch.tensor([0, 2])
        # Right: -(4 - 3) / (4 - 1). Wrong: -(3 - 4) / (4 - 1).
        assert torch.allclose(dlr(scores, labels), torch.tensor([-1 / 3, 1 / 3]))
        assert torch.allclose(dlr(7 * scores + 3, labels), dlr(scores, labels))
        # Towards class 1: (1 - 4) and (1 - 3), over 4 - (1 + 0) / 2.
        targets = torch.tensor([1, 1])
        assert torch.allclose(targeted_dlr(scores, labels, targets), torch.tensor([-3 / 3.5, -2 / 3.5]))

    def test_too_few_classes_are_refused(self) -> None:
        with pytest.raises(InvalidConfig, match="at least 3 classes"):
            perturb(linear(classes=2), "apgd-dlr", Budget(epsilon=0.1))
        with pytest.raises(InvalidConfig, match="at least 4 classes"):
            perturb(linear(classes=3), "apgd-t", Budget(epsilon=0.1))

    def test_step_sizes_are_looked_at_ever_more_often(self) -> None:
        assert [at for at, _ in checkpoints(100)] == [22, 41, 57, 70, 80, 87, 93, 99]

    @pytest.mark.parametrize("norm", Norm)
    def test_a_hyperplane_is_met_by_the_shortest_move_within_the_range(self, norm: Norm) -> None:
        """Duality: no move of the length found gains more, so every value moves at one speed or to the end."""
        generator = torch.Generator().manual_seed(0)
        points, normals = torch.rand(50, 3, 4, 4, generator=generator), torch.randn(50, 3, 4, 4, generator=generator)
        room = torch.where(normals > 0, 1 - points, points)
        most = (normals.abs() * room).flatten(1).sum(dim=1)
        gaps = most * torch.linspace(0, 1.2, 50)  # the last are out of reach
        moves = to_hyperplane(points, normals, gaps, norm)
        assert ((points + moves >= -1e-6) & (points + moves <= 1 + 1e-6)).all()
        gained = (normals * moves).flatten(1).sum(dim=1)
        assert torch.allclose(gained, gaps.minimum(most), rtol=1e-4, atol=1e-4)
        free = (moves.abs() < room - 1e-5).flatten(1)
        if norm is Norm.L1:  # whatever moves has at least the weight of whatever has room left
            moving = (moves.abs() > 1e-6).flatten(1)
            sizes = normals.abs().flatten(1)
            least = torch.where(moving, sizes, torch.inf).amin(dim=1)
            assert (torch.where(free, sizes, 0).amax(dim=1) <= least + 1e-5).all()
            return
        speeds = (moves.abs() / (normals.abs() if norm is Norm.L2 else 1)).flatten(1)
        slow, fast = (torch.where(free, speeds, fill) for fill in (torch.inf, -torch.inf))
        assert ((fast.amax(dim=1) - slow.amin(dim=1) < 1e-3) | (free.sum(dim=1) < 2)).all()

    def test_random_numbers_belong_to_rows_and_steps(self) -> None:
        rows = torch.arange(2000)
        drawn = stepwise_uniform(rows, 3, 16, 0, "test")
        assert torch.equal(drawn[[7, 99]], stepwise_uniform(torch.tensor([7, 99]), 3, 16, 0, "test"))
        assert not torch.equal(drawn, stepwise_uniform(rows, 4, 16, 0, "test"))
        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
        assert drawn.std().item() == pytest.approx(12**-0.5, abs=0.01)
        assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.1
        assert torch.corrcoef(drawn[:50]).fill_diagonal_(0).abs().max() < 0.95
        normal = per_sample_normal(torch.Size([100, 3, 8, 8]), rows[:100], 0, "test")
        assert normal.std().item() == pytest.approx(1, abs=0.02)
        assert torch.isfinite(normal).all()


def test_the_true_label_is_the_only_capability_beyond_a_white_box() -> None:
    for attack in QUICK:
        needs = build_method(attack, {"label": "true"}).needs(Goal.DEGRADE).perturb
        assert Capability.TRUE_LABELS in needs
        assert THREATS["white-box"].with_true_labels().lacks(build_method(attack, {}).needs(Goal.DEGRADE)) is None
