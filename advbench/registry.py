"""Names for attacks and datasets: literal tables, extended by other packages through entry points.

Nothing here imports what it names before it is asked to, so that listing names and showing help stays instant. Another
package adds an attack with, in its ``pyproject.toml``::

    [project.entry-points."advbench.attacks"]
    my-attack = "my_package:MyAttack"
"""

import functools
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
        distribution: The package whose version decides what it does, where that is another library.
        package: The package that registers it, where that is not advbench.
    """

    location: str
    summary: str
    presets: Mapping[str, Any] = field(default_factory=dict)
    alias_of: str | None = None
    distribution: str | None = None
    package: str | None = None


class Registry:
    """Names of one kind.

    Args:
        kind: What the names are, for messages.
        group: The entry-point group through which other packages add names.
        table: The built-in names.
        fault: ``module:function`` that says what is wrong with what another package adds, or None where nothing is.
        families: By prefix, functions that make what ``prefix:NAME`` stands for, given NAME: names that only another
            library knows, and is asked for.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        table: Mapping[str, Entry],
        fault: str,
        families: Mapping[str, Entry] = MappingProxyType({}),
    ) -> None:
        self._kind, self._group, self._table, self._fault = kind, group, MappingProxyType(dict(table)), fault
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
            package = point.dist.name if point.dist else point.value.partition(".")[0]
            found[point.name] = Entry(point.value, f"from {point.value}", package=package)
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
            known = [*self.entries, *(f"{prefix}:NAME" for prefix in self.families)]
            raise UnknownName(self._kind, name, known, option=self._kind)
        return self.entries[name]

    def canonical(self, name: str) -> str:
        """The name that results are filed under."""
        return self.entry(name).alias_of or name

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            UnknownName: Nothing is registered under it, or the library of its prefix does not have it.
            InvalidConfig: Another package registers it, and it cannot be imported or is not what it has to be.
        """
        entry = self.entry(name)
        if entry.package is not None:
            return self._foreign(name, entry)
        found = _imported(entry.location)
        prefix, colon, rest = name.partition(":")
        return found(rest) if colon and prefix in self.families else found

    def _foreign(self, name: str, entry: Entry) -> Any:
        whose = f"{self._kind} '{name}' of package {entry.package}"
        try:
            found = _imported(entry.location)
        except Exception as error:  # its own code runs here, and may raise anything
            reason = f"cannot import {entry.location}: {type(error).__name__}: {error}"
            raise InvalidConfig(f"{whose}: {reason}; mend the package, or uninstall it", option=self._kind) from error
        fault = _imported(self._fault)(found)
        if fault is not None:
            raise InvalidConfig(f"{whose}: {entry.location} {fault}", option=self._kind)
        return found


def _imported(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return functools.reduce(getattr, attribute.split("."), import_module(module))


def _peer(module: str, distribution: str, library: str, example: str) -> Entry:
    location, summary = f"advbench.methods.adapters.{module}:adapt", f"an attack of {library}, such as {example}"
    return Entry(location, summary, distribution=distribution)


def _pgn(summary: str, **presets: Any) -> Entry:
    return Entry("advbench.methods.pgn:PGN", summary, presets)


def _momentum(summary: str, **presets: Any) -> Entry:
    return Entry("advbench.methods.momentum:MomentumMethod", summary, presets)


ATTACKS = Registry(
    "attack",
    "advbench.attacks",
    {
        "advgan": Entry(
            "advbench.methods.generators:AdvGAN",
            "generator between the target's margin and a discriminator of real images (Xiao et al. 2018)",
        ),
        "apgd-ce": Entry(
            "advbench.methods.apgd:APGD", "AutoPGD on the cross-entropy (Croce & Hein 2020)", {"loss": "ce"}
        ),
        "apgd-dlr": Entry("advbench.methods.apgd:APGD", "AutoPGD on the difference of logits ratio", {"loss": "dlr"}),
        "apgd-t": Entry("advbench.methods.apgd_t:APGDT", "AutoPGD towards each of the nearest classes"),
        "atn": Entry("advbench.methods.generators:ATN", "adversarial transformation network (Baluja and Fischer 2017)"),
        "autoattack": Entry(
            "advbench.methods.autoattack:AutoAttack", "AutoAttack, standard or rand: apgd-ce, apgd-t, fab-t, square"
        ),
        "carlini-wagner": Entry(
            "advbench.methods.carlini_wagner:CarliniWagner", "minimal l2 perturbations by Adam (Carlini, Wagner 2017)"
        ),
        "ddn": Entry("advbench.methods.ddn:DDN", "decoupled direction and norm, minimal l2 (Rony et al. 2019)"),
        "deepfool": Entry(
            "advbench.methods.deepfool:DeepFool", "minimal l2 or linf perturbations (Moosavi-Dezfooli et al. 2016)"
        ),
        "di-fgsm": _momentum(
            "gradient steps through images shrunk and padded at random (Xie et al. 2019)", decay=0.0, diversity=0.5
        ),
        "eha": Entry("advbench.methods.fgsm:FGSM", "the paper's name for fgsm", alias_of="fgsm"),
        "fab-t": Entry("advbench.methods.fab:FABT", "fast adaptive boundary attack, targeted: minimal perturbations"),
        "fast-feature-fool": Entry(
            "advbench.methods.fast_feature_fool:FastFeatureFool",
            "universal perturbation from the target's weights, without data (Mopuri et al. 2017)",
        ),
        "fgsm": Entry("advbench.methods.fgsm:FGSM", "fast gradient sign method (Goodfellow et al. 2014)"),
        "fmn": Entry("advbench.methods.fmn:FMN", "fast minimum-norm, linf, l2 or l1 (Pintor et al. 2021)"),
        "gap": Entry("advbench.methods.generators:GAP", "generative adversarial perturbations (Poursaeed et al. 2018)"),
        "gap-universal": Entry(
            "advbench.methods.generators:GAP",
            "generative adversarial perturbations, one for all images (Poursaeed et al. 2018)",
            {"universal": True},
        ),
        "gradient-uap": Entry(
            "advbench.methods.gradient_uap:GradientUAP",
            "universal perturbation by stochastic gradients (Shafahi et al. 2020)",
        ),
        "identity": Entry("advbench.methods.identity:Identity", "the clean image: the zero line of every table"),
        "jpeg": Entry("advbench.methods.jpeg:JPEG", "JPEG re-compression (Dziugaite et al. 2016)"),
        "mi-fgsm": _momentum("gradient steps with momentum, made to transfer (Dong et al. 2018)"),
        "nes": Entry("advbench.methods.nes:NES", "gradients estimated from scores (Ilyas et al. 2018)"),
        "ni-fgsm": _momentum("momentum, with gradients a step ahead (Lin et al. 2020)", nesterov=True),
        "noise": Entry("advbench.methods.noise:Noise", "random noise at the same budget: the control of every table"),
        "pgd": Entry("advbench.methods.pgd:PGD", "projected gradient descent (Madry et al. 2018)"),
        "pgn-101": _pgn(
            "perturbation generation network, ResNet-101 encoder, discriminator like the target", variant="101"
        ),
        "pgn-50": _pgn(
            "perturbation generation network, ResNet-50 encoder, discriminator like the target", variant="50"
        ),
        "pgn-b": _pgn("perturbation generation network that only sees the target's predicted labels (Proposed-B)"),
        "prompt": Entry(
            "advbench.methods.prompt:Prompt", "visual prompt, one pattern for all images (Bahng et al. 2022)"
        ),
        "si-ni-fgsm": _momentum(
            "momentum, a step ahead, over copies of less brightness (Lin et al. 2020)", nesterov=True, scales=5
        ),
        "simba": Entry("advbench.methods.simba:SimBA", "random steps kept where scores get worse (Guo et al. 2019)"),
        "square": Entry("advbench.methods.square:Square", "Square Attack: random search by scores alone"),
        "ti-fgsm": _momentum("momentum on smoothed gradients: TI-MI-FGSM (Dong et al. 2019)", kernel=15),
        "tta": Entry(
            "advbench.methods.tta:TestTimeAugmentation", "the surest of several shifted and scaled versions of an image"
        ),
        "uap": Entry("advbench.methods.uap:UAP", "universal adversarial perturbation (Moosavi-Dezfooli et al. 2017)"),
        "vmi-fgsm": _momentum("momentum, with gradients tuned by those around (Wang, He 2021)", neighbours=20),
    },
    "advbench.methods.foreign:fault_of",
    families={
        "adv-lib": _peer("adv_lib", "adv-lib", "adv-lib (optional)", "adv-lib:ddn"),
        "art": _peer("art", "adversarial-robustness-toolbox", "the Adversarial Robustness Toolbox", "art:HopSkipJump"),
        "foolbox": _peer("foolbox", "foolbox", "Foolbox", "foolbox:L2DeepFoolAttack"),
        "torchattacks": _peer("torchattacks", "torchattacks", "torchattacks (optional)", "torchattacks:MIFGSM"),
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
    "advbench.datasets.foreign:fault_of",
)
