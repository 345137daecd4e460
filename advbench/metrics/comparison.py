"""Whether two methods differ beyond chance on the same images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["holm", "mean_interval", "paired_p_value"]

Z = 1.959963984540054
"""Standard deviations of a normal distribution that 95% lie within."""


def paired_p_value(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The chance of so large a difference between two shares of right answers where there is none.

    With one seed, McNemar's exact test over the images on which the two differ. With several, whose answers to one
    image are not independent, the same over images: of those that one gets right under more seeds than the other.

    Args:
        first: Right answers, ``(seeds, images)``.
        second: The same seeds and images.
    """
    from scipy.stats import binomtest  # lazy: takes a second

    lead = first.sum(axis=0) - second.sum(axis=0)
    more, less = int((lead > 0).sum()), int((lead < 0).sum())
    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for testing many differences at once."""
    # statsmodels has it, at the price of a second for its import and a quarter for each table.
    order = np.argsort(p_values)
    stepwise = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(stepwise).clip(max=1)
    return [float(value) for value in corrected]


def mean_interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """A 95% interval of the mean over seeds of the share of right answers, over the draw of images.

    Wilson's, for as many images as would give one seed's share the variance that this mean has by the spread over
    images of each image's mean over seeds: seeds that agree are one seed. It says nothing about other seeds. Where all
    images have the same mean, so that there is no spread, for as many images as there are.

    Args:
        right: ``(seeds, images)``.
    """
    each = right.mean(axis=0)
    share, count = float(each.mean()), float(len(each))
    if np.ptp(each) > 0:
        count *= share * (1 - share) / float(each.var())
    middle = share + Z**2 / (2 * count)
    half = Z * (share * (1 - share) / count + Z**2 / (4 * count**2)) ** 0.5
    scale = 1 + Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
