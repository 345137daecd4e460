"""Which images each result got right: what comparisons and flags are made from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advbench.metrics import paired_p_value
from advbench.results import CellRecord
from advbench.types import Goal, Status

__all__ = [
    "Answers",
    "Right",
    "SampleSource",
    "Version",
    "answers_of",
    "column_of",
    "p_of_lead",
    "paired",
    "version_of",
]

Version = Literal["raw", "valid", "uint8"]
"""Which images count: as the method returned them, clipped to [0, 1], or rounded to 8 bits as well."""

Right = NDArray[np.bool_]


class SampleSource(Protocol):
    """Where results' images are: a store, or a report that was written from one."""

    def samples(self, record: CellRecord, columns: Sequence[str] | None = None) -> pa.Table:
        """One row an evaluation image."""


@dataclass(frozen=True)
class Answers:
    """One result's answers.

    Args:
        ids: Of the images.
        right: Whether each was classified rightly, ``(images,)``.
        right_before: Whether it was so when clean.
        changed: Whether its class is another than when clean.
    """

    ids: tuple[str, ...]
    right: Right
    right_before: Right
    changed: Right

    def turned(self, goal: Goal) -> float | None:
        """Of the images that could be turned towards the goal, the share that were; None without any."""
        could = self.right_before if goal is Goal.DEGRADE else ~self.right_before
        were = ~self.right if goal is Goal.DEGRADE else self.right
        return float(were[could].mean()) if could.any() else None

    def judged(self, goal: Goal) -> "Answers":
        """The same, but to degrade, only what was right before counts as right.

        An attack that is not told the true classes drives images away from what the target says, and so makes right
        some that were wrong: they raise the accuracy that it leaves, and say nothing of its strength.
        """
        return replace(self, right=self.right & self.right_before) if goal is Goal.DEGRADE else self


def version_of(record: CellRecord) -> Version:
    """The images that count unless others are asked for: raw without a bound, as in the paper, valid under a budget."""
    return "raw" if record.spec.budget.epsilon is None else "valid"


def answers_of(
    records: Iterable[CellRecord], store: SampleSource, version: Version | None = None
) -> dict[str, Answers]:
    """Read which images were right, by the results' keys; what ended without a result is left out."""
    found = {}
    for record in records:
        if record.status is Status.OK:
            column = f"{version or version_of(record)}_prediction"
            samples = store.samples(record, ["id", "label", "clean_prediction", column])
            label, before, after = (column_of(samples, name) for name in ("label", "clean_prediction", column))
            found[record.key] = Answers(
                tuple(samples["id"].to_pylist()), after == label, before == label, after != before
            )
    return found


def column_of(samples: pa.Table, name: str) -> NDArray[Any]:
    """A column without gaps, as NumPy sees it. Its own ``to_numpy`` would import pandas, which takes a while."""
    return np.from_dlpack(samples[name].combine_chunks())


def paired(first: dict[int, Answers], second: dict[int, Answers]) -> tuple[Right, Right] | None:
    """Both sides' answers for the seeds and images that they share, ``(seeds, images)``; None without any."""
    seeds = [seed for seed in first if seed in second and first[seed].ids == second[seed].ids]
    if not seeds or len({first[seed].ids for seed in seeds}) > 1:
        return None
    return np.stack([first[seed].right for seed in seeds]), np.stack([second[seed].right for seed in seeds])


def p_of_lead(first: dict[int, Answers], second: dict[int, Answers], goal: Goal) -> float:
    """How likely chance alone gives the first such a lead over the second, on the seeds and images they share.

    1 where it has none, be it in accuracy or in the number of images, which is what the test counts: a method that is
    far ahead on few images under all seeds is not shown to be better by one that is ahead on many under one.
    """
    pair = paired(first, second)
    if pair is None:
        return 1.0
    further, less = pair if goal is Goal.ENHANCE else pair[::-1]
    leads = further.sum(axis=0) - less.sum(axis=0)
    if leads.sum() <= 0 or np.sign(leads).sum() <= 0:
        return 1.0
    return paired_p_value(*pair)
