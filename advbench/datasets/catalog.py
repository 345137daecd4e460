"""Datasets by name. ``digits`` is embedded; the others are read from a data folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from advbench.datasets.base import ArrayPixels, Dataset, LabelledImages, divide, held_out
from advbench.datasets.folders import class_folders, draw_classes, read_folder, refuse_strangers, split_folders
from advbench.datasets.foreign import load_foreign
from advbench.errors import InvalidConfig, InvalidData
from advbench.registry import DATASETS

__all__ = ["DatasetSpec", "check_dataset", "load_dataset"]

SPLIT_SEED = 0
EVALUATION_SHARE = 0.2
"""Of a dataset that comes in one piece."""


class DatasetSpec(BaseModel):
    """Which images, at which size, from where.

    Args:
        name: A dataset of ``advbench list datasets``; ``imagenet-N`` takes any N.
        image_size: Height and width to scale to, in pixels; None keeps the dataset's own (224 for folders).
        folder: Where the files lie.
        limit: How many evaluation images to keep, balanced over the classes; None keeps all.
        fit_images: How many images a method is fitted on; None takes the whole fit part.
        class_seed: Which classes ``imagenet-N`` draws.
        validation_share: The share of the training part that is kept for choosing epochs.
        download: Fetch what torchvision can download when it is missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "digits"
    image_size: int | None = Field(default=None, ge=8, le=1024)
    folder: Path = Path("data")
    limit: int | None = Field(default=None, ge=2)
    fit_images: int | None = Field(default=None, ge=2)
    class_seed: int = 0
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    download: bool = False


FIXED = frozenset({"cifar10", "cifar100", "digits", "fashion-mnist", "mnist", "stl10", "svhn"})
"""Datasets whose name alone says which images they are, wherever they lie."""

_IMAGENET = re.compile(r"imagenet-(\d+)")


def check_dataset(name: str) -> None:
    """Refuse a name that stands for no dataset.

    Raises:
        UnknownName: No dataset has this name.
        InvalidConfig: It is the pattern of a name.
    """
    if name == "imagenet-N":
        message = "imagenet-N stands for a number of classes: write imagenet-10 or imagenet-50"
        raise InvalidConfig(message, option="dataset")
    if not _IMAGENET.fullmatch(name):
        DATASETS.entry(name)


def load_dataset(spec: DatasetSpec) -> Dataset:
    """Load and divide a dataset.

    ``limit`` is applied here; ``fit_images`` is not, because a target may see more of the fit part than a method.

    Raises:
        UnknownName: No dataset has this name.
        InvalidConfig: Another package registers it, and its loader cannot be imported.
        InvalidData: Its files are missing, corrupt or too few; or another package's loader gives no dataset.
    """
    check_dataset(spec.name)
    imagenet = _IMAGENET.fullmatch(spec.name)
    if imagenet:
        loaded = load_folders(spec, draw=int(imagenet[1]))
    else:
        package = DATASETS.entry(spec.name).package
        load: Callable[[DatasetSpec], Dataset] = DATASETS.load(spec.name)
        if package is None:
            loaded = load(spec)
        else:
            whose = f"dataset '{spec.name}' of package {package}"
            loaded = load_foreign(whose, lambda: load(spec), spec.image_size)
    limited = loaded.evaluation.first(spec.limit, seed=SPLIT_SEED, what="--limit")
    return Dataset(loaded.name, loaded.classes, loaded.image_size, loaded.fit, loaded.validation, limited)


def load_digits_dataset(spec: DatasetSpec) -> Dataset:
    from sklearn.datasets import load_digits  # lazy: scikit-learn takes a second to import

    raw = load_digits()
    grey = torch.from_numpy(raw.images).float().div(16)[:, None]
    size = spec.image_size or 32
    # Enlarged without smoothing: interpolated digits have no fine detail at all, and a DenseNet-169 that never saw any
    # loses half of its accuracy to random signs of a fifth of the pixel range, instead of an eighth.
    pixels = F.interpolate(grey, size=(size, size), mode="nearest-exact")
    array = pixels.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(raw.target).long()
    ids = ArrayPixels((grey * 255).round().to(torch.uint8)).content_ids()
    whole = LabelledImages(ArrayPixels(array), torch.arange(len(labels)), labels, ids)
    return _divide_whole(spec, [str(digit) for digit in range(10)], size, whole)


def _divide_whole(spec: DatasetSpec, classes: list[str], size: int, whole: LabelledImages) -> Dataset:
    evaluation, train = (whole.subset(rows) for rows in held_out(whole.labels, EVALUATION_SHARE, SPLIT_SEED))
    return _divide(spec, classes, size, train, evaluation)


