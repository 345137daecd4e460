"""Labelled images in [0, 1] with stable ids, divided into fit, validation and evaluation parts."""

from advbench.datasets.base import ArrayPixels, Dataset, LabelledImages, divide, stratified_order
from advbench.datasets.catalog import FIXED, DatasetSpec, check_dataset, load_dataset
from advbench.datasets.folders import listing

__all__ = [
    "FIXED",
    "ArrayPixels",
    "Dataset",
    "DatasetSpec",
    "LabelledImages",
    "check_dataset",
    "divide",
    "listing",
    "load_dataset",
    "stratified_order",
]
