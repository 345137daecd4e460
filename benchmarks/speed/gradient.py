"""What FGSM and PGD-10 cost beside the bare passes that they cannot do without, ours and the peers'.

    python benchmarks/speed/gradient.py                                          # a small CNN on digits, 32 pixels
    python benchmarks/speed/gradient.py --model resnet18                         # ResNet-18 on digits, 32 pixels
    python benchmarks/speed/gradient.py --model resnet50 --size 224 --images 64 --batch 32

All competitors take turns on the same network and images in one process; a ratio is the median over the repeats of a
competitor's time over that of the bare passes of the same repeat: forward, and gradient of the input alone, in the best
float32 form (batch norm folded, channels_last). The peers get the network with its parameters frozen, in channels_last.
What each one returns in its last repeat is scored by one pass of the network as it is, in float32. At 32 pixels the
network is trained on digits first; at other sizes weights and images are random, and the labels its predictions: that
shows the cost and no more.
"""

import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
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
from advbench.methods import Context
from advbench.targets import ModuleTarget, build_network
from advbench.threat import THREATS, Budget
from advbench.types import Goal

CLASSES = 10
STEPS, RELATIVE_STEP = 10, 0.25
Attack = Callable[[Tensor, Tensor], Tensor]
"""From a batch of images and their labels to perturbed images."""


@dataclass(frozen=True)
class Scene:
    """What is attacked, and how strongly."""

    target: ModuleTarget
    images: Tensor
    labels: Tensor
    epsilon: float

    @property
    def module(self) -> nn.Module:
        return self.target.module().to(memory_format=torch.channels_last)


def small_cnn() -> nn.Module:
    """Plain and convolutional, with a batch norm after each convolution."""
    widths = (3, 32, 64, 128)
    blocks = [
        layer
        for before, after in pairwise(widths)
        for layer in (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def make_scene(model: str, size: int, count: int, epochs: int, epsilon: float) -> Scene:
    torch.manual_seed(0)
    network = small_cnn() if model == "cnn" else build_network(model, CLASSES, size)
    if size == 32:
        digits = load_dataset(DatasetSpec())
        train(network, digits, epochs)
        pool = torch.cat([part.images(slice(None)) for part in (digits.evaluation, digits.validation, digits.fit)])
        known = torch.cat([part.labels for part in (digits.evaluation, digits.validation, digits.fit)])
        return Scene(ModuleTarget(network, CLASSES, folds=True), pool[:count], known[:count], epsilon)
    target = ModuleTarget(network, CLASSES, folds=True)
    images = torch.rand(count, 3, size, size)
    return Scene(target, images, target.labels(images), epsilon)


def train(network: nn.Module, digits: Dataset, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.fit)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(digits.fit.images(rows)), digits.fit.labels[rows]).backward()
            optimizer.step()


def bare(scene: Scene, steps: int) -> Attack:
    """The passes alone: nothing moves."""
    module = scene.target.differentiable()

    def passes(images: Tensor, labels: Tensor) -> Tensor:
        for _ in range(steps):
            inputs = images.contiguous(memory_format=torch.channels_last).requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(module(inputs), labels, reduction="sum")
            torch.autograd.grad(loss, inputs)
        return images

    return passes


def ours(scene: Scene, attack: str, **options: Any) -> Attack:
    method, budget = build_method(attack, {"label": "true", **options}), Budget(epsilon=scene.epsilon)
    perturber = method.restore({}, Context(Goal.DEGRADE, budget, 0, scene.images.shape[-1], CLASSES))
    threat = THREATS["white-box"].with_true_labels()

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(images))
        return perturber.perturb(images, perturb_access(scene.target, threat, QueryLedger(len(rows)), rows, labels))

    return perturb


def art(scene: Scene, batch: int, steps: int) -> Attack:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    shape, epsilon = tuple(scene.images.shape[1:]), scene.epsilon
    model = PyTorchClassifier(
        scene.module, nn.CrossEntropyLoss(), shape, CLASSES, clip_values=(0, 1), device_type="cpu"
    )
    if steps == 1:
        attack: Any = FastGradientMethod(model, eps=epsilon, batch_size=batch)
    else:
        attack = ProjectedGradientDescent(
            model, eps=epsilon, eps_step=RELATIVE_STEP * epsilon, max_iter=steps, batch_size=batch, verbose=False
        )
    return lambda images, labels: torch.from_numpy(attack.generate(images.numpy(), y=labels.numpy()))


def foolbox(scene: Scene, steps: int) -> Attack:
    import foolbox as peer

    model = peer.PyTorchModel(scene.module, bounds=(0, 1), device="cpu")
    if steps == 1:
        attack: Any = peer.attacks.LinfFastGradientAttack(random_start=False)
    else:
        attack = peer.attacks.LinfProjectedGradientDescentAttack(
            steps=steps, rel_stepsize=RELATIVE_STEP, random_start=False
        )
    return lambda images, labels: attack(model, images, labels, epsilons=scene.epsilon)[1]