def _divide(
    spec: DatasetSpec, classes: list[str], size: int, train: LabelledImages, evaluation: LabelledImages
) -> Dataset:
    share = spec.validation_share
    return divide(spec.name, classes, size, train, evaluation, validation_share=share, seed=SPLIT_SEED)


def _from_arrays(
    spec: DatasetSpec, classes: list[str], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Dataset:
    size = spec.image_size or train[0].shape[-1]
    return _divide(spec, classes, size, _in_memory(*train, size), _in_memory(*test, size))


def _in_memory(images: Tensor, labels: Tensor, size: int) -> LabelledImages:
    ids = ArrayPixels(images).content_ids()
    if images.shape[-1] != size:
        pieces = [
            F.interpolate(piece.float(), size=(size, size), mode="bilinear", antialias=True)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for piece in images.split(1024)
        ]
        images = torch.cat(pieces)
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1).contiguous()
    return LabelledImages(ArrayPixels(images), torch.arange(len(labels)), labels.long(), ids)


def load_stl10(spec: DatasetSpec) -> Dataset:
    """Read the labelled binary files alone: torchvision's loader insists on the unlabelled ones as well."""
    folder = spec.folder / "stl10_binary"
    names_file = folder / "class_names.txt"
    classes = names_file.read_text().split() if names_file.exists() else [str(label) for label in range(10)]
    return _from_arrays(spec, classes, *(_read_stl10_part(folder, part) for part in ("train", "test")))


def _read_stl10_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    image_file, label_file = folder / f"{part}_X.bin", folder / f"{part}_y.bin"
    for file in (image_file, label_file):
        if not file.is_file():
            raise InvalidData(f"no file {file}: unpack STL-10's binary archive there, or name its folder with --data")
    pixels, labels = np.fromfile(image_file, dtype=np.uint8), np.fromfile(label_file, dtype=np.uint8)
    image_bytes = 3 * 96 * 96
    if len(labels) == 0 or len(pixels) != image_bytes * len(labels):
        raise InvalidData(
            f"{image_file} holds {len(pixels)} bytes: expected {image_bytes * len(labels)} for the {len(labels)} "
            f"labels of {label_file.name}; the file is truncated or damaged, fetch it again"
        )
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2))
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64) - 1)


def _load_torchvision(class_name: str, **split_by: tuple[Any, Any]) -> Callable[[DatasetSpec], Dataset]:
    """Make a loader for a torchvision dataset whose train and test parts differ in one argument."""

    def load(spec: DatasetSpec) -> Dataset:
        import torchvision.datasets

        factory = getattr(torchvision.datasets, class_name)
        ((argument, values),) = split_by.items()
        parts = []
        for value in values:
            try:
                part = factory(root=str(spec.folder), download=spec.download, **{argument: value})
            except (RuntimeError, OSError, EOFError) as error:
                raise InvalidData(
                    f"cannot load {spec.name} from {spec.folder}: {error}; "
                    "add --download to fetch it, or name its folder with --data"
                ) from error
            parts.append(part)
        train, test = parts
        classes = [str(name) for name in getattr(train, "classes", range(10))]
        return _from_arrays(spec, classes, _arrays_of(train), _arrays_of(test))

    return load


def _arrays_of(part: Any) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(part.data)
    if images.ndim == 3:  # grey: (count, height, width)
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels = part.labels if hasattr(part, "labels") else part.targets
    return images.contiguous(), torch.as_tensor(labels).long()


def load_folders(spec: DatasetSpec, draw: int | None = None) -> Dataset:
    size = spec.image_size or 224
    train_folder, evaluation_folder = split_folders(spec.folder)
    folders = class_folders(train_folder)
    if draw is not None:
        folders = draw_classes(folders, draw, spec.class_seed)
    elif evaluation_folder is not None:
        refuse_strangers(train_folder, evaluation_folder)
    classes = [folder.name for folder in folders]
    train = read_folder(train_folder, classes, size)
    if evaluation_folder is None:
        return _divide_whole(spec, classes, size, train)
    return _divide(spec, classes, size, train, read_folder(evaluation_folder, classes, size))


load_cifar10 = _load_torchvision("CIFAR10", train=(True, False))
load_cifar100 = _load_torchvision("CIFAR100", train=(True, False))
load_fashion_mnist = _load_torchvision("FashionMNIST", train=(True, False))
load_mnist = _load_torchvision("MNIST", train=(True, False))
load_svhn = _load_torchvision("SVHN", split=("train", "test"))
