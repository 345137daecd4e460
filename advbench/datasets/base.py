"""Labelled images in [0, 1] with stable ids, and their division into fit, validation and evaluation parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from advbench.errors import InvalidConfig, InvalidData
from advbench.files import digest, digest_state
from advbench.tensors import Images, Labels, Rows

__all__ = ["ArrayPixels", "Dataset", "LabelledImages", "PixelSource", "divide", "held_out", "stratified_order"]


class PixelSource(Protocol):
    """Where pixels come from: memory or files."""

    @property
    def digest(self) -> str:
        """A hash of the pixels as they are given, scaling and all."""

    def fetch(self, rows: Rows) -> Tensor:
        """Give the images at ``rows`` as uint8, ``(batch, 3, height, width)``."""


@dataclass(frozen=True)
class ArrayPixels:
    """Pixels held in memory, uint8, ``(count, 3, height, width)``."""

    array: Tensor

    @cached_property
    def digest(self) -> str:
        """A hash of all pixels."""
        return digest_state({"pixels": self.array})

    def fetch(self, rows: Rows) -> Tensor:
        """Give the images at ``rows``."""
        return self.array[rows]

    def content_ids(self) -> tuple[str, ...]:
        """Hash every image's pixels."""
        return tuple(hashlib.sha256(image.tobytes()).hexdigest()[:20] for image in self.array.numpy())


@dataclass(frozen=True)
class LabelledImages:
    """Images with their correct classes and ids that follow the content, not the position.

    Args:
        pixels: Where the pixels come from.
        rows: This part's positions in ``pixels``, ``(count,)``.
        labels: The correct classes, ``(count,)``.
        ids: One content hash an image.
    """

    pixels: PixelSource
    rows: Rows
    labels: Labels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, positions: Tensor | slice = slice(None)) -> Images:
        """Give the images at ``positions`` as float32 in [0, 1], ``(batch, 3, height, width)``."""
        return self.pixels.fetch(self.rows[positions]).float().div_(255)

    def subset(self, positions: Tensor) -> "LabelledImages":
        """Keep the images at ``positions``, in that order."""
        return LabelledImages(
            self.pixels,
            self.rows[positions],
            self.labels[positions],
            tuple(self.ids[position] for position in positions.tolist()),
        )

    def first(self, count: int | None, *, seed: int, what: str) -> "LabelledImages":
        """Keep ``count`` images, balanced over the classes; a larger count always contains a smaller one's.

        Raises:
            InvalidConfig: ``count`` is not between 1 and the number of images.
        """
        if count is None or count == len(self):
            return self
        if not 1 <= count <= len(self):
            raise InvalidConfig(f"{what} must be between 1 and the {len(self)} images there are, got {count}")
        return self.subset(stratified_order(self.labels, seed)[:count])

    @cached_property
    def digest(self) -> str:
        """A hash of the ids and labels, in order, and of the pixels."""
        return digest([list(self.ids), self.labels.tolist(), self.pixels.digest])


@dataclass(frozen=True)
class Dataset:
    """A dataset, divided so that nothing leaks.

    Args:
        name: As on the command line.
        classes: Class names; a label is a position in it.
        image_size: Height and width in pixels.
        fit: What targets, surrogates and methods are fitted on.
        validation: Cut from the training part; chooses epochs, and is never fitted on.
        evaluation: What results are measured on; nothing is fitted or chosen on it.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    fit: LabelledImages
    validation: LabelledImages
    evaluation: LabelledImages

    @cached_property
    def digest(self) -> str:
        """A hash of all three parts at this image size."""
        parts = (self.fit.digest, self.validation.digest, self.evaluation.digest)
        return digest([self.name, self.image_size, list(self.classes), *parts])


def stratified_order(labels: Labels, seed: int) -> Rows:
    """Order samples so that every beginning is balanced over the classes; random within a class, by ``seed``."""
    return _ranked(labels, seed)[0]


def _ranked(labels: Labels, seed: int) -> tuple[Rows, Tensor]:
    """The order, and how many of its class come before each sample in it."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    starts = (counts.cumsum(0) - counts)[labels[by_class]]
    rank_in_class = torch.arange(len(labels)) - starts
    order = torch.argsort(rank_in_class, stable=True)
    return by_class[order], rank_in_class[order]


def held_out(labels: Labels, share: float, seed: int) -> tuple[Rows, Rows]:
    """Take a share of the samples, balanced over the classes as far as each can bear it; and what is left.

    No class gives more than twice the share of its own, or its last sample: what is rare stays in both parts.
    """
    order, ranks = _ranked(labels, seed)
    counts = torch.bincount(labels)
    bearable = torch.minimum((2 * share * counts).ceil().long(), (counts - 1).clamp(min=0))
    can = ranks < bearable[labels[order]]
    taken = can & (can.cumsum(0) <= round(share * len(labels)))
    return order[taken], order[~taken]


def _without(images: LabelledImages, others: LabelledImages) -> LabelledImages:
    """Those that are not among the others."""
    known = set(others.ids)
    return images.subset(torch.tensor([at for at, own in enumerate(images.ids) if own not in known], dtype=torch.long))


def divide(
    name: str,
    classes: Sequence[str],
    image_size: int,
    train: LabelledImages,
    evaluation: LabelledImages,
    *,
    validation_share: float,
    seed: int,
) -> Dataset:
    """Cut a validation part from ``train``; of an image's copies, those outside of the first part are left out.

    The evaluation part comes first, then validation.

    Raises:
        InvalidData: A part is empty or holds a single class.
    """
    train = _without(train, evaluation)
    taken, kept = (train.subset(rows) for rows in held_out(train.labels, validation_share, seed))
    fit, validation = _without(kept, taken), taken
    for part, images in (("fit", fit), ("validation", validation), ("evaluation", evaluation)):
        present = len(set(images.labels.tolist()))
        if present < 2:
            raise InvalidData(
                f"the {part} part of {name} holds {len(images)} images of {present} classes; "
                "a classifier needs at least two classes with images in each"
            )
    return Dataset(name, tuple(classes), image_size, fit, validation, evaluation)
