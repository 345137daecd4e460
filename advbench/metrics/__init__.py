"""Pure measures of single samples, and their aggregation with intervals, apart from each other."""

from advbench.metrics.aggregate import Proportion, log_odds, mean_average_precision, proportion
from advbench.metrics.comparison import holm, mean_interval, paired_p_value
from advbench.metrics.perturbation import PerturbationSizes, perturbation_sizes, structural_similarity, to_uint8

__all__ = [
    "PerturbationSizes",
    "Proportion",
    "holm",
    "log_odds",
    "mean_average_precision",
    "mean_interval",
    "paired_p_value",
    "perturbation_sizes",
    "proportion",
    "structural_similarity",
    "to_uint8",
]
