"""The official AutoAttack on the same model with the same settings: as many images fooled, and no longer ways there."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset
from advbench.methods import Context
from advbench.methods.geometry import lengths
from advbench.methods.hyperplane import to_hyperplane
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

# What the peers warn about themselves when they are imported is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

COUNT = 64
WITHIN = 1 / COUNT + 1e-6
"""One image."""
OFFICIAL_NORM = {Norm.LINF: "Linf", Norm.L2: "L2"}
EPSILON = {Norm.LINF: 0.1, Norm.L2: 1.0}
STEPS, TARGETS, QUERIES = 16, 2, 80


def train(digits: Dataset, *, robust: bool) -> ModuleTarget:
    """A small network, trained on the digits as they are, or as moved by one step against it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
        )
        images, labels = digits.fit.images(slice(0, len(digits.fit))), digits.fit.labels
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(4):
            for part in torch.randperm(len(images)).split(32):
                batch = images[part]
                if robust:
                    start = (batch + 0.08 * (2 * torch.rand_like(batch) - 1)).requires_grad_()
                    (gradient,) = torch.autograd.grad(F.cross_entropy(network(start), labels[part]), start)
                    batch = batch + (start.detach() + 0.08 * gradient.sign() - batch).clamp(-0.08, 0.08)
                optimiser.zero_grad()
                F.cross_entropy(network(batch.clamp(0, 1)), labels[part]).backward()
                optimiser.step()
    return ModuleTarget(network, 10)


@pytest.fixture(scope="module")
def targets(digits: Dataset) -> dict[str, ModuleTarget]:
    return {"plain": train(digits, robust=False), "robust": train(digits, robust=True)}


def ours(target: ModuleTarget, attack: str, norm: Norm, images: Tensor, labels: Tensor, **options: object) -> Tensor:
    door = perturb_access(
        target, THREATS["white-box"].with_true_labels(), QueryLedger(COUNT), torch.arange(COUNT), labels
    )
    context = Context(Goal.DEGRADE, Budget(norm=norm, epsilon=EPSILON[norm]), 0, 32, 10)
    return build_method(attack, {"label": "true", **options}).restore({}, context).perturb(images, door)


def official(target: ModuleTarget, attacks: list[str], norm: Norm) -> Any:
    package = pytest.importorskip("pyautoattack")
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = package.AutoAttack(
        target.module(), eps=EPSILON[norm], norm=OFFICIAL_NORM[norm], version="custom", attacks=attacks, seed=0
    )
    attack.apgd.n_restarts = attack.fab.n_restarts = 1
    for part in (attack.apgd, attack.apgd_targeted):
        part.n_iter = part.n_iter_orig = STEPS
        part.n_iter_2, part.n_iter_min, part.size_decr = (max(int(share * STEPS), 1) for share in (0.22, 0.06, 0.03))
    attack.fab.n_iter, attack.square.n_queries = STEPS, QUERIES - 1  # its start is one more
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = TARGETS
    return attack


OPTIONS: dict[str, dict[str, object]] = {
    "apgd-ce": {"steps": STEPS},
    "apgd-dlr": {"steps": STEPS},
    "apgd-t": {"steps": STEPS, "targets": TARGETS},
    "fab-t": {"steps": STEPS, "targets": TARGETS},
    "square": {"queries": QUERIES},
    "autoattack": {"steps": STEPS, "targets": TARGETS, "queries": QUERIES},
}


@pytest.mark.parametrize(
    ("attack", "kind", "norm"),
    [
        ("apgd-ce", "robust", Norm.LINF),
        ("apgd-ce", "robust", Norm.L2),
        ("apgd-dlr", "robust", Norm.LINF),
        ("apgd-t", "robust", Norm.LINF),
        ("apgd-t", "robust", Norm.L2),
        ("fab-t", "robust", Norm.LINF),
        ("square", "robust", Norm.LINF),
        ("square", "robust", Norm.L2),
        ("autoattack", "plain", Norm.LINF),
        ("autoattack", "robust", Norm.LINF),
    ],
)
def test_as_many_images_are_fooled(
    attack: str, kind: str, norm: Norm, digits: Dataset, targets: dict[str, ModuleTarget]
) -> None:
    images, labels = digits.evaluation.images(slice(0, COUNT)), digits.evaluation.labels[:COUNT]
    target = targets[kind]
    parts = ["apgd-ce", "apgd-t", "fab-t", "square"] if attack == "autoattack" else [attack]
    theirs, _ = official(target, parts, norm).run_standard_evaluation(images, labels, batch_size=COUNT)
    mine = ours(target, attack, norm, images, labels, **OPTIONS[attack])
    mine_right, theirs_right = ((target.labels(found) == labels).float().mean().item() for found in (mine, theirs))
    assert mine_right < (target.labels(images) == labels).float().mean()
    # Square is a random search, and each of the two has its own squares.
    assert mine_right == pytest.approx(theirs_right, abs=(3 if attack == "square" else 1) * WITHIN)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_fab_needs_no_longer_perturbations(norm: Norm, digits: Dataset, targets: dict[str, ModuleTarget]) -> None:
    images, labels = digits.evaluation.images(slice(0, COUNT)), digits.evaluation.labels[:COUNT]
    target = targets["robust"]
    peer = official(target, ["fab-t"], norm).fab
    peer.targeted, peer.eps, peer.seed, peer.device = True, 1e3, 0, "cpu"
    peer.n_target_classes = 1
    theirs = peer.perturb(images, labels)
    door = perturb_access(
        target, THREATS["white-box"].with_true_labels(), QueryLedger(COUNT), torch.arange(COUNT), labels
    )
    method = build_method("fab-t", {"label": "true", "steps": STEPS, "targets": 1})
    mine = method.restore({}, Context(Goal.DEGRADE, Budget(norm=norm), 0, 32, 10)).perturb(images, door)
    right = target.labels(images) == labels
    assert (target.labels(mine) != labels).sum() >= (target.labels(theirs) != labels).sum()
    sizes = [lengths(found - images, norm).flatten()[right].mean().item() for found in (mine, theirs)]
    assert sizes[0] <= 1.005 * sizes[1]


@pytest.mark.parametrize("norm", Norm)
def test_projections_onto_hyperplanes(norm: Norm) -> None:
    projections = pytest.importorskip("pyautoattack.fab_projections")
    project = getattr(projections, f"projection_{norm}")
    generator = torch.Generator().manual_seed(0)
    points, normals = (torch.rand(200, 3, 4, 4, generator=generator) for _ in range(2))
    normals = normals - 0.5
    gaps = torch.randn(200, generator=generator)
    offsets = gaps + (normals * points).flatten(1).sum(dim=1)
    theirs = project(points.flatten(1), normals.flatten(1), offsets).view_as(points)
    mine = to_hyperplane(points, normals, gaps, norm)
    assert torch.allclose(lengths(mine, norm), lengths(theirs, norm), rtol=1e-3, atol=1e-4)
