"""Whether a stored result holds: computed again from what was stored, on the target made again."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from advbench.access import QueryLedger, perturb_access
from advbench.bench.cell import context_of
from advbench.bench.evaluate import clean_answers, evaluate
from advbench.bench.request import prepare, request_of_record
from advbench.bench.summary import summarise
from advbench.errors import InvalidConfig
from advbench.files import code_digest
from advbench.progress import Progress
from advbench.results import CellRecord, Metrics, ResultStore
from advbench.tensors import Images, Rows

__all__ = ["Verdict", "verify_result"]

SIZE_TOLERANCE = 1e-4
"""Relative, on each sample's l2: another machine's rounding."""

VERSIONS = ("clean", "raw", "valid", "uint8")


@dataclass(frozen=True)
class Verdict:
    """What a verification found.

    Args:
        holds: Whether every prediction and size came out as stored, and the metrics are of them.
        source: What it was computed from: ``state``, ``perturbed``, or the method run again.
        findings: What did not, one line each; differences that do not count are said too.
    """

    holds: bool
    source: str
    findings: list[str]


def verify_result(record: CellRecord, store: ResultStore, progress: Progress) -> Verdict:
    """Compute a result again and compare it sample by sample.

    Raises:
        InvalidConfig: The result has no metrics to verify.
        StorageError: A file of it is missing or was changed.
    """
    metrics = record.metrics
    if metrics is None:
        raise InvalidConfig(
            f"result {record.key[:12]} has nothing to verify: it ended {record.status} ({record.reason})"
        )
    stored = store.samples(record)
    prepared = prepare(request_of_record(record), progress)
    broken = []
    if prepared.target.fingerprint != record.spec.target.fingerprint:
        broken.append("the target made again has other weights than the one that was attacked")
    if prepared.spec.dataset != record.spec.dataset:
        broken.append("the dataset is not the one that was used")
    if broken:
        return Verdict(False, "nothing", broken)
    remarks = [] if code_digest() == record.spec.code else ["computed by another version of the code than this one"]
    state, kept = store.tensors(record, "state"), store.tensors(record, "perturbed")
    images = prepared.dataset.evaluation

    def from_store(batch: Images, rows: Rows) -> Images:  # noqa: ARG001
        return kept["perturbed"][rows]

    def from_method(batch: Images, rows: Rows) -> Images:
        access = perturb_access(prepared.target, prepared.threat, ledger, rows, images.labels[rows])
        return perturber.perturb(batch, access)

    ledger = QueryLedger(len(images))
    if not kept:
        perturber = prepared.method.restore(state, context_of(prepared, progress, None))
    with progress.task("verifying", total=len(images)) as task:
        again = evaluate(
            prepared.target,
            images,
            from_store if kept else from_method,
            budget=record.spec.budget,
            goal=record.spec.goal,
            batch_size=prepared.request.batch_size,
            seed=record.spec.seed,
            clean_answers=clean_answers(prepared.target, images, prepared.request.batch_size),
            advance=task.advance,
        ).samples
    findings = []
    if record.key != record.spec.key:
        findings.append("the record's specification is not the one that its key was made of")
    if metrics != _summed_up(stored, metrics, 3 * prepared.dataset.image_size**2):
        findings.append("the record's metrics are not those of its per-image results")
    for version in VERSIONS:
        column = f"{version}_prediction"
        differing = int((stored[column].to_numpy() != again[column].to_numpy()).sum())
        if differing:
            findings.append(f"{differing} of {len(images)} {version} predictions differ")
    sizes = torch.from_numpy(np.array([stored["l2"].to_numpy(), again["l2"].to_numpy()]))
    if not torch.allclose(sizes[0], sizes[1], rtol=SIZE_TOLERANCE, atol=1e-6):
        findings.append(f"perturbation sizes differ by up to {float((sizes[0] - sizes[1]).abs().max()):.3g} in l2")
    source = "perturbed" if kept else "state" if state else "the method, run again"
    return Verdict(not findings, source, findings + remarks)


def _summed_up(samples: pa.Table, metrics: Metrics, values_per_image: int) -> Metrics:
    """The metrics that the samples have; what was spent and how long it took is not in them."""
    return summarise(
        samples,
        values_per_image=values_per_image,
        fit=metrics.fit,
        perturb=metrics.perturb,
        fit_seconds=metrics.fit_seconds,
        seconds=0.0,
    ).model_copy(update={"ms_per_image": metrics.ms_per_image})
