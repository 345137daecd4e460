"""Published numbers, and how ours compare to them row by row."""

import csv
from collections.abc import Iterable, Sequence
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from advbench.errors import UnknownName
from advbench.results import CellRecord
from advbench.types import Goal, Status

__all__ = ["PUBLISHED", "AgainstRow", "PublishedRow", "against", "published"]

PUBLISHED = {
    "butterfly": "'Butterfly Effect: Bidirectional Control of Classification Performance by Small Additive "
    "Perturbation', arXiv 1711.09681, tables 1 to 3",
}
"""What there is to compare with, and its source."""

BUTTERFLY_SIZE = 224


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedRow(_Model):
    """One published number.

    Args:
        table: Its number in the paper.
        dataset: As the paper names it.
        goal: Degrade or enhance.
        architecture: Of the target, as torchvision names it.
        init: The target's first weights.
        attack: As advbench names the method; ``vanilla`` is the target's clean accuracy.
        objective: Of PGN; empty for others.
        accuracy: A fraction.
        map: Mean average precision.
    """

    table: str
    dataset: str
    goal: Goal
    architecture: str
    init: str
    attack: str
    objective: str
    accuracy: float
    map: float


class AgainstRow(_Model):
    """Ours beside theirs.

    Args:
        published: Theirs.
        key: Our result.
        ours: Our raw accuracy, as the paper's protocol has it, a fraction.
        difference: Ours less theirs.
        differs: What is not the same in the setting.
    """

    published: PublishedRow
    key: str
    ours: float
    difference: float
    differs: list[str]


def published(name: str) -> list[PublishedRow]:
    """Read published numbers.

    Raises:
        UnknownName: There are none of this name.
    """
    if name not in PUBLISHED:
        raise UnknownName("published table", name, PUBLISHED)
    text = (files("advbench.report") / "published" / f"{name}.csv").read_text()
    return [
        PublishedRow.model_validate({**row, "accuracy": float(row["accuracy"]) / 100})
        for row in csv.DictReader(text.splitlines())
    ]


def against(records: Iterable[CellRecord], name: str) -> list[AgainstRow]:
    """Lay each result beside the published number of the same dataset, goal, architecture and method.

    Where the paper has several (two initial weights, two objectives), those that fit ours best are taken. The setting's
    differences are named row by row: a difference without them means little.
    """
    theirs = published(name)
    rows = []
    for record in records:
        if record.status is not Status.OK or record.metrics is None:
            continue
        matching = _matching(record, theirs)
        if matching is not None:
            ours = record.metrics.raw_accuracy
            rows.append(
                AgainstRow(
                    published=matching,
                    key=record.key,
                    ours=ours,
                    difference=ours - matching.accuracy,
                    differs=_differs(record, matching),
                )
            )
    return sorted(rows, key=lambda row: (row.published.table, row.published.dataset, row.published.architecture))


def _dataset(record: CellRecord) -> str:
    return {"stl10": "stl-10"}.get(record.spec.dataset.name, record.spec.dataset.name)


def _matching(record: CellRecord, theirs: Sequence[PublishedRow]) -> PublishedRow | None:
    spec = record.spec
    if "surrogate" in spec.parameters or "surrogates" in spec.parameters:
        return None
    objective = spec.parameters.get("objective", "")
    candidates = [
        row
        for row in theirs
        if (row.dataset, row.goal, row.architecture, row.attack)
        == (_dataset(record), spec.goal, spec.target.architecture, spec.attack)
    ]
    fits = sorted(
        candidates,
        key=lambda row: (row.objective not in ("", objective), row.init != spec.target.made_from["init"], row.table),
    )
    return fits[0] if fits else None


def _differs(record: CellRecord, row: PublishedRow) -> list[str]:
    spec, made = record.spec, record.spec.target.made_from
    differs = []
    if spec.dataset.image_size != BUTTERFLY_SIZE:
        differs.append(f"{spec.dataset.image_size} px, not {BUTTERFLY_SIZE}")
    if made["init"] != row.init:
        differs.append(f"target from {str(made['init']).rpartition('/')[2]}, not {row.init}")
    if made["training"]["images"]:
        differs.append(f"target saw {made['training']['images']} images, not all")
    if spec.budget.epsilon is not None:
        differs.append(f"bounded ({spec.budget})")
    objective = spec.parameters.get("objective", "")
    if row.objective and objective != row.objective:
        differs.append(f"objective {objective}, not {row.objective}")
    differs += [
        f"{name.replace('_', '-')} {spec.parameters[name]}, not {value}"
        for name, value in _THEIRS[spec.goal].items()
        if spec.parameters.get(name, value) != value
    ]
    return [*differs, f"{spec.dataset.evaluation_images} evaluation images"]


_THEIRS = {
    Goal.DEGRADE: {"epochs": 20, "gamma": 3.0, "label_aware": False, "backbone": "imagenet"},
    Goal.ENHANCE: {"epochs": 20, "gamma": 1e-4, "label_aware": False, "backbone": "imagenet"},
}
"""What the paper's section 4 says of PGN's training."""
