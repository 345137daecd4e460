"""Names for attacks and datasets: literal tables, extended by other packages through entry points.

Nothing here imports what it names before it is asked to, so that listing names and showing help stays instant. Another
package adds an attack with, in its ``pyproject.toml``::

    [project.entry-points."advbench.attacks"]
    my-attack = "my_package:MyAttack"
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from advbench.errors import InvalidConfig, UnknownName

__all__ = ["ATTACKS", "DATASETS", "Entry", "Registry"]


@dataclass(frozen=True)
class Entry:
    """What one name stands for.

    Args:
        location: ``module:attribute``.
        summary: One line for listings.
        presets: Parameters that this name fixes, for several names of one class.
        alias_of: The name that results are filed under, when this is another word for it.
    """

    location: str
    summary: str
    presets: Mapping[str, Any] = field(default_factory=dict)
    alias_of: str | None = None


class Registry:
    """Names of one kind.

    Args:
        kind: What the names are, for messages.
        group: The entry-point group through which other packages add names.
        table: The built-in names.
        families: By prefix, functions that make what ``prefix:NAME`` stands for, given NAME: names that only another
            library knows, and is asked for.
    """

    def __init__(
        self, kind: str, group: str, table: Mapping[str, Entry], families: Mapping[str, Entry] = MappingProxyType({})
    ) -> None:
        self._kind, self._group, self._table = kind, group, MappingProxyType(dict(table))
        self.families = MappingProxyType(dict(families))

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """All names, sorted.

        Raises:
            InvalidConfig: A package registers a name that is taken.
        """
        found = dict(self._table)
        for point in entry_points(group=self._group):
            if point.name in found:
                raise InvalidConfig(
                    f"{self._kind} '{point.name}' is registered twice, here and by {point.value}; "
                    "uninstall or rename one of the two"
                )
            found[point.name] = Entry(point.value, f"from {point.value}")
        return MappingProxyType(dict(sorted(found.items())))

    def entry(self, name: str) -> Entry:
        """Look a name up. A name with a family's prefix is only known to be one when it is loaded.

        Raises:
            UnknownName: Nothing is registered under it.
        """
        prefix, colon, rest = name.partition(":")
        if colon and prefix in self.families:
            return replace(self.families[prefix], summary=f"{rest}: {self.families[prefix].summary}")
        if name not in self.entries:
            raise UnknownName(self._kind, name, [*self.entries, *(f"{prefix}:NAME" for prefix in self.families)])
        return self.entries[name]

    def canonical(self, name: str) -> str:
        """The name that results are filed under."""
        return self.entry(name).alias_of or name

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            UnknownName: Nothing is registered under it, or the library of its prefix does not have it.
        """
        module, _, attribute = self.entry(name).location.partition(":")
        found = getattr(import_module(module), attribute)
        prefix, colon, rest = name.partition(":")
        return found(rest) if colon and prefix in self.families else found


def _peer(module: str, library: str, example: str) -> Entry:
    return Entry(f"advbench.methods.adapters.{module}:adapt", f"an attack of {library}, such as {example}")


def _pgn(summary: str, **presets: Any) -> Entry:
    return Entry("advbench.methods.pgn:PGN", summary, presets)


ATTACKS = Registry(
    "attack",
    "advbench.attacks",
    {
        "eha": Entry("advbench.methods.fgsm:FGSM", "the paper's name for fgsm", alias_of="fgsm"),
        "fgsm": Entry("advbench.methods.fgsm:FGSM", "fast gradient sign method (Goodfellow et al. 2014)"),
        "noise": Entry("advbench.methods.noise:Noise", "random noise at the same budget: the control of every table"),
        "pgd": Entry("advbench.methods.pgd:PGD", "projected gradient descent (Madry et al. 2018)"),
        "pgn-101": _pgn(
            "perturbation generation network, ResNet-101 encoder, discriminator like the target", variant="101"
        ),
        "pgn-50": _pgn(
            "perturbation generation network, ResNet-50 encoder, discriminator like the target", variant="50"
        ),
        "pgn-b": _pgn("perturbation generation network that only sees the target's predicted labels (Proposed-B)"),
    },
    families={
        "adv-lib": _peer("adv_lib", "adv-lib (optional)", "adv-lib:ddn"),
        "art": _peer("art", "the Adversarial Robustness Toolbox", "art:HopSkipJump"),
        "foolbox": _peer("foolbox", "Foolbox", "foolbox:L2DeepFoolAttack"),
        "torchattacks": _peer("torchattacks", "torchattacks (optional)", "torchattacks:MIFGSM"),
    },
)


def _dataset(loader: str, summary: str) -> Entry:
    return Entry(f"advbench.datasets.catalog:{loader}", summary)


DATASETS = Registry(
    "dataset",
    "advbench.datasets",
    {
        "cifar10": _dataset("load_cifar10", "CIFAR-10, 32 px, 10 classes (torchvision)"),
        "cifar100": _dataset("load_cifar100", "CIFAR-100, 32 px, 100 classes (torchvision)"),
        "digits": _dataset("load_digits_dataset", "scikit-learn's handwritten digits, 32 px; embedded, the default"),
        "fashion-mnist": _dataset("load_fashion_mnist", "Fashion-MNIST, 28 px, 10 classes (torchvision)"),
        "imagefolder": _dataset("load_folders", "train/ and val/ (or one folder), a sub-folder a class, 224 px"),
        "imagenet-N": _dataset("load_folders", "N classes drawn from an ImageNet-style folder: imagenet-10, -50"),
        "mnist": _dataset("load_mnist", "MNIST, 28 px, 10 classes (torchvision)"),
        "stl10": _dataset("load_stl10", "STL-10, 96 px, 10 classes; the labelled binary files suffice"),
        "svhn": _dataset("load_svhn", "Street View House Numbers, 32 px, 10 classes (torchvision)"),
    },
)
