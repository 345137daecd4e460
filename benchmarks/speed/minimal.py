"""What minimal perturbations cost beside the peers': the same images on the same network, in turns.

    python benchmarks/speed/minimal.py                                   # a small CNN and a ResNet-18, 32 pixels
    python benchmarks/speed/minimal.py --attacks deepfool,carlini-wagner,ddn,fmn --count 64 --repeats 5
    python benchmarks/speed/minimal.py --size 224 --architecture resnet50 --count 4 --repeats 3

At 32 pixels the networks are trained on digits first, or come from the cache; at another size the network is
torchvision's, with random weights unless --weights names some, on random images. Every output is scored by one pass of
its own; the ratio is the median, over repeats, of the peer's time to ours.
"""

import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset, DatasetSpec, load_dataset
from advbench.methods import Context
from advbench.methods.geometry import lengths
from advbench.progress import SILENT
from advbench.runtime import Runtime
from advbench.targets import ClassifierSpec, ModuleTarget, Training, make_classifier
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

Attack = Callable[[], Tensor]
NORMS = {
    "deepfool": (Norm.L2, Norm.LINF),
    "carlini-wagner": (Norm.L2,),
    "ddn": (Norm.L2,),
    "fmn": (Norm.LINF, Norm.L2, Norm.L1),
}
ORDERS = {Norm.LINF: float("inf"), Norm.L2: 2, Norm.L1: 1}
OURS: dict[str, dict[str, Any]] = {"carlini-wagner": {"max_steps": 50, "searches": 3, "initial_c": 1.0}}
FOOLBOX = {
    ("deepfool", Norm.L2): "L2DeepFoolAttack",
    ("deepfool", Norm.LINF): "LinfDeepFoolAttack",
    ("carlini-wagner", Norm.L2): "L2CarliniWagnerAttack",
    ("ddn", Norm.L2): "DDNAttack",
    ("fmn", Norm.LINF): "LInfFMNAttack",
    ("fmn", Norm.L2): "L2FMNAttack",
    ("fmn", Norm.L1): "L1FMNAttack",
}


