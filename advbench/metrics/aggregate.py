"""From single samples to a table's numbers, each with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Proportion", "mean_average_precision", "proportion"]


class Proportion(NamedTuple):
    """A share of samples with its 95% interval.

    Args:
        value: Between 0 and 1; NaN over no samples.
        low: The interval's lower end.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


def proportion(hits: NDArray[np.bool_]) -> Proportion:
    """The share of true values, with Wilson's 95% interval."""
    if not len(hits):
        return Proportion(float("nan"), float("nan"), float("nan"))
    from scipy.stats import binomtest  # lazy: takes a second

    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(confidence_level=0.95, method="wilson")
    return Proportion(float(hits.mean()), float(interval.low), float(interval.high))


def mean_average_precision(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The paper's mAP: average precision of each class against the rest, averaged over the classes that occur.

    Args:
        probabilities: Softmax scores, ``(samples, classes)``.
        labels: Correct classes, ``(samples,)``.
    """
    from sklearn.metrics import average_precision_score  # lazy: takes a second

    present = np.unique(labels)
    truth = labels[:, None] == present[None, :]
    return float(average_precision_score(truth, probabilities[:, present], average="macro"))
