"""From one row an image to one number a run."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from advbench.access import QueryLedger
from advbench.metrics import Proportion, mean_average_precision, proportion
from advbench.results import Metrics, Phase

__all__ = ["phase", "summarise"]


def phase(ledger: QueryLedger) -> Phase:
    """Add a ledger up."""
    queries, gradients = int(ledger.queries.sum()), int(ledger.gradients.sum())
    size = max(1, ledger.size)
    return Phase(
        queries=queries,
        gradients=gradients,
        queries_per_image=queries / size,
        gradients_per_image=gradients / size,
    )


def summarise(
    samples: pa.Table, *, values_per_image: int, fit: Phase, perturb: Phase, fit_seconds: float, seconds: float
) -> Metrics:
    """Aggregate the samples' columns; everything here can be computed again from the Parquet file.

    Args:
        samples: As in ``Evaluation``.
        values_per_image: Channels times pixels.
        fit: What fitting asked of the target.
        perturb: What perturbing asked.
        fit_seconds: Wall time of fitting.
        seconds: Wall time of perturbing all images.
    """
    labels = samples["label"].to_numpy()
    predictions = {name: samples[f"{name}_prediction"].to_numpy() for name in ("clean", "raw", "valid", "uint8")}
    right = {name: predicted == labels for name, predicted in predictions.items()}
    accuracies = {name: proportion(hits) for name, hits in right.items()}
    fooled = proportion(predictions["clean"] != predictions["valid"])
    of_correct = _of_correct(right["clean"], right["valid"])
    l1 = samples["l1"].to_numpy()
    psnr = samples["psnr"].to_numpy()
    moved = psnr[np.isfinite(psnr)]
    figures: dict[str, Any] = {f"{name}_accuracy": share.value for name, share in accuracies.items()}
    figures |= {f"{name}_accuracy_interval": (share.low, share.high) for name, share in accuracies.items()}
    figures |= {f"{name}_map": _mean_average_precision(samples, name, labels) for name in accuracies}
    if "sought" in samples.column_names:
        reached = proportion(predictions["valid"] == samples["sought"].to_numpy())
        figures |= {
            "targeted_success_rate": reached.value,
            "targeted_success_rate_interval": (reached.low, reached.high),
        }
    return Metrics(
        **figures,
        fooling_rate=fooled.value,
        fooling_rate_interval=(fooled.low, fooled.high),
        fooling_rate_of_correct=of_correct.value if of_correct else None,
        fooling_rate_of_correct_interval=(of_correct.low, of_correct.high) if of_correct else None,
        wrong_to_right=int((~right["clean"] & right["valid"]).sum()),
        right_to_wrong=int((right["clean"] & ~right["valid"]).sum()),
        mean_l1=float(l1.mean()),
        mean_l1_per_pixel=float(l1.mean()) / values_per_image,
        mean_l2=float(samples["l2"].to_numpy().mean()),
        mean_linf=float(samples["linf"].to_numpy().mean()),
        max_linf=float(samples["linf"].to_numpy().max()),
        mean_rmsd=float(samples["rmsd"].to_numpy().mean()),
        mean_psnr=float(moved.mean()) if len(moved) else None,
        mean_ssim=float(samples["ssim"].to_numpy().mean()),
        fit=fit,
        perturb=perturb,
        fit_seconds=fit_seconds,
        ms_per_image=1000 * seconds / len(labels),
    )


def _of_correct(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Proportion | None:
    """The fooling rate over what was right before; None where nothing was."""
    return proportion(~after[before]) if before.any() else None


def _mean_average_precision(samples: pa.Table, name: str, labels: NDArray[np.int64]) -> float | None:
    column = f"{name}_scores"
    if column not in samples.column_names:
        return None
    scores = samples[column].combine_chunks()
    return mean_average_precision(scores.flatten().to_numpy().reshape(len(labels), -1), labels)
