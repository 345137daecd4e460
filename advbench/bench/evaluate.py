"""The independent check: what a method returned is measured here, on the real target, and never by the method."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from advbench.datasets import LabelledImages
from advbench.errors import InvalidData, InvalidPerturbation
from advbench.metrics import Proportion, perturbation_sizes, proportion, structural_similarity, to_uint8
from advbench.seeding import seeded_everywhere
from advbench.targets import Target
from advbench.tensors import Images, Labels, Rows
from advbench.threat import Budget
from advbench.types import Capability, Goal

__all__ = ["Answers", "Evaluation", "accuracy", "check_perturbed", "clean_answers", "evaluate"]

Answers = dict[str, Tensor]
"""Predicted classes and, where there are scores, their softmax, by the names of their columns."""

TOLERANCE = 1e-6
"""On the budget, relative and absolute: what float32 rounding of ``x + delta`` can add."""

KEPT_BYTES = 256 * 2**20
"""The most perturbed images that are kept, in bytes of float32."""

EXAMPLES = 8
"""How many images are kept before and after, for figures."""

SHARED = 3
"""How many of them are chosen before anything is perturbed, so that what several methods did can be compared."""


def check_perturbed(perturbed: Images, images: Images, budget: Budget) -> None:
    """Refuse what is not a batch of images, or lies outside the budget.

    Raises:
        InvalidPerturbation: No tensor, of wrong shape or type, not finite, or too far from the clean images.
    """
    if not isinstance(perturbed, Tensor):
        raise InvalidPerturbation(f"expected a tensor of perturbed images, got {type(perturbed).__name__}")
    if perturbed.shape != images.shape or perturbed.dtype != images.dtype:
        raise InvalidPerturbation(
            f"expected images of shape {tuple(images.shape)} and type {images.dtype}, "
            f"got {tuple(perturbed.shape)} and {perturbed.dtype}"
        )
    if not torch.isfinite(perturbed).all():
        raise InvalidPerturbation("the perturbed images hold NaN or infinite pixels")
    if budget.epsilon is None or not len(images):
        return
    sizes = perturbation_sizes(images, perturbed)
    largest = float(getattr(sizes, budget.norm).max())
    if largest > budget.epsilon * (1 + TOLERANCE) + TOLERANCE:
        raise InvalidPerturbation(
            f"a perturbation has {budget.norm} norm {largest:.7g}, over epsilon {budget.epsilon:g}"
        )


@dataclass
class Evaluation:
    """What was measured.

    Args:
        samples: One row an image: ids, labels, predictions and softmax scores clean, raw, valid and 8-bit; sizes.
        seconds: Spent in the method alone.
        perturbed: What the method returned, ``(count, 3, height, width)``, or None where that is too much to keep.
        examples: A few images, ``clean`` and ``perturbed``, with their ``rows``: those that turned as wanted, of as
            many classes as there are, then the first of some classes that could turn, the same for every method.
    """

    samples: pa.Table
    seconds: float
    perturbed: Tensor | None
    examples: dict[str, Tensor]


_Example = tuple[int, Tensor, Tensor]


@dataclass
class _Examples:
    goal: Goal
    turned: dict[int, list[_Example]] = field(default_factory=lambda: defaultdict(list))
    shared: dict[int, list[_Example]] = field(default_factory=lambda: defaultdict(list))
    others: list[_Example] = field(default_factory=list)

    def offer(
        self, rows: Rows, labels: Labels, before: Tensor, after: Tensor, images: Images, perturbed: Images
    ) -> None:
        could = before if self.goal is Goal.DEGRADE else ~before
        turned = could & (before ^ after)
        for position, label in enumerate(labels.tolist()):
            if could[position] and len(self.shared) < SHARED and label not in self.shared:
                kind = self.shared[label]
            else:
                kind = self.turned[label] if turned[position] else self.others
            if len(kind) < EXAMPLES:
                kind.append((int(rows[position]), images[position].clone(), perturbed[position].clone()))

    def chosen(self) -> dict[str, Tensor]:
        by_turns = [each for group in zip_longest(*self.turned.values()) for each in group if each is not None]
        chosen = [*by_turns[: EXAMPLES - len(self.shared)], *chain(*self.shared.values()), *self.others][:EXAMPLES]
        return {
            "rows": torch.tensor([row for row, _, _ in chosen]),
            "clean": torch.stack([clean for _, clean, _ in chosen]),
            "perturbed": torch.stack([perturbed for _, _, perturbed in chosen]),
        }


def accuracy(target: Target, images: LabelledImages, batch_size: int = 256) -> Proportion:
    """The target's accuracy on clean images, in float32.

    Raises:
        InvalidData: The target gave answers from which no class can be read.
    """
    predicted = clean_answers(target, images, batch_size)["clean_prediction"]
    return proportion((predicted == images.labels).numpy())


def clean_answers(target: Target, images: LabelledImages, batch_size: int) -> Answers:
    """Ask the target about the images as they are, in float32; one that answers at random, always alike.

    Raises:
        InvalidData: The target gave answers from which no class can be read.
    """
    with seeded_everywhere(0, "clean answers"):
        pieces = [
            dict(_answers(target, "clean", images.images(rows))) for rows in torch.arange(len(images)).split(batch_size)
        ]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def evaluate(
    target: Target,
    images: LabelledImages,
    perturb: Callable[[Images, Rows], Images],
    *,
    budget: Budget,
    goal: Goal,
    batch_size: int,
    seed: int,
    clean_answers: Answers,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Perturb every image, then score raw, valid and 8-bit versions in passes of their own.

    Args:
        target: Scored in float32, as it is.
        images: To evaluate on.
        perturb: From a batch of images and their positions to perturbed images.
        budget: Checked on every image.
        goal: Decides which examples are kept.
        batch_size: Images at a time.
        seed: Of what a target draws that answers at random.
        clean_answers: The target's answers on the images as they are.
        advance: Told how many images are done.

    Raises:
        InvalidPerturbation: The method returned something that it must not.
        InvalidData: The target gave answers from which no class can be read.
    """
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    examples = _Examples(goal)
    seconds = 0.0
    keep = len(images) * 4 * images.images(torch.tensor([0]))[0].numel() <= KEPT_BYTES
    kept = []
    for rows in torch.arange(len(images)).split(batch_size):
        clean = images.images(rows)
        with seeded_everywhere(seed, "perturbing", int(rows[0])):
            started = time.perf_counter()
            perturbed = perturb(clean.clone(), rows)
            seconds += time.perf_counter() - started
        check_perturbed(perturbed, clean, budget)
        perturbed = perturbed.detach()
        before = {name: values[rows] for name, values in clean_answers.items()}
        with seeded_everywhere(seed, "checking", int(rows[0])):
            after = dict(_answers(target, "raw", perturbed))
            valid = dict(_answers(target, "valid", perturbed.clamp(0, 1)))
            rounded = dict(_answers(target, "uint8", to_uint8(perturbed)))
        sizes = vars(perturbation_sizes(clean, perturbed))
        ssim = structural_similarity(clean, perturbed.clamp(0, 1))
        for name, values in (before | after | valid | rounded | sizes | {"ssim": ssim}).items():
            columns[name].append(values.numpy())
        labels = images.labels[rows]
        was_right, is_right = before["clean_prediction"] == labels, valid["valid_prediction"] == labels
        examples.offer(rows, labels, was_right, is_right, clean, perturbed)
        if keep:
            kept.append(perturbed)
        advance(len(rows))
    return Evaluation(_table(images, columns), seconds, torch.cat(kept) if keep else None, examples.chosen())