def torchattacks(scene: Scene, steps: int) -> Attack:
    import torchattacks as peer

    epsilon = scene.epsilon
    if steps == 1:
        return peer.FGSM(scene.module, eps=epsilon)  # type: ignore[no-any-return]
    return peer.PGD(  # type: ignore[no-any-return]
        scene.module, eps=epsilon, alpha=RELATIVE_STEP * epsilon, steps=steps, random_start=False
    )


def adv_lib(scene: Scene, steps: int) -> Attack:
    stub = types.ModuleType("visdom")  # its package imports a plotting server that no attack needs
    stub.Visdom = object  # type: ignore[attr-defined]
    sys.modules.setdefault("visdom", stub)
    from adv_lib.attacks import pgd_linf

    module, given = scene.module, {"steps": steps, "random_init": False, "relative_step_size": RELATIVE_STEP}
    return lambda images, labels: pgd_linf(module, images, labels, scene.epsilon, **given)


def competitors(scene: Scene, batch: int, console: Console) -> dict[str, dict[str, Attack]]:
    """Ours, and every peer's that is installed."""
    pgd = {"steps": STEPS, "relative_step": RELATIVE_STEP, "random_start": False}
    makers: dict[str, dict[str, Callable[[], Attack]]] = {
        "FGSM": {
            "bare passes": partial(bare, scene, 1),
            "ours": partial(ours, scene, "fgsm"),
            "ART": partial(art, scene, batch, 1),
            "Foolbox": partial(foolbox, scene, 1),
            "torchattacks": partial(torchattacks, scene, 1),
        },
        f"PGD-{STEPS}": {
            "bare passes": partial(bare, scene, STEPS),
            "ours": partial(ours, scene, "pgd", **pgd),
            "ours, fooled samples dropped": partial(ours, scene, "pgd", stop_when_fooled=True, **pgd),
            "ART": partial(art, scene, batch, STEPS),
            "Foolbox": partial(foolbox, scene, STEPS),
            "torchattacks": partial(torchattacks, scene, STEPS),
            "adv-lib": partial(adv_lib, scene, STEPS),
        },
    }
    made: dict[str, dict[str, Attack]] = {kind: {} for kind in makers}
    for kind, own in makers.items():
        for name, make in own.items():
            try:
                made[kind][name] = make()
            except ImportError as error:
                console.print(f"{name} is left out of {kind}: {error}")
    return made


def timed(attack: Attack, scene: Scene, batch: int) -> tuple[float, Tensor]:
    pieces = list(zip(scene.images.split(batch), scene.labels.split(batch), strict=True))
    started = time.perf_counter()
    perturbed = [attack(images, labels).detach() for images, labels in pieces]
    return time.perf_counter() - started, torch.cat(perturbed)


def measure(attacks: dict[str, Attack], scene: Scene, batch: int, repeats: int) -> Table:
    warm_up = Scene(scene.target, scene.images[:batch], scene.labels[:batch], scene.epsilon)
    for attack in attacks.values():
        timed(attack, warm_up, batch)
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    last: dict[str, Tensor] = {}
    for turn in range(repeats):
        names = list(attacks)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always follows the same one
            took, last[name] = timed(attacks[name], scene, batch)
            seconds[name].append(took)
    table = Table()
    for column in ("", "seconds", "x of the bare passes", "min - max", "fooled", "largest change"):
        table.add_column(column, justify="left" if not column else "right")
    for name, spent in seconds.items():
        ratios = [own / passes for own, passes in zip(spent, seconds["bare passes"], strict=True)]
        fooled = (scene.target.labels(last[name]) != scene.labels).float().mean()
        table.add_row(
            name,
            f"{statistics.median(spent):.3f}",
            f"{statistics.median(ratios):.3f}",
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            f"{fooled:.1%}",
            f"{(last[name] - scene.images).abs().max():.4f}",
        )
    return table


@click.command()
@click.option("--model", default="cnn", show_default=True, help="cnn, or a torchvision name.")
@click.option("--size", default=32, show_default=True, help="Pixels.")
@click.option("--images", "count", default=500, show_default=True)
@click.option("--batch", default=100, show_default=True, help="Images at a time, for everybody.")
@click.option("--repeats", default=7, show_default=True)
@click.option("--epochs", default=4, show_default=True, help="Of training on digits.")
@click.option("--epsilon", default=0.1, show_default=True, help="Under linf.")
def main(model: str, size: int, count: int, batch: int, repeats: int, epochs: int, epsilon: float) -> None:
    """Time FGSM and PGD beside their bare passes and the peers."""
    warnings.filterwarnings("ignore")  # the peers' own, about themselves
    scene, console = make_scene(model, size, count, epochs, epsilon), Console(width=120)
    right = (scene.target.labels(scene.images) == scene.labels).float().mean()
    threads = torch.get_num_threads()
    for name, attacks in competitors(scene, batch, console).items():
        table = measure(attacks, scene, batch, repeats)
        table.title = (
            f"{name}, {model} {size} px, {count} images in batches of {batch}, linf {epsilon:g}, {repeats} repeats, "
            f"{threads} threads; {right:.1%} right before"
        )
        console.print(table)


if __name__ == "__main__":
    main()
