"""Results whose numbers are known, made without running anything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from advbench.results import CellRecord, CellSpec, DatasetIdentity, Metrics, Phase, ResultStore, TargetIdentity
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Status

IMAGES = 200
Add = Callable[..., CellRecord]


def metrics(accuracy: float, clean: float, gradients: int) -> Metrics:
    values: dict[str, Any] = {}
    for name, field in Metrics.model_fields.items():
        if name.endswith("_interval"):
            values[name] = (0.0, 1.0)
        elif field.annotation is Phase:
            values[name] = Phase(queries=IMAGES, gradients=0, queries_per_image=1, gradients_per_image=0)
        else:
            values[name] = 0
    values["perturb"] = Phase(queries=IMAGES, gradients=gradients, queries_per_image=1, gradients_per_image=gradients)
    return Metrics(**{**values, "clean_accuracy": clean, "raw_accuracy": accuracy, "valid_accuracy": accuracy})


def spec(attack: str, seed: int, **given: Any) -> CellSpec:
    images = given.pop("images", None)
    made = {"init": "scratch", "training": {"images": images, "seed": seed}} | given.pop("made_from", {})
    identity = DatasetIdentity(
        name=given.pop("dataset", "digits"), image_size=32, digest=given.pop("digest", "d"), fit_digest="f",
        fit_images=given.pop("fit_images", 9), validation_images=9, evaluation_images=given.pop("limit", IMAGES),
    )  # fmt: skip
    target, weights = given.pop("target", "resnet50"), given.pop("fingerprint", f"{seed}")
    return CellSpec(
        attack=attack, parameters=given.pop("parameters", {}), dataset=identity, seed=seed, precision="32-true",
        target=TargetIdentity(name=target, architecture=target, fingerprint=weights, made_from=made), processes=1,
        **{"threat": THREATS["black-box-labels"], "goal": Goal.DEGRADE, "budget": Budget(epsilon=0.3), "code": "c"}
        | given,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


@pytest.fixture
def add(store: ResultStore) -> Add:
    def add(attack: str, right: Sequence[bool] | None, seed: int = 0, reason: str = "", **given: Any) -> CellRecord:
        created = given.pop("created", "2026-01-01T00:00:00+00:00")
        clean_accuracy = given.pop("clean_accuracy", 0.9)
        request, flags, gradients = given.pop("request", {}), given.pop("flags", ()), given.pop("gradients", 0)
        clean = given.pop("clean", np.ones(IMAGES, bool))
        wanted = spec(attack, seed, **given)
        truth = np.arange(IMAGES) % 10
        record = CellRecord(
            key=wanted.key, status=Status.FAILED if right is None else Status.OK, reason=reason or None, spec=wanted,
            request=request, environment={}, clean_accuracy=clean_accuracy, notes=[], history=[], files={},
            classes=list("0123456789"),
            metrics=None if right is None else metrics(float(np.mean(right)), clean_accuracy, gradients),
            flags=tuple(flags), created=created,
        )  # fmt: skip
        if right is None:
            return store.save(record, None, {})
        answers = np.where(right, truth, (truth + 1) % 10)
        columns = dict.fromkeys(("raw_prediction", "valid_prediction", "uint8_prediction"), answers)
        columns["clean_prediction"] = np.where(clean, truth, (truth + 1) % 10)
        ids = [str(number) for number in range(IMAGES)]
        return store.save(record, pa.table({"id": ids, "label": truth, "l2": np.ones(IMAGES), **columns}), {})

    return add