def _answers(target: Target, version: str, images: Images) -> Iterator[tuple[str, Tensor]]:
    """Predicted classes and, where there are scores, their softmax.

    An answer that names no class is refused, because the largest of NaNs is some class all the same, and would be
    counted as right or wrong by chance.
    """
    if Capability.SCORES not in target.offers:
        predicted = target.labels(images)
        _refuse((predicted < 0) | (predicted >= target.num_classes), f"{version} images with no class it knows")
        yield f"{version}_prediction", predicted
        return
    scores = target.scores(images)
    if scores.shape != (len(images), target.num_classes):
        raise InvalidData(
            f"the target's scores of {len(images)} images have the shape {tuple(scores.shape)}, and the dataset has "
            f"{target.num_classes} classes: expected {(len(images), target.num_classes)}; give the target one score "
            "for each class, in the dataset's order"
        )
    probabilities = scores.softmax(dim=1)
    _refuse(~probabilities.isfinite().all(dim=1), f"{version} images with scores that are NaN or infinite")
    yield f"{version}_prediction", scores.argmax(dim=1)
    yield f"{version}_scores", probabilities


def _refuse(unreadable: Tensor, what: str) -> None:
    if unreadable.any():
        raise InvalidData(
            f"the target answered {int(unreadable.sum())} of {len(unreadable)} {what}: this is neither robustness nor "
            "its lack; mend the target, or keep it within the range that it can answer"
        )


def _table(images: LabelledImages, columns: dict[str, list[np.ndarray]]) -> pa.Table:
    arrays: dict[str, pa.Array] = {"id": pa.array(images.ids), "label": pa.array(images.labels.numpy())}
    for name, pieces in columns.items():
        values = np.concatenate(pieces)
        if values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            arrays[name] = pa.array(values)
    return pa.table(arrays)
