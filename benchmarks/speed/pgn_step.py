"""What a PGN training step costs beside the bare forward and backward passes that it cannot do without.

    python benchmarks/speed/pgn_step.py                                # the small profile, 32 pixels
    python benchmarks/speed/pgn_step.py --size 224 --encoder resnet50 --discriminator resnet101 --width 1 --batch 16
    python benchmarks/speed/pgn_step.py --size 224 --encoder resnet50 --discriminator resnet101 --width 1 --batch 128 \
        --device cuda --precision bf16-mixed

Step and bare passes take turns in one process, on the same networks and images; the figure is the median of the ratios
pair by pair. The step's own share is its two Adam updates, the moving average, the losses and the bookkeeping.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from advbench.access import QueryLedger, fit_access
from advbench.bench import build_method
from advbench.datasets import ArrayPixels, LabelledImages
from advbench.methods import Context, Setting, TrainingImages
from advbench.methods.pgn import PGN, Discriminator, Fit, Generator
from advbench.methods.pgn.networks import encoder_of
from advbench.runtime import Precision, Runtime
from advbench.targets import Classifier, ModuleTarget, build_network
from advbench.threat import THREATS, Budget
from advbench.types import Goal

CLASSES = 10


@dataclass(frozen=True)
class Setup:
    """What is measured; see the options."""

    target: str
    encoder: str
    discriminator: str
    size: int
    width: float
    batch: int


def classifier(architecture: str, size: int) -> Classifier:
    return Classifier(build_network(architecture, CLASSES, size), nn.Identity())


def make_fit(setup: Setup, trained: str, runtime: Runtime) -> Fit:
    """A fit on random images: speed does not depend on what they show."""
    torch.manual_seed(0)
    size, batch, budget = setup.size, setup.batch, Budget(epsilon=0.1)
    generator = Generator(encoder_of(classifier(setup.encoder, size)), setup.width, budget, 1.0)
    judge = Discriminator(classifier(setup.discriminator, size), classes=0, goal=Goal.DEGRADE, trained=trained)
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch,))
    images = LabelledImages(ArrayPixels(pixels), torch.arange(batch), labels, tuple(map(str, range(batch))))
    method = build_method("pgn-b", {"discriminator_steps": 1, "generator_steps": 1, "replay": 0}).resolve(
        Setting(Goal.DEGRADE, budget, size, setup.target)
    )
    assert isinstance(method, PGN)
    attacked = ModuleTarget(classifier(setup.target, size), CLASSES, fast_dtype=runtime.inference_dtype, folds=True)
    ledger = QueryLedger(2 * batch)
    access = fit_access(
        attacked.to(runtime.torch_device), THREATS["black-box-labels"], ledger, torch.cat([labels, labels])
    )
    context = Context(Goal.DEGRADE, budget, 0, size, CLASSES, runtime=runtime)
    return Fit(generator, judge, method.recipe(), access, TrainingImages(images, images), context)


def bare_passes(fit: Fit, images: torch.Tensor, rows: torch.Tensor) -> None:
    """The passes of one step, and nothing else: no parameter changes."""
    generator, judge = fit.generator, fit.discriminator
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    frozen = judge.is_body_frozen
    with fit.fabric.autocast():
        perturbed = (images + generator(images)).clamp(0, 1)
    fit.access.labels(perturbed.detach(), rows=rows)
    if not frozen:
        with fit.fabric.autocast():
            judged = judge(perturbed.detach(), labels).float().sum()
        torch.autograd.grad(judged, fit.judged)
    judge.requires_grad_(False)
    with fit.fabric.autocast():
        judged = judge(perturbed, labels).float().sum()
    torch.autograd.grad(judged, list(generator.parameters()))
    for parameter in fit.judged:
        parameter.requires_grad_(True)


def timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(fit: Fit, batch: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds of a step and of its bare passes, in turns, after a warm-up."""
    device = fit.fabric.device
    rows = torch.arange(batch)
    images = fit.train.fit.images(rows).to(device, memory_format=torch.channels_last)
    labels = fit.train.fit.labels.to(device)
    fit.generator.train()
    pairs = [
        (timed(lambda: fit.step(images, labels, rows), device), timed(lambda: bare_passes(fit, images, rows), device))
        for _ in range(repeats + 2)
    ]
    return pairs[2:]


@click.command()
@click.option("--target", default="densenet169", show_default=True)
@click.option("--encoder", default="resnet18", show_default=True)
@click.option("--discriminator", default="resnet18", show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels.")
@click.option("--width", default=0.25, show_default=True, help="Of the decoder.")
@click.option("--batch", default=64, show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="32-true", show_default=True)
def main(repeats: int, device: str, precision: Precision, **setup: Any) -> None:
    """Time PGN's training step beside its bare passes."""
    runtime, measured = Runtime(device=device, precision=precision), Setup(**setup)
    table = Table(title=f"PGN step: {measured}, {device} {precision}")
    for column in ("D trains", "step, ms", "bare passes, ms", "ratio", "min - max", "images/s"):
        table.add_column(column, justify="right")
    for trained in ("head", "all"):
        pairs = measure(make_fit(measured, trained, runtime), measured.batch, repeats)
        ratios = [step / passes for step, passes in pairs]
        step, passes = (statistics.median(side) for side in zip(*pairs, strict=True))
        table.add_row(
            trained,
            f"{1000 * step:.0f}",
            f"{1000 * passes:.0f}",
            f"{statistics.median(ratios):.3f}",
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            f"{measured.batch / step:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
