"""Options that several commands share, and those that come from a method's own fields."""

import functools
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from advbench.errors import AdvbenchError, InvalidConfig, UnknownName
from advbench.registry import ATTACKS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from advbench.baselines import Baseline
    from advbench.datasets import DatasetSpec
    from advbench.runtime import Runtime
    from advbench.targets import ClassifierSpec

__all__ = [
    "RATE",
    "RESULTS",
    "MethodOptions",
    "baseline_of",
    "dataset_of",
    "describe_attack",
    "runtime_of",
    "surrogates_of",
    "target_options",
    "training_of",
]

RESULTS = click.option(
    "--results",
    default="advbench-results",
    envvar="ADVBENCH_RESULTS",
    show_default=True,
    help="Folder of results, or a URL that fsspec knows: s3://...",
)


class _Rate(click.FloatRange):
    """A number above 0, and no NaN, which click would let pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        rate = float(super().convert(value, param, ctx))
        if not math.isfinite(rate):
            self.fail(f"{value} is no rate: expected a number above 0, such as 5e-4.", param, ctx)
        return rate


RATE = _Rate(0, min_open=True)

_TARGET_OPTIONS = (
    click.option("--target", required=True, metavar="NAME", help="torchvision name, timm:NAME or MODULE:FACTORY."),
    click.option("--init", default="scratch", show_default=True, help="scratch, imagenet, or a checkpoint's path."),
    click.option("--target-normalisation", type=click.Choice(["none", "imagenet", "half"]),
                 help="Put inside the target. With --init imagenet what its weights expect, imagenet for folders of "
                      "images, else none."),
    click.option("--target-images", type=click.IntRange(2), metavar="N",
                 help="Fit images that the target sees. All, if left out."),
    click.option("--target-epochs", type=click.IntRange(0), help="20, or 0 for a checkpoint or one's own factory."),
    click.option("--target-lr", default=5e-4, show_default=True, type=RATE, help="Adam's rate for the target."),
    click.option("--target-batch", default=64, show_default=True, type=click.IntRange(2), help="Images a step."),
    click.option("--dataset", default="digits", show_default=True, help="See 'advbench list datasets'."),
    click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True,
                 envvar="ADVBENCH_DATA", help="Folder of the dataset's files."),
    click.option("--download/--no-download", help="Fetch a torchvision dataset that is missing."),
    click.option("--image-size", type=click.IntRange(8, 1024), metavar="PX",
                 help="Scale images. The dataset's own size, if left out."),
    click.option("--class-seed", default=0, show_default=True, help="Which classes imagenet-N draws."),
    click.option("--seed", default=0, show_default=True, help="Of everything random."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
    click.option("--devices", default=1, show_default=True, type=click.IntRange(1), help="Share each batch among N."),
    click.option("--precision", default="32-true", show_default=True,
                 type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]), help="Of fitting; scoring is float32."),
)  # fmt: skip


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that makes a target takes."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_TARGET_OPTIONS), command)


def training_of(given: dict[str, Any]) -> "ClassifierSpec":
    """The target's specification from the command line's values.

    Raises:
        InvalidConfig: A target that is not trained is told how to be.
    """
    from advbench.targets import ClassifierSpec, Normalisation, Training, imagenet_normalisation

    architecture, init = given["target"], given["init"]
    own = ":" in architecture and not architecture.startswith("timm:")
    epochs = given["target_epochs"]
    if epochs is None:
        epochs = 0 if own or init not in ("scratch", "imagenet") else 20
    if not epochs and given["target_images"] is not None:
        raise InvalidConfig(
            f"{architecture} is not trained here, on no images: leave out --target-images, or give --target-epochs",
            option="target-images",
        )
    if own and not epochs and given["target_normalisation"] is not None:
        raise InvalidConfig(
            f"{architecture} is taken as its factory gives it: normalise in its forward, and leave out "
            "--target-normalisation, or give --target-epochs",
            option="target-normalisation",
        )
    usual: Normalisation = "imagenet" if given["dataset"].startswith("image") and (epochs or not own) else "none"
    if init == "imagenet":
        usual = imagenet_normalisation(architecture)
    normalisation = given["target_normalisation"] or usual
    return ClassifierSpec(
        architecture=architecture,
        init=init,
        normalisation=normalisation,
        training=Training(
            epochs=epochs,
            images=given["target_images"],
            learning_rate=given["target_lr"],
            batch_size=given["target_batch"],
            precision=given["precision"],
            seed=given["seed"],
        ),
    )


def surrogates_of(given: dict[str, Any]) -> "list[ClassifierSpec]":
    """The surrogates' specifications from the command line's values.

    Raises:
        InvalidConfig: There are not as many first weights as surrogates.
    """
    from advbench.targets import ClassifierSpec, Training

    names = given["via"].split(",") if given["via"] else []
    weights = given["via_weights"].split(",") if given["via_weights"] else ["scratch"] * len(names)
    if len(weights) != len(names):
        raise InvalidConfig(
            f"--via-weights names {len(weights)} files for {len(names)} surrogates: give one for each",
            option="via-weights",
        )
    return [
        ClassifierSpec(
            architecture=name,
            init=init,
            normalisation=given["via_normalisation"],
            # One architecture named twice is two networks.
            training=Training(
                seed=given["seed"] + names[:position].count(name),
                epochs=given["via_epochs"],
                learning_rate=given["via_lr"],
                batch_size=given["via_batch"],
            ),
        )
        for position, (name, init) in enumerate(zip(names, weights, strict=True))
    ]


def dataset_of(given: dict[str, Any], **limits: int | None) -> "DatasetSpec":
    """The dataset's specification from the command line's values."""
    from advbench.datasets import DatasetSpec

    return DatasetSpec(
        name=given["dataset"],
        image_size=given["image_size"],
        folder=given["data"],
        download=given["download"],
        class_seed=given["class_seed"],
        **limits,
    )


def runtime_of(given: dict[str, Any]) -> "Runtime":
    """Where to compute, from the command line's values."""
    from advbench.runtime import Runtime

    return Runtime(device=given["device"], devices=given["devices"], precision=given["precision"])


