"""Folders of image files: one sub-folder a class, decoded when they are asked for."""

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from advbench.datasets.base import LabelledImages
from advbench.errors import InvalidConfig, InvalidData
from advbench.files import digest
from advbench.tensors import Rows

__all__ = [
    "FilePixels",
    "class_folders",
    "draw_classes",
    "listing",
    "read_folder",
    "refuse_strangers",
    "split_folders",
]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})

PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""What people call a dataset's parts, of which ``train``, ``val`` and ``test`` are looked for."""


@dataclass(frozen=True)
class FilePixels:
    """Image files, scaled to a square of ``size`` pixels as the paper does (no crop)."""

    paths: tuple[Path, ...]
    size: int

    @property
    def digest(self) -> str:
        """How the files are made into pixels; their content is in the ids."""
        return f"square {self.size} bilinear"

    def fetch(self, rows: Rows) -> Tensor:
        """Decode the files at ``rows`` side by side; the decoder releases the interpreter's lock."""
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self._decode, (self.paths[row] for row in rows.tolist()))))

    def _decode(self, path: Path) -> Tensor:
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore")  # odd metadata is no reason to doubt the pixels
                rgb = _eight_bits(image).convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise InvalidData(f"cannot read image {path}: {error}; remove or replace the file") from error
        return torch.from_numpy(np.array(rgb).transpose(2, 0, 1).copy())


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits of grey to the 8 that are computed with; Pillow's own conversion would cut them off at 255."""
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers, whose range nobody states; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64)
    if grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
        raise ValueError("it holds whole numbers beyond 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(np.round(grey / 257).astype(np.uint8))


def class_folders(root: Path) -> list[Path]:
    """The sub-folders of ``root``, one a class, by name.

    Raises:
        InvalidData: There is no such folder, or fewer than two classes in it.
    """
    if not root.is_dir():
        raise InvalidData(f"no folder {root}: expected one sub-folder of images for each class in it")
    found = _sub_folders(root)
    if len(found) < 2:
        raise InvalidData(
            f"{root} holds {len(found)} class folders: a classifier needs at least two, each with image files in it"
        )
    return found


def _sub_folders(root: Path) -> list[Path]:
    """By name, without those that are hidden."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """Find the training folder and, where there is one, the evaluation folder (``val`` or ``test``) below ``root``.

    Upper and lower case are alike. A ``train`` without folders in it is a class.

    Raises:
        InvalidData: There are folders of parts, or what may be such, under other names.
    """
    folders = _sub_folders(root) if root.is_dir() else []
    named = {folder.name.lower(): folder for folder in folders}
    advice = "name them train and val, each with one sub-folder of images for each class"
    train, held_out = named.get("train"), named.get("val", named.get("test"))
    if train is None or not _sub_folders(train):
        if folders and named.keys() <= PARTS:
            raise InvalidData(f"{root} holds {_listed(folders)}, which are no classes but parts of a dataset: {advice}")
        return root, None
    known = [named[part] for part in ("train", "val", "test") if part in named]
    for folder in folders:
        may_be_part = held_out is None or folder.name.lower() in PARTS
        if folder not in known and may_be_part and _sub_folders(folder):
            raise InvalidData(
                f"{root} holds {_listed([*known, folder])}, and '{folder.name}' is no known part: {advice}; "
                "move other folders elsewhere"
            )
    return train, held_out


def refuse_strangers(train: Path, held_out: Path) -> None:
    """Refuse an evaluation folder with classes that the training folder lacks.

    Raises:
        InvalidData: It has such.
    """
    known = {folder.name for folder in _sub_folders(train)}
    strangers = [folder for folder in _sub_folders(held_out) if folder.name not in known]
    if strangers:
        raise InvalidData(
            f"{held_out} holds classes that {train} lacks: {_listed(strangers)}; "
            "put images of them there too, or take them out"
        )


def _listed(folders: Sequence[Path]) -> str:
    names = [f"'{folder.name}'" for folder in folders]
    return ", ".join(names if len(names) <= 6 else [*names[:6], f"and {len(names) - 6} more"])


def draw_classes(folders: Sequence[Path], count: int, seed: int) -> list[Path]:
    """Draw ``count`` classes at random, as the paper does for ImageNet-10 and ImageNet-50.

    Raises:
        InvalidConfig: There are fewer classes than that.
    """
    if not 2 <= count <= len(folders):
        raise InvalidConfig(f"imagenet-N needs N between 2 and the {len(folders)} classes there are, got {count}")
    drawn = torch.randperm(len(folders), generator=torch.Generator().manual_seed(seed))[:count]
    return [folders[position] for position in sorted(drawn.tolist())]


def read_folder(root: Path, classes: Sequence[str], size: int) -> LabelledImages:
    """List the image files of ``classes`` below ``root``; ids are hashes of the files' bytes.

    Raises:
        InvalidData: A class has no folder or no images, or a file cannot be read.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / name
        if not folder.is_dir():
            raise InvalidData(f"no folder {folder}: every class of the training part must be there too")
        files = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)))
        if not files:
            raise InvalidData(f"no images in {folder}: expected {', '.join(sorted(SUFFIXES))} files")
        paths += files
        labels += [label] * len(files)
    with ThreadPoolExecutor() as pool:
        ids = tuple(pool.map(_file_id, paths))
    return LabelledImages(FilePixels(tuple(paths), size), torch.arange(len(paths)), torch.tensor(labels), ids)


def listing(root: Path) -> str:
    """A hash of the names and sizes of all image files below a folder, without reading any."""
    named = [(path.relative_to(root), path) for path in root.rglob("*")]
    return digest(sorted([place.as_posix(), path.stat().st_size] for place, path in named if _is_image(place)))


def _is_image(place: Path) -> bool:
    """Whether a path below a class's folder is an image's, and no part of it is hidden."""
    return place.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in place.parts)


def _file_id(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:20]
    except OSError as error:
        raise InvalidData(f"cannot read image {path}: {error.strerror}") from error
