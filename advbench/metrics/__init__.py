"""Pure measures of single samples, and their aggregation with intervals, apart from each other."""

from advbench.metrics.aggregate import Proportion, mean_average_precision, proportion
from advbench.metrics.perturbation import PerturbationSizes, perturbation_sizes, structural_similarity, to_uint8

__all__ = [
    "PerturbationSizes",
    "Proportion",
    "mean_average_precision",
    "perturbation_sizes",
    "proportion",
    "structural_similarity",
    "to_uint8",
]
