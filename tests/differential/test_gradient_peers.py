"""PGD in each norm and the momentum family beside the peers' own, on a small smooth network: the same images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.methods import Context, Setting
from advbench.methods.transforms import resize_and_pad
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

# What the peers warn about themselves when they are imported is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

COUNT, SIZE, CLASSES = 24, 16, 5
EPSILONS = {Norm.LINF: 0.05, Norm.L2: 0.5, Norm.L1: 6.0}


@pytest.fixture(scope="module")
def smooth_target() -> ModuleTarget:
    """Curved enough that steps differ from one another; smooth, so that rounding decides few signs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(16 * (SIZE // 2) ** 2, CLASSES),
        )  # fmt: skip
    for parameter in network.parameters():
        parameter.data *= 3
    return ModuleTarget(network, CLASSES, "small", "small")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Some pixels at the edges of [0, 1]."""
    return (torch.rand(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2).clamp(0, 1)


@pytest.fixture(scope="module")
def labels(smooth_target: ModuleTarget, images: torch.Tensor) -> torch.Tensor:
    return smooth_target.labels(images)


def ours(target: ModuleTarget, images: torch.Tensor, attack: str, norm: Norm, options: dict[str, Any]) -> torch.Tensor:
    rows, budget = torch.arange(len(images)), Budget(norm=norm, epsilon=EPSILONS[norm])
    door = perturb_access(target, THREATS["white-box"], QueryLedger(len(images)), rows, rows)
    method = build_method(attack, options).resolve(Setting(Goal.DEGRADE, budget, SIZE, "small"))
    return method.restore({}, Context(Goal.DEGRADE, budget, 0, SIZE, CLASSES)).perturb(images, door)


def loss(target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor) -> float:
    return F.cross_entropy(target.scores(images), labels).item()


def agree(mine: torch.Tensor, theirs: torch.Tensor, differing: float, within: float = 1e-4) -> None:
    assert ((mine - theirs).abs() > within).float().mean() < differing


class TestFoolbox:
    @pytest.fixture
    def model(self, smooth_target: ModuleTarget) -> Any:
        foolbox = pytest.importorskip("foolbox")
        return foolbox.PyTorchModel(smooth_target.module(), bounds=(0, 1), device="cpu")

    @pytest.mark.parametrize(
        ("peer", "norm"),
        [("LinfProjectedGradientDescentAttack", Norm.LINF), ("L2ProjectedGradientDescentAttack", Norm.L2)],
    )
    @pytest.mark.parametrize("towards", ["none", "least-likely"])
    def test_pgd(
        self, peer: str, norm: Norm, towards: str, model: Any, smooth_target: ModuleTarget, images: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:  # fmt: skip
        import foolbox

        attack = getattr(foolbox.attacks, peer)(steps=10, rel_stepsize=0.2, random_start=False)
        aim = foolbox.criteria.Misclassification(labels)
        if towards != "none":
            aim = foolbox.criteria.TargetedMisclassification(smooth_target.scores(images).argmin(1))
        _, theirs, _ = attack(model, images, aim, epsilons=EPSILONS[norm])
        options = {"steps": 10, "relative_step": 0.2, "random_start": False, "towards": towards}
        mine = ours(smooth_target, images, "pgd", norm, options)
        agree(mine, theirs, 5e-3)

    def test_one_l1_step_is_the_same_and_many_go_further(
        self, model: Any, smooth_target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """The peer projects onto the ball and then clips to [0, 1], which leaves some of the budget unused."""
        import foolbox

        losses = []
        for steps in (1, 10):
            attack = foolbox.attacks.SparseL1DescentAttack(quantile=0.99, steps=steps, rel_stepsize=0.1)
            _, theirs, _ = attack(model, images, labels, epsilons=EPSILONS[Norm.L1])
            options = {"steps": steps, "relative_step": 0.1, "random_start": False}
            mine = ours(smooth_target, images, "pgd", Norm.L1, options)
            losses.append((loss(smooth_target, mine, labels), loss(smooth_target, theirs, labels)))
            if steps == 1:
                agree(mine, theirs, 1e-3)
        assert losses[-1][0] >= losses[-1][1]
        started = ours(smooth_target, images, "pgd", Norm.L1, {"steps": 10, "relative_step": 0.1})
        assert loss(smooth_target, started, labels) >= 0.98 * losses[-1][1], "a random start loses what steps gain"

    def test_l1_fgm(self, model: Any, smooth_target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor) -> None:
        import foolbox

        attack = foolbox.attacks.L1FastGradientAttack(random_start=False)
        _, theirs, _ = attack(model, images, labels, epsilons=EPSILONS[Norm.L1])
        agree(ours(smooth_target, images, "fgsm", Norm.L1, {}), theirs, 1e-3)


class TestART:
    @pytest.fixture
    def model(self, smooth_target: ModuleTarget) -> Any:
        estimators = pytest.importorskip("art.estimators.classification")
        return estimators.PyTorchClassifier(
            smooth_target.module(), nn.CrossEntropyLoss(), (3, SIZE, SIZE), CLASSES, clip_values=(0, 1),
            device_type="cpu",
        )  # fmt: skip

    @pytest.mark.parametrize(("norm", "order"), [(Norm.LINF, "inf"), (Norm.L2, 2)])
    def test_pgd(
        self, norm: Norm, order: str | int, model: Any, smooth_target: ModuleTarget, images: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:  # fmt: skip
        from art.attacks.evasion import ProjectedGradientDescent

        epsilon = EPSILONS[norm]
        attack = ProjectedGradientDescent(model, order, epsilon, 0.2 * epsilon, max_iter=10, verbose=False)
        theirs = torch.from_numpy(attack.generate(images.numpy(), y=labels.numpy()))
        options = {"steps": 10, "relative_step": 0.2, "random_start": False}
        # The peer clips to [0, 1] before it projects: under l2, a little less is left of the budget.
        within = 1e-4 if norm is Norm.LINF else 1e-3
        agree(ours(smooth_target, images, "pgd", norm, options), theirs, 2e-2, within)

    def test_under_l1_a_step_shared_by_values_gains_more_than_the_peers_single_one(
        self, model: Any, smooth_target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """The peer moves one value by all of epsilon, which [0, 1] cuts to at most 1."""
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

        epsilon = EPSILONS[Norm.L1]
        peers = {
            "fgsm": FastGradientMethod(model, norm=1, eps=epsilon),
            "pgd": ProjectedGradientDescent(model, 1, epsilon, 0.2 * epsilon, max_iter=10, verbose=False),
        }
        for attack, peer in peers.items():
            theirs = torch.from_numpy(peer.generate(images.numpy(), y=labels.numpy()))
            options = {"steps": 10, "relative_step": 0.2, "random_start": False} if attack == "pgd" else {}
            mine = ours(smooth_target, images, attack, Norm.L1, options)
            assert loss(smooth_target, mine, labels) > loss(smooth_target, theirs, labels)


class TestTorchattacks:
    @pytest.mark.parametrize(
        ("attack", "peer", "theirs_too", "options"),
        [
            ("mi-fgsm", "MIFGSM", {"decay": 0.9}, {"decay": 0.9}),
            ("ni-fgsm", "NIFGSM", {}, {}),
            ("si-ni-fgsm", "SINIFGSM", {"m": 4}, {"scales": 4}),
            ("di-fgsm", "DIFGSM", {"diversity_prob": 0.0, "decay": 0.5}, {"diversity": 0.0, "decay": 0.5}),
            ("ti-fgsm", "TIFGSM", {"diversity_prob": 0.0, "decay": 1.0, "len_kernel": 7}, {"kernel": 7}),
            ("vmi-fgsm", "VMIFGSM", {"N": 1, "beta": 0.0}, {"neighbours": 1, "neighbourhood": 1e-9}),
        ],
    )
    def test_the_parts_without_chance_give_the_same_images(
        self, attack: str, peer: str, theirs_too: dict[str, Any], options: dict[str, Any],
        smooth_target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor,
    ) -> None:  # fmt: skip
        torchattacks = pytest.importorskip("torchattacks")
        epsilon = EPSILONS[Norm.LINF]
        made = getattr(torchattacks, peer)(
            smooth_target.module(), eps=epsilon, alpha=epsilon / 5, steps=8, **theirs_too
        )
        mine = ours(smooth_target, images, attack, Norm.LINF, {"steps": 8, "relative_step": 0.2, **options})
        agree(mine, made(images, labels), 1e-2)

    def test_chance_gives_images_that_are_as_strong(
        self, smooth_target: ModuleTarget, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        torchattacks = pytest.importorskip("torchattacks")
        epsilon = EPSILONS[Norm.LINF]
        given = {"eps": epsilon, "alpha": epsilon / 5, "steps": 8}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            peers: dict[str, Callable[..., torch.Tensor]] = {
                "di-fgsm": torchattacks.DIFGSM(smooth_target.module(), **given),
                "vmi-fgsm": torchattacks.VMIFGSM(smooth_target.module(), N=5, **given),
            }
            theirs = {attack: loss(smooth_target, peer(images, labels), labels) for attack, peer in peers.items()}
        for attack, reached in theirs.items():
            options = {"steps": 8, "relative_step": 0.2} | ({"neighbours": 5} if attack == "vmi-fgsm" else {})
            mine = loss(smooth_target, ours(smooth_target, images, attack, Norm.LINF, options), labels)
            assert mine == pytest.approx(reached, rel=0.1)


class TestViews:
    def test_a_shrunk_image_is_what_interpolation_and_padding_give(self, images: torch.Tensor) -> None:
        sizes = torch.tensor([16, 15, 12, 9, 8, 5])
        some, tops, lefts = images[:6], torch.tensor([0.0, 0.9, 0.5, 0.1, 0.99, 0.3]), torch.rand(6)
        got = resize_and_pad(some, sizes / 16, tops, lefts)
        for image, size, top, left, found in zip(some, sizes.tolist(), tops, lefts, got, strict=True):
            small = F.interpolate(image.unsqueeze(0), size=(size, size), mode="bilinear", align_corners=False)
            above, before = (int(share * (16 - size + 1)) for share in (top, left))
            expected = F.pad(small, (before, 16 - size - before, above, 16 - size - above))
            assert torch.allclose(found, expected[0], atol=1e-5)

    def test_each_image_of_a_batch_has_a_view_of_its_own_that_its_seed_decides(
        self, smooth_target: ModuleTarget, images: torch.Tensor
    ) -> None:
        same = images[:1].expand(4, -1, -1, -1)
        options = {"steps": 3, "diversity": 1.0, "smallest": 0.5}
        first, again = (ours(smooth_target, same, "di-fgsm", Norm.LINF, options) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first[0], first[1])
        plain = ours(smooth_target, same, "di-fgsm", Norm.LINF, options | {"diversity": 0.0})
        assert torch.equal(plain[0], plain[1])
