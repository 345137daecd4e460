"""Networks by name: every torchvision classifier, timm's where it is installed, or one's own factory."""

import inspect
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advbench.errors import InvalidConfig, UnknownName
from advbench.files import digest, file_hash
from advbench.targets.base import Classifier, Normalise, Target

__all__ = [
    "NORMALISATIONS",
    "Normalisation",
    "build_network",
    "check_architecture",
    "check_takes",
    "imagenet_normalisation",
    "is_own",
    "known_architectures",
    "normaliser",
    "own_digest",
    "own_factory",
    "own_source",
]

Normalisation = Literal["none", "imagenet", "half"]

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation a channel; ``none`` leaves [0, 1] as it is."""

VERSIONED = ("advbench", "timm", "torch", "torchvision")
"""Packages whose source no result is named by: advbench's own code has a hash of its own, the others a version."""


def imagenet_normalisation(architecture: str) -> Normalisation:
    """What torchvision's ImageNet weights expect: of GoogLeNet and Inception v3 they are a port that had its own."""
    return "half" if architecture in ("googlenet", "inception_v3") else "imagenet"


def normaliser(name: Normalisation) -> nn.Module:
    """The layer that a normalisation's name stands for."""
    return nn.Identity() if name == "none" else Normalise(*NORMALISATIONS[name])


@cache
def known_architectures() -> tuple[str, ...]:
    """The names of torchvision's classifiers."""
    import torchvision  # lazy: takes a second

    return tuple(torchvision.models.list_models(module=torchvision.models))


def is_own(architecture: str) -> bool:
    """Whether ``module:factory`` names a factory of one's own."""
    return ":" in architecture and not architecture.startswith("timm:")


def check_architecture(name: str, option: str = "target") -> None:
    """Refuse a name that stands for no classifier; timm's and one's own are only asked for when they are made.

    Args:
        name: A torchvision name, or one with a colon.
        option: The command's, for messages.

    Raises:
        UnknownName: There is no such architecture.
    """
    if ":" not in name and name not in known_architectures():
        raise UnknownName("target", name, known_architectures(), option=option)


def build_network(architecture: str, num_classes: int, image_size: int) -> nn.Module:
    """Build a network with fresh weights from torch's global generator.

    Args:
        architecture: A torchvision name, or ``timm:NAME``.
        num_classes: Of the head.
        image_size: Height and width in pixels; the network is checked to take it.

    Raises:
        UnknownName: There is no such architecture.
        InvalidConfig: timm is not installed, or the architecture cannot take images of this size.
    """
    if architecture.startswith("timm:"):
        network = _timm_network(architecture.removeprefix("timm:"), num_classes)
    else:
        import torchvision  # lazy: takes a second

        check_architecture(architecture)
        try:
            network = torchvision.models.get_model(architecture, **_arguments(architecture, num_classes, image_size))
        except ValueError as error:
            raise InvalidConfig(_misfit(architecture, image_size, error)) from error
    check_takes(network, architecture, image_size)
    return network


def _arguments(architecture: str, num_classes: int, image_size: int) -> dict[str, Any]:
    import torchvision  # lazy: takes a second

    arguments: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if architecture in ("googlenet", "inception_v3"):
        # Auxiliary heads serve a training scheme that is not used here; their slow scipy initialisation neither.
        arguments |= {"aux_logits": False, "init_weights": False}
    builder = inspect.signature(torchvision.models.get_model_builder(architecture)).parameters
    if architecture.startswith("vit_"):
        arguments["image_size"] = image_size
    elif "input_size" in builder or architecture.startswith("maxvit"):
        arguments["input_size"] = (image_size, image_size)
    return arguments


def _timm_network(name: str, num_classes: int) -> nn.Module:
    if find_spec("timm") is None:
        raise InvalidConfig(f"target 'timm:{name}' needs timm, which is not installed: pip install 'advbench[timm]'")
    timm = import_module("timm")
    if name not in timm.list_models():
        raise UnknownName("target", name, timm.list_models())
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return network


def check_takes(network: nn.Module, architecture: str, image_size: int) -> None:
    """Pass two blank images through, so that a size which does not fit is refused before any time is spent.

    Raises:
        InvalidConfig: The network raised something.
    """
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:  # whatever a network of one's own may raise
        raise InvalidConfig(_misfit(architecture, image_size, error)) from error
    finally:
        network.train(was_training)


def _misfit(architecture: str, image_size: int, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return f"{architecture} cannot take {image_size} px images ({reason}); choose another --image-size, such as 224"


def own_source(location: str) -> Path | None:
    """The file of ``module:factory``'s module; None where there is none. Of a package, the modules around it run."""
    try:
        found = find_spec(location.partition(":")[0])
    except Exception:  # whatever a package of one's own may raise; that is told when the factory is called
        return None
    return Path(found.origin) if found is not None and found.origin else None


def own_digest(location: str, network: nn.Module | None) -> str:
    """A hash of the source that decides what a network of one's own does, where it is a network.

    It is of the file of ``module:factory``, and of those that define the classes that the network is made of, wherever
    they were imported from; functions that these call from yet other files are not seen.
    """
    kinds = {type(module) for module in network.modules()} if network is not None else set()
    modules = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in VERSIONED}
    files = {own_source(module) for module in modules} | {own_source(location)}
    return digest(sorted(file_hash(path) for path in files if path is not None and path.is_file()))


def own_factory(location: str, num_classes: int) -> Target | Classifier:
    """Call one's own ``module:factory`` with the number of classes.

    Args:
        location: ``module:factory``; the factory returns a ``torch.nn.Module`` from [0, 1] images to logits, or a
            ``Target``, such as a ``FunctionTarget`` around an API.
        num_classes: Passed to the factory.

    Raises:
        InvalidConfig: It cannot be imported, raises something, or returns something else.
    """
    module_name, _, attribute = location.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except Exception as error:  # whatever a module of one's own may raise
        said = f"{type(error).__name__}: {error}"
        raise InvalidConfig(f"cannot import target '{location}': {said}; expected module:factory") from error
    try:
        made = factory(num_classes)
    except Exception as error:  # whatever one's own code may raise
        said = f"{type(error).__name__}: {error}"
        raise InvalidConfig(
            f"target '{location}' could not be made for {num_classes} classes: {said}; expected a function that takes "
            "the number of classes and gives a torch.nn.Module or an advbench Target"
        ) from error
    if isinstance(made, Target):
        return made
    if isinstance(made, nn.Module):
        return Classifier(made, nn.Identity())
    raise InvalidConfig(
        f"target '{location}' returned {type(made).__name__}: expected a torch.nn.Module or an advbench Target"
    )
