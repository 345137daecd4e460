"""Network weights: torchvision's, pinned and checked, and local files, loaded without running code from them."""

import hashlib
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from advbench.errors import InvalidConfig, InvalidWeights
from advbench.files import write_bytes
from advbench.targets.base import Classifier, ModuleTarget, Target

__all__ = ["imagenet_state", "load_into", "pinned_weights", "read_state", "with_versions", "write_weights"]


def pinned_weights(architecture: str) -> Any:
    """Name the torchvision weights that ``imagenet`` means: IMAGENET1K_V1, or the enum's first where there is none.

    Never ``DEFAULT``, which changes with torchvision's version.
    """
    import torchvision  # lazy: takes a second

    enum = torchvision.models.get_model_weights(architecture)
    return next((member for member in enum if member.name == "IMAGENET1K_V1"), next(iter(enum)))


def imagenet_state(architecture: str) -> dict[str, Tensor]:
    """Load torchvision's pinned ImageNet weights, downloading them once, with progress.

    Raises:
        InvalidWeights: They can neither be found nor downloaded, or do not match their hash.
    """
    pinned = pinned_weights(architecture)
    filename = Path(urlparse(pinned.url).path).name
    hash_prefix = filename.removesuffix(".pth").rpartition("-")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(pinned.url, str(path), hash_prefix, progress=True)
        except (OSError, RuntimeError) as error:
            raise InvalidWeights(
                f"cannot download {pinned} for {architecture} ({error}); without a network put {filename} "
                f"(from {pinned.url}) at {path}, or choose --init scratch, --backbone surrogate or a local file"
            ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(hash_prefix):
        raise InvalidWeights(
            f"{path} is not {pinned}: expected a sha256 that begins with {hash_prefix}, found {found[:8]}; "
            "delete it and fetch it again"
        )
    return read_state(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name, as float32, without running anything in it.

    Args:
        path: ``.safetensors``, or ``.pth`` / ``.pt`` that holds a state dict, also under ``state_dict`` or ``model``.

    Raises:
        InvalidWeights: It is missing, damaged, holds more than tensors, or is not finite.
    """
    if not path.is_file():
        raise InvalidWeights(f"no checkpoint {path}: expected a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on unusual pickles, which are read or refused all the same
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidWeights(
            f"{path} holds more than tensors, and loading it could run code; save its state_dict() and use that"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidWeights(f"cannot read checkpoint {path}: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidWeights(f"{path} does not hold a state dict: expected tensors by name; save model.state_dict()")
    tensors = {str(name): _widen(value) for name, value in state.items()}
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise InvalidWeights(f"{path} has NaN or infinite values in '{broken}'; train or export it again")
    return tensors


def _widen(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def load_into(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> bool:
    """Load weights; where only the classification head does not fit, keep the network's own, fresh one.

    Args:
        network: Changed in place.
        state: Tensors by name; auxiliary heads that the network lacks are left out.
        source: For messages.

    Returns:
        Whether the head was loaded too.

    Raises:
        InvalidWeights: They belong to another architecture.
    """
    own = network.state_dict()
    state = _as_named_now(state)
    head = _head_names(own)
    ignorable = {name for name in state if name.startswith(("aux1.", "aux2.", "AuxLogits."))}
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = own.keys() - state.keys() - optional - head
    unexpected = state.keys() - own.keys() - ignorable
    misfit = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    if missing or unexpected or misfit - head:
        wrong = sorted((misfit - head) or missing or unexpected)
        what = "has another shape" if misfit - head else "is missing" if missing else "is not expected"
        raise InvalidWeights(
            f"{source} belongs to another architecture: '{wrong[0]}' {what} ({len(wrong)} such tensors); "
            "name the architecture that it was saved from"
        )
    head_fits = not misfit and head <= state.keys()
    usable = {name: state[name] for name in own.keys() & state.keys() if head_fits or name not in head}
    network.load_state_dict(with_versions({**own, **usable}, network))
    return head_fits


RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(encoder_layer_\d+\.mlp\.)linear_2\."), r"\g<1>3."),
)
"""What torchvision's ImageNet files of DenseNet and ViT call otherwise than its networks; its loaders rename it too."""


def _as_named_now(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, now in RENAMED:
            name = pattern.sub(now, name)
        renamed[name] = value
    return renamed


def write_weights(target: Target, path: Path) -> None:
    """Write a target's weights where another can start from them: ``--init`` and ``read_state`` take the file.

    What normalises its images is not among them.

    Args:
        target: A module.
        path: To end in ``.safetensors``, which ``read_state`` goes by. Its folder is made where it is missing, and a
            file that is there is replaced.

    Raises:
        InvalidConfig: The target has no weights.
        StorageError: It cannot be written.
    """
    if not isinstance(target, ModuleTarget):
        raise InvalidConfig(f"{target.name} is no module: there are no weights to write")
    module = target.module()
    network = module.network if isinstance(module, Classifier) else module
    write_bytes(path, save({name: value.cpu().contiguous().clone() for name, value in network.state_dict().items()}))


def with_versions(state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """A stored state with the versions of its layers' layouts, which files do not keep and MNASNet insists on."""
    versioned = OrderedDict(state)
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return versioned


def _head_names(own: Mapping[str, Tensor]) -> set[str]:
    """The parameters of the last layer, which decides the number of classes."""
    last = [name for name in own if name.endswith("weight")][-1].removesuffix("weight")
    return {name for name in own if name in (f"{last}weight", f"{last}bias")}
