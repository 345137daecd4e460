"""Whether two methods differ beyond chance on the same images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["holm", "mean_interval", "paired_p_value"]


def paired_p_value(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The chance of so large a difference between two shares of right answers where there is none.

    With one seed, McNemar's exact test over the images on which the two differ. With several, a t test over images of
    the difference of the two means over seeds, since one image's answers under several seeds are not independent.

    Args:
        first: Right answers, ``(seeds, images)``.
        second: The same seeds and images.
    """
    if len(first) == 1:
        from scipy.stats import binomtest  # lazy: takes a second

        only_first, only_second = (first & ~second).sum(), (second & ~first).sum()
        if not only_first + only_second:
            return 1.0
        return float(binomtest(int(only_first), int(only_first + only_second)).pvalue)
    from scipy.stats import ttest_1samp  # lazy, as above

    difference = first.mean(axis=0) - second.mean(axis=0)
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 0.0
    return float(ttest_1samp(difference, 0).pvalue)


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

    Normal, from the spread over images of each image's mean over seeds: it says nothing about other seeds.

    Args:
        right: ``(seeds, images)``.
    """
    each = right.mean(axis=0)
    half = 1.96 * float(each.std(ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return max(0.0, float(each.mean()) - half), min(1.0, float(each.mean()) + half)
