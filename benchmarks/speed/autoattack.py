"""AutoAttack beside the official package: robust accuracy and time, on a plain and on an adversarially trained network.

    python benchmarks/speed/autoattack.py                                     # standard, as published: long on a CPU
    python benchmarks/speed/autoattack.py --images 64 --steps 20 --targets 3 --queries 200
    python benchmarks/speed/autoattack.py --network resnet18 --norm l2 --epsilon 1

Both run in one process with the same settings on the same images, in turns; each result is scored by one pass of its
own, in float32, on the network as it is. The networks are trained on the digits and kept under ADVBENCH_HOME. The
official package is run twice: as users run it, with a network whose parameters ask for gradients (its FAB computes
those as well), and with frozen parameters.
"""

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset, DatasetSpec, load_dataset
from advbench.files import home
from advbench.methods import Context
from advbench.targets import ModuleTarget, build_network
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

PARTS = ["apgd-ce", "apgd-t", "fab-t", "square"]
TRAINED_FOR = 0.1
"""The linf budget of the adversarial training."""


@dataclass(frozen=True)
class Settings:
    """What both packages run with; see the options."""

    norm: Norm
    epsilon: float
    steps: int
    targets: int
    queries: int
    batch: int


def small_network() -> nn.Module:
    def block(given: int, made: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]

    widths = [(3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 2)]
    return nn.Sequential(*(layer for width in widths for layer in block(*width)), nn.Flatten(), nn.Linear(1024, 10))


def worst(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Three steps of PGD, in eval mode."""
    network.eval()
    delta = epsilon * (2 * torch.rand_like(images) - 1)
    for _ in range(3):
        point = (images + delta).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(point), labels), point)
        delta = (delta + epsilon / 2 * gradient.sign()).clamp(-epsilon, epsilon)
    network.train()
    return (images + delta).clamp(0, 1)


def trained(name: str, digits: Dataset, *, robust: bool, epochs: int = 8) -> nn.Module:
    """A network trained on the digits, or the one that was kept."""
    folder = home() / "benchmarks"
    path = folder / f"autoattack-{name}-{'robust' if robust else 'plain'}.pth"
    torch.manual_seed(0)
    network = small_network() if name == "small" else build_network(name, 10, digits.image_size)
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    images, labels = digits.fit.images(slice(0, len(digits.fit))), digits.fit.labels
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(epochs):
        epsilon = TRAINED_FOR * min(1, (epoch + 1) / 4)
        for part in torch.randperm(len(images)).split(64):
            network.train()
            batch = worst(network, images[part], labels[part], epsilon) if robust else images[part]
            optimiser.zero_grad()
            F.cross_entropy(network(batch), labels[part]).backward()
            optimiser.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network.eval()


def ours(network: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    target = ModuleTarget(network, 10, folds=True)
    options = {"steps": settings.steps, "targets": settings.targets, "queries": settings.queries, "label": "true"}
    context = Context(Goal.DEGRADE, Budget(norm=settings.norm, epsilon=settings.epsilon), 0, images.shape[-1], 10)
    perturber = build_method("autoattack", options).restore({}, context)
    ledger, threat = QueryLedger(len(images)), THREATS["white-box"].with_true_labels()
    found = [
        perturber.perturb(images[rows], perturb_access(target, threat, ledger, rows, labels[rows]))
        for rows in torch.arange(len(images)).split(settings.batch)
    ]
    return torch.cat(found)


def official(network: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    import pyautoattack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    name = {Norm.LINF: "Linf", Norm.L2: "L2"}[settings.norm]
    attack: Any = pyautoattack.AutoAttack(
        network, eps=settings.epsilon, norm=name, version="custom", attacks=PARTS, seed=0
    )
    attack.apgd.n_restarts = attack.fab.n_restarts = 1
    for part in (attack.apgd, attack.apgd_targeted):
        part.n_iter = part.n_iter_orig = settings.steps
        part.n_iter_2, part.n_iter_min, part.size_decr = (
            max(int(share * settings.steps), 1) for share in (0.22, 0.06, 0.03)
        )
    attack.fab.n_iter, attack.square.n_queries = settings.steps, settings.queries - 1  # its start is one more
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = settings.targets
    found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=settings.batch)[0]
    return found


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        return float((network(images).argmax(dim=1) == labels).float().mean())


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started


def compare(network: nn.Module, images: Tensor, labels: Tensor, settings: Settings, repeats: int) -> list[list[str]]:
    """A row for each competitor; they take turns."""
    competitors: dict[str, tuple[Callable[..., Tensor], bool]] = {
        "advbench": (ours, False),
        "official": (official, True),
        "official, frozen": (official, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    robust: dict[str, float] = {}
    for _ in range(repeats):
        for name, (attack, with_gradients) in competitors.items():
            network.requires_grad_(with_gradients)
            found, taken = timed(lambda attack=attack: attack(network, images, labels, settings))  # type: ignore[misc]
            seconds[name].append(taken)
            robust[name] = accuracy(network, found, labels)
    base = statistics.median(seconds["advbench"])
    return [
        [name, f"{robust[name]:.1%}", f"{statistics.median(taken):.1f}", f"{statistics.median(taken) / base:.2f}"]
        for name, taken in seconds.items()
    ]


@click.command()
@click.option("--network", default="small", show_default=True, help="'small', or a torchvision name.")
@click.option("--images", "count", default=100, show_default=True)
@click.option("--norm", default="linf", show_default=True, type=click.Choice(["linf", "l2"]))
@click.option("--epsilon", default=TRAINED_FOR, show_default=True)
@click.option("--steps", default=100, show_default=True)
@click.option("--targets", default=9, show_default=True)
@click.option("--queries", default=5000, show_default=True)
@click.option("--batch", default=250, show_default=True)
@click.option("--repeats", default=1, show_default=True)
def main(network: str, count: int, repeats: int, norm: str, **options: Any) -> None:
    """Run both packages' AutoAttack."""
    warnings.filterwarnings("ignore")
    settings = Settings(norm=Norm(norm), **options)
    digits = load_dataset(DatasetSpec(limit=count))
    images, labels = digits.evaluation.images(slice(0, count)), digits.evaluation.labels[:count]
    table = Table(title=f"AutoAttack on {network}, {count} images: {settings}")
    for column in ("training", "package", "robust accuracy", "seconds", "of advbench's time"):
        table.add_column(column, justify="left" if column in ("training", "package") else "right")
    for training in ("plain", "robust"):
        made = trained(network, digits, robust=training == "robust")
        clean = accuracy(made, images, labels)
        for row in compare(made, images, labels, settings, repeats):
            table.add_row(f"{training}, {clean:.0%} clean", *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