def small_cnn(digits: Dataset) -> nn.Module:
    """Three convolutions, trained for a few epochs."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))
    adam = torch.optim.Adam(network.parameters(), 2e-3)
    for rows in (part for _ in range(8) for part in torch.randperm(len(digits.fit)).split(64)):
        adam.zero_grad()
        nn.functional.cross_entropy(network(digits.fit.images(rows)), digits.fit.labels[rows]).backward()
        adam.step()
    return network


def on_digits(count: int) -> tuple[list[ModuleTarget], Tensor]:
    digits = load_dataset(DatasetSpec(limit=count))
    spec = ClassifierSpec(architecture="resnet18", training=Training(epochs=12))
    trained = make_classifier(spec, digits, Runtime(device="cpu"), SILENT)
    assert isinstance(trained, nn.Module)
    targets = [
        ModuleTarget(small_cnn(digits), 10, "small CNN", folds=True),
        ModuleTarget(trained, 10, "ResNet-18", folds=True),
    ]
    return targets, digits.evaluation.images(slice(0, count))


def from_torchvision(
    architecture: str, weights: str | None, size: int, count: int
) -> tuple[list[ModuleTarget], Tensor]:
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(architecture, weights=weights)
    images = torch.rand(count, 3, size, size)
    return [ModuleTarget(network, 1000, f"{architecture}, {weights or 'random weights'}", folds=True)], images


def ours(target: ModuleTarget, images: Tensor, attack: str, norm: Norm) -> Tensor:
    rows = torch.arange(len(images))
    door = perturb_access(target, THREATS["white-box"], QueryLedger(len(images)), rows, rows)
    context = Context(Goal.DEGRADE, Budget(norm=norm), 0, images.shape[-1], target.num_classes)
    return build_method(attack, OURS.get(attack, {})).restore({}, context).perturb(images, door)


def by_adv_lib(module: nn.Module, images: Tensor, labels: Tensor, attack: str, norm: Norm, classes: int) -> Attack:
    stub = types.ModuleType("visdom")  # for drawing alone
    stub.Visdom = object  # type: ignore[attr-defined]
    sys.modules.setdefault("visdom", stub)
    from adv_lib import attacks

    if attack == "deepfool" and classes > 10:
        raise ImportError("it takes the gradients of all classes")
    if attack == "deepfool":
        return partial(attacks.df, module, images, labels, steps=50, norm=ORDERS[norm])
    if attack == "fmn":
        return partial(attacks.fmn, module, images, labels, norm=ORDERS[norm], steps=100)
    if attack == "ddn":
        return partial(attacks.ddn, module, images, labels, steps=100, γ=0.05)
    return partial(
        attacks.carlini_wagner_l2, module, images, labels,
        max_iterations=50, binary_search_steps=3, initial_const=1.0,
    )  # fmt: skip


def by_foolbox(module: nn.Module, images: Tensor, labels: Tensor, attack: str, norm: Norm, _: int) -> Attack:
    import foolbox

    options = {"carlini-wagner": {"steps": 50, "binary_search_steps": 3, "initial_const": 1.0}}.get(attack, {})
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    made = getattr(foolbox.attacks, FOOLBOX[attack, norm])(**options)

    def run() -> Tensor:
        perturbed: Tensor = made(model, images, labels, epsilons=None)[0]
        return perturbed

    return run


def by_torchattacks(module: nn.Module, images: Tensor, labels: Tensor, attack: str, norm: Norm, classes: int) -> Attack:
    if attack != "deepfool" or norm is not Norm.L2 or classes > 10:
        raise ImportError("it has no such attack at this size")
    import torchattacks

    return partial(torchattacks.DeepFool(module, steps=50, overshoot=0.02), images, labels)


def by_art(
    module: nn.Module, images: Tensor, _: Tensor, attack: str, norm: Norm, classes: int, batch_size: int | None = None
) -> Attack:
    if attack != "deepfool" or norm is not Norm.L2:
        raise ImportError("it has no such attack")
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(images.shape[1:])
    model = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu"
    )  # fmt: skip
    made = DeepFool(model, max_iter=50, epsilon=0.02, nb_grads=10, batch_size=batch_size or len(images), verbose=False)
    return lambda: torch.from_numpy(made.generate(images.numpy()))


PEERS: dict[str, Callable[..., Attack]] = {
    "adv-lib": by_adv_lib,
    "Foolbox": by_foolbox,
    "torchattacks": by_torchattacks,
    "ART": by_art,
    "ART, its default batch of 1": partial(by_art, batch_size=1),
}


def rivals(target: ModuleTarget, images: Tensor, attack: str, norm: Norm, console: Console) -> dict[str, Attack]:
    """Ours and every peer's that is installed and has this attack."""
    labels = target.labels(images)
    runs: dict[str, Attack] = {"advbench": partial(ours, target, images, attack, norm)}
    for name, make in PEERS.items():
        try:
            runs[name] = make(target.module(), images, labels, attack, norm, target.num_classes)
        except ImportError as error:
            console.print(f"{name} is left out of {attack} {norm}: {error}")
    return runs


def compare(target: ModuleTarget, images: Tensor, attack: str, norm: Norm, repeats: int, console: Console) -> Table:
    runs = rivals(target, images, attack, norm, console)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    outputs: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            outputs[name] = run()
            if repeat:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    labels = target.labels(images)
    title = f"{attack} {norm}: {target.name}, {len(images)} images of {images.shape[-1]} px, {repeats} repeats"
    table = Table(title=title)
    for column in ("by", "seconds", "x ours", "min - max", "fooled", "mean norm"):
        table.add_column(column, justify="right")
    for name, perturbed in outputs.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["advbench"], strict=True)]
        table.add_row(
            name,
            f"{statistics.median(seconds[name]):.3f}",
            f"{statistics.median(ratios):.2f}",
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            f"{(target.labels(perturbed) != labels).float().mean():.3f}",
            f"{lengths(perturbed - images, norm).mean():.5f}",
        )
    return table


@click.command()
@click.option("--attacks", default="deepfool", show_default=True, help="Separated by commas.")
@click.option("--size", default=32, show_default=True, help="Pixels.")
@click.option("--architecture", default="resnet18", show_default=True, help="Of torchvision, where not 32 pixels.")
@click.option("--weights", help="Of torchvision, such as IMAGENET1K_V1.")
@click.option("--count", default=32, show_default=True, help="Images.")
@click.option("--repeats", default=5, show_default=True)
def main(attacks: str, size: int, architecture: str, weights: str | None, count: int, repeats: int) -> None:
    """Time minimal perturbations beside the peers'."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    console = Console()
    targets, images = on_digits(count) if size == 32 else from_torchvision(architecture, weights, size, count)
    for target in targets:
        for attack in attacks.split(","):
            for norm in NORMS[attack]:
                console.print(compare(target, images, attack, norm, repeats, console))


if __name__ == "__main__":
    main()
