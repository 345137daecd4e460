"""Published numbers, and how ours compare to them row by row."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from advbench.errors import UnknownName
from advbench.results import CellRecord
from advbench.types import Goal

__all__ = ["PUBLISHED", "AgainstRow", "PublishedRow", "against", "published"]

PUBLISHED = {
    "butterfly": "'Butterfly Effect: Bidirectional Control of Classification Performance by Small Additive "
    "Perturbation', arXiv 1711.09681, tables 1 to 3",
}
"""What there is to compare with, and its source."""

BUTTERFLY_SIZE = 224

VANILLA = "vanilla"
"""How published rows name a target's clean accuracy."""


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
        ours: Our raw accuracy, as the paper's protocol has it, or clean accuracy beside a vanilla row; a fraction.
        ours_map: Our mean average precision on the same images; None where the target gives no scores.
        difference: Ours less theirs, in accuracy.
        differs: What is not the same in the setting.
    """

    published: PublishedRow
    key: str
    ours: float
    ours_map: float | None
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

    So is each target's clean accuracy, once, beside that of the paper's vanilla one. Where the paper has several (two
    initial weights, two objectives), those that fit ours best are taken. The setting's differences are named row by
    row: a difference without them means little.
    """
    theirs = published(name)
    rows = []
    targets = set()
    for record in records:
        if record.metrics is None:
            continue
        if not {"surrogate", "surrogates"} & record.spec.parameters.keys():
            differs = [*_setting(record), *_use(record)]
            rows += _beside(
                record, theirs, record.spec.attack, (record.metrics.raw_accuracy, record.metrics.raw_map), differs
            )
        target = (record.spec.target.fingerprint, record.spec.goal, record.spec.dataset.digest)
        if target not in targets:
            targets.add(target)
            rows += _beside(
                record, theirs, VANILLA, (record.metrics.clean_accuracy, record.metrics.clean_map), _setting(record)
            )

    def place(row: AgainstRow) -> tuple[str, str, str, bool]:
        its = row.published
        return its.table, its.dataset, its.architecture, its.attack != VANILLA

    return sorted(rows, key=place)


def _beside(
    record: CellRecord,
    theirs: Sequence[PublishedRow],
    attack: str,
    ours: tuple[float, float | None],
    differs: Sequence[str],
) -> list[AgainstRow]:
    """Our accuracy and mAP beside the published ones that fit best, if there are any."""
    spec = record.spec
    init, objective = spec.target.made_from["init"], spec.parameters.get("objective", "")
    sought = (_dataset(record), spec.goal, spec.target.architecture, attack)
    candidates = [row for row in theirs if (row.dataset, row.goal, row.architecture, row.attack) == sought]
    if not candidates:
        return []
    row = min(candidates, key=lambda row: (row.objective not in ("", objective), row.init != init, row.table))
    differs = list(differs)
    if init != row.init:
        differs.append(f"target from {str(init).rpartition('/')[2]}, not {row.init}")
    if row.objective and objective != row.objective:
        differs.append(f"objective {objective}, not {row.objective}")
    differs.append(f"{spec.dataset.evaluation_images} evaluation images")
    accuracy, mean_precision = ours
    return [
        AgainstRow(
            published=row,
            key=record.key,
            ours=accuracy,
            ours_map=mean_precision,
            difference=accuracy - row.accuracy,
            differs=differs,
        )
    ]


def _dataset(record: CellRecord) -> str:
    return {"stl10": "stl-10"}.get(record.spec.dataset.name, record.spec.dataset.name)


def _setting(record: CellRecord) -> list[str]:
    """What differs in images and target."""
    size, made = record.spec.dataset.image_size, record.spec.target.made_from
    differs = [] if size == BUTTERFLY_SIZE else [f"{size} px, not {BUTTERFLY_SIZE}"]
    if seen := made["training"]["images"]:
        differs.append(f"target saw {seen} images, not all")
    normalisation = "none" if _dataset(record) == "stl-10" else "imagenet"  # as the paper has them
    theirs = {**_TRAINING, "normalisation": normalisation}
    return differs + [f"target {each}" for each in _unlike({**made, **made["training"]}, theirs)]


def _use(record: CellRecord) -> list[str]:
    """What differs in budget and method."""
    spec = record.spec
    differs = [] if spec.budget.epsilon is None else [f"bounded ({spec.budget})"]
    if spec.attack not in _PGN:
        return differs
    theirs = {**_GAME, **_PGN[spec.attack], "gamma": 3.0 if spec.goal is Goal.DEGRADE else 1e-4}
    return [*differs, f"{spec.dataset.fit_images} fit images", *_unlike(spec.parameters, theirs)]


def _unlike(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """In which of their options ours are others."""
    return [
        f"{name.replace('_', '-')} {ours[name]}, not {value}"
        for name, value in theirs.items()
        if ours.get(name, value) != value
    ]


_TRAINING = {"epochs": 20, "learning_rate": 5e-4, "batch_size": 64}
"""What section 4.1 says of the targets' training; the batch size is our reading."""

_GAME = {
    "epochs": 20,
    "backbone": "imagenet",
    "discriminator_backbone": "imagenet",
    "label_aware": False,
    "discriminator_learns": "verdict",
    "train_discriminator": "head",
    "warm_up_epochs": 0,
    "discriminator_steps": 1,
    "generator_steps": 1,
    "replay": 0,
    "augment": False,
    "train_generator": "all",
    "decoder_width": 1.0,
    "generator_size": BUTTERFLY_SIZE,
    "skips": False,
    "learning_rate": 1e-4,
    "discriminator_learning_rate": 1e-4,
    "schedule": "constant",
    "averaging": 0.0,
}
"""What the paper's sections 3.3, 3.4 and 4 say of PGN's training."""

_PGN: Mapping[str, Mapping[str, object]] = {
    "pgn-50": {"encoder": "resnet50"},
    "pgn-101": {"encoder": "resnet101"},
    "pgn-b": {"discriminator": "resnet101"},
}
"""What it says of each variant's networks; Proposed-B's encoder it does not name."""
