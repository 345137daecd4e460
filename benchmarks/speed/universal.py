"""Universal perturbations, ours and ART's: how long they take, and how many images they fool.

    python benchmarks/speed/universal.py                        # 200 digits, L-inf 0.25, ART's default inner DeepFool
    python benchmarks/speed/universal.py --images 40 --repeats 1 --inner fgsm

All competitors see the same images and classifier and take turns in one process; the time is the median over the
repeats. What each found is scored by one independent pass in float32: the share of images, of those it was fitted on
and of others, whose predicted class changes when the perturbation is added and the sum clipped to [0, 1].
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from advbench.access import QueryLedger, fit_access
from advbench.bench import build_method, make_target
from advbench.datasets import Dataset, DatasetSpec, load_dataset
from advbench.methods import Context, Setting, TrainingImages
from advbench.progress import SILENT
from advbench.runtime import Runtime
from advbench.targets import ClassifierSpec, ModuleTarget, Target, Training
from advbench.tensors import Images
from advbench.threat import THREATS, Budget
from advbench.types import Goal

RUNTIME = Runtime(device="cpu")


@dataclass(frozen=True)
class Setup:
    """What every competitor is given."""

    target: Target
    dataset: Dataset
    train: TrainingImages
    epsilon: float

    @property
    def images(self) -> Images:
        return self.train.fit.images()


def ours(setup: Setup, attack: str, **options: Any) -> Tensor:
    """Fit one of our methods through its access, as the harness does."""
    budget = Budget(epsilon=setup.epsilon)
    size, classes = setup.dataset.image_size, len(setup.dataset.classes)
    method = build_method(attack, options).resolve(Setting(Goal.DEGRADE, budget, size, setup.target.architecture))
    labels = torch.cat([setup.train.fit.labels, setup.train.validation.labels])
    access = fit_access(setup.target, THREATS["white-box"], QueryLedger(len(labels)), labels)
    context = Context(Goal.DEGRADE, budget, 0, size, classes, runtime=RUNTIME)
    return method.fit(access, setup.train, context).state()["perturbation"]


def arts(setup: Setup, epochs: int) -> Tensor:
    """ART's universal perturbation, with its own defaults but for the budget and the number of passes."""
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    random.seed(0)
    np.random.seed(0)
    shape = tuple(setup.images.shape[1:])
    model = PyTorchClassifier(
        setup.target.module(), torch.nn.CrossEntropyLoss(), shape, len(setup.dataset.classes),
        clip_values=(0, 1), device_type="cpu",
    )  # fmt: skip
    attack = UniversalPerturbation(
        model, attacker="deepfool", attacker_params={"verbose": False}, eps=setup.epsilon, max_iter=epochs,
        verbose=False,
    )  # fmt: skip
    attack.generate(setup.images.numpy())
    return torch.from_numpy(np.asarray(attack.noise, dtype=np.float32))


def fooling(setup: Setup, perturbation: Tensor, images: Images) -> float:
    """The share of images whose class changes."""
    assert float(perturbation.abs().max()) <= setup.epsilon * (1 + 1e-6)
    clean = setup.target.labels(images)
    return float((setup.target.labels((images + perturbation).clamp(0, 1)) != clean).float().mean())


def measure(setup: Setup, competitors: dict[str, Callable[[], Tensor]], repeats: int) -> Table:
    """Let the competitors take turns, and tabulate."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    found: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, work in competitors.items():
            started = time.perf_counter()
            found[name] = work()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    slowest = medians["ART"]
    others = setup.dataset.evaluation.images()
    table = Table(title=f"universal perturbation, L-inf {setup.epsilon:g}, {len(setup.train.fit)} images")
    for column in ("method", "seconds", "min - max", "times as fast as ART", "fooled, fitted on", "fooled, others"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, times in seconds.items():
        table.add_row(
            name,
            f"{medians[name]:.2f}",
            f"[{min(times):.2f}, {max(times):.2f}]",
            f"{slowest / medians[name]:.1f}",
            f"{fooling(setup, found[name], setup.images):.1%}",
            f"{fooling(setup, found[name], others):.1%}",
        )
    return table


@click.command()
@click.option("--images", default=200, show_default=True, help="That are fitted on.")
@click.option("--epsilon", default=0.25, show_default=True)
@click.option("--epochs", default=5, show_default=True, help="Passes over the images at most, for every competitor.")
@click.option("--inner", default="deepfool", show_default=True, help="Of our UAP.")
@click.option("--target-epochs", default=10, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(images: int, epsilon: float, epochs: int, inner: str, target_epochs: int, repeats: int) -> None:
    """Time universal perturbations against ART's on digits, and count what they fool."""
    dataset = load_dataset(DatasetSpec())
    spec = ClassifierSpec(architecture="resnet18", training=Training(epochs=target_epochs))
    target = make_target(spec, dataset, RUNTIME, SILENT)
    assert isinstance(target, ModuleTarget)
    train = TrainingImages(
        dataset.fit.first(images, seed=1, what="--images"), dataset.validation.first(50, seed=1, what="images")
    )
    setup = Setup(target, dataset, train, epsilon)
    batch = min(images, 50)
    competitors: dict[str, Callable[[], Tensor]] = {
        "ART": lambda: arts(setup, epochs),
        "uap, one by one": lambda: ours(setup, "uap", inner=inner, batch_size=1, epochs=epochs),
        f"uap, batches of {batch}": lambda: ours(setup, "uap", inner=inner, batch_size=batch, epochs=epochs),
        "gradient-uap": lambda: ours(setup, "gradient-uap", batch_size=batch, epochs=epochs),
    }
    Console(width=130).print(measure(setup, competitors, repeats))


if __name__ == "__main__":
    main()
