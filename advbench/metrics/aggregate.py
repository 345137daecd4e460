"""From single samples to a table's numbers, each with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Proportion", "log_odds", "mean_average_precision", "proportion"]


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


LEAST = 1e-50
"""Stands in for a probability that float32 has rounded to zero: less than any that it has not."""


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each class against all others, which order images as the probabilities do before they are rounded.

    In float32 a softmax is 1 from a margin of 17 on, and images that differ look alike; what the other classes are left
    with tells them apart up to a margin of about 100.

    Args:
        probabilities: Softmax scores, ``(samples, classes)``.
    """
    exact = probabilities.astype(np.float64)
    others = exact.sum(axis=1, keepdims=True) - exact
    best = exact.argmax(axis=1)[:, None]  # the only one of which this difference may keep no digit
    without = exact.copy()
    np.put_along_axis(without, best, 0.0, axis=1)
    np.put_along_axis(others, best, without.sum(axis=1, keepdims=True), axis=1)
    odds: NDArray[np.float64] = np.log(np.maximum(exact, LEAST)) - np.log(np.maximum(others, LEAST))
    return odds


def mean_average_precision(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The paper's mAP: average precision of each class against the rest, averaged over the classes that occur.

    Args:
        probabilities: Softmax scores, ``(samples, classes)``.
        labels: Correct classes, ``(samples,)``.
    """
    from sklearn.metrics import average_precision_score  # lazy: takes a second

    present = np.unique(labels)
    truth = labels[:, None] == present[None, :]
    return float(average_precision_score(truth, log_odds(probabilities)[:, present], average="macro"))