def baseline_of(context: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Put a baseline's attack and budget in place where one is asked for, and give its parameters.

    What the user gives goes before what the file says; a run is filed under the attack and all of its parameters, so
    it is the same result whichever way they were given.
    """
    from advbench.baselines import find_baseline

    baseline = find_baseline(given["attack"])
    given["baseline"] = None
    if baseline is None:
        return {}
    given["baseline"], given["attack"] = given["attack"], baseline.attack.name
    if context.get_parameter_source("norm") is click.core.ParameterSource.DEFAULT:
        given["norm"] = str(baseline.attack.norm)
    # Under another norm, the file's epsilon would mean nothing.
    if given["epsilon"] is None and given["norm"] == baseline.attack.norm and baseline.attack.epsilon is not None:
        given["epsilon"] = str(baseline.attack.epsilon)
    return dict(baseline.attack.parameters)


class MethodOptions:
    """A method's own options, read from what the command did not know.

    Args:
        attack: The method's name.
        arguments: ``--name value``, ``--name=value``, or ``--flag`` / ``--no-flag`` for truth values.

    Raises:
        UnknownName: The method has no such option; the nearest of all is suggested.
        InvalidConfig: An option lacks its value.
    """

    def __init__(self, attack: str, arguments: Sequence[str]) -> None:
        fields = ATTACKS.load(attack).model_fields
        self._types = {_option(name, field): field.annotation for name, field in fields.items()}
        self.values: dict[str, Any] = {}
        words, flag = list(arguments), ""
        while words:
            word = words.pop(0)
            if not word.startswith("--"):
                after = f" after --{flag}, which takes no value" if flag else ""
                raise InvalidConfig(f"unexpected '{word}'{after}: options are written --name value", option=flag)
            name, equals, value = word[2:].partition("=")
            flag = name.removeprefix("no-")
            if not equals and self._is_flag(flag):
                self._set(flag, flag == name)
                continue
            self._check(attack, name)
            if not equals:
                if not words:
                    raise InvalidConfig(f"--{name} needs a value", option=name)
                value = words.pop(0)
            self._set(name, value)
            flag = ""

    def _check(self, attack: str, name: str) -> None:
        if name in self._types:
            return
        context = click.get_current_context(silent=True)
        general = [option for parameter in (context.command.params if context else []) for option in parameter.opts]
        own = [f"--{known}" for known in self._types]
        kind, flag = f"option of 'advbench run --attack {attack}'", name.removeprefix("no-")
        raise UnknownName(kind, f"--{name}", [*own, *general], option=flag)

    def _is_flag(self, name: str) -> bool:
        annotation = self._types.get(name)
        return annotation is bool or bool in get_args(annotation)

    def _set(self, name: str, value: Any) -> None:
        self.values[name.replace("-", "_")] = value


def _option(name: str, field: Any) -> str:
    return str(field.alias or name).replace("_", "-")


def describe_attack(attack: str) -> "RenderableType":
    """A method's description and a table of its options, from its docstring and fields."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from advbench.baselines import find_baseline

    baseline = find_baseline(attack)
    name = attack if baseline is None else baseline.attack.name
    entry, kind = ATTACKS.entry(name), ATTACKS.load(name)
    presets = {**entry.presets, **(baseline.attack.parameters if baseline else {})}
    left_open = _left_open(name, baseline.attack.parameters if baseline else {})
    text, _, _ = kind.__doc__.partition("    Args:")
    meanings = _meanings(kind)
    table = Table(box=SIMPLE_HEAD)
    for column in ("option", "default", "meaning"):
        table.add_column(column, no_wrap=column == "option")
    for known, field in kind.model_fields.items():
        default = presets.get(known, "required" if field.is_required() else field.default)
        shown = left_open[known] if default is None else str(default)
        table.add_row(f"--{_option(known, field)}", shown, meanings.get(known, ""))
    lines = [line.removeprefix("    ") for line in text.strip().splitlines()]
    title = entry.summary if baseline is None else f"{baseline.title}, by {name}"
    origin = "" if baseline is None else _origin(baseline)
    return Group(Text(f"{attack}: {title}\n", style="bold"), Text("\n".join(lines)), table, Text(origin))


def _left_open(attack: str, options: dict[str, Any]) -> dict[str, str]:
    """What fills in the fields that a method leaves open: which parts of the setting, and the values they gave."""
    from advbench.methods import Setting, build_method
    from advbench.threat import Budget

    resolved = {}
    with suppress(AdvbenchError):  # an option without any default is required
        method = build_method(attack, options)
        for place in itertools.product(sorted(method.goals), (None, 0.1), (32, 224), ("resnet18", "vgg16")):
            goal, epsilon, size, target = place
            with suppress(AdvbenchError):  # some need a bound
                budget = Budget(norm=min(method.norms), epsilon=epsilon)
                resolved[place] = dict(method.resolve(Setting(goal, budget, size, target)))
    found = {}
    for name in ATTACKS.load(attack).model_fields:
        values = {place: "-" if fields[name] is None else str(fields[name]) for place, fields in resolved.items()}
        by = [part for number, part in enumerate(("goal", "bound", "size", "target")) if _differ(values, number)]
        distinct = ", ".join(dict.fromkeys(values.values())) or "-"
        found[name] = f"by {', '.join(by)} ({distinct})" if by else distinct
    return found


def _differ(values: Mapping[tuple[Any, ...], str], number: int) -> bool:
    """Whether values differ between places that differ in the part of this number alone."""
    alike: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for place, value in values.items():
        alike[place[:number] + place[number + 1 :]].add(value)
    return any(len(found) > 1 for found in alike.values())


def _origin(baseline: "Baseline") -> str:
    """What a baseline cites."""
    attack = baseline.attack
    budget = f"published in {attack.norm}" + ("" if attack.epsilon is None else f" with epsilon {attack.epsilon:.6g}")
    cited = [f"{citation.paper}, {citation.link}" for citation in baseline.citation]
    return "\n".join([*cited, f"{budget}. {attack.note}".strip()])


def _meanings(kind: type) -> dict[str, str]:
    """Each field's line under 'Args:' in the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, arguments = (base.__doc__ or "").partition("Args:\n")
        for name, meaning in re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", arguments, flags=re.MULTILINE):
            found[name] = re.sub(r"\s+", " ", meaning.replace("``", ""))
    return found
