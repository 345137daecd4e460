"""Names for the tensors that flow through advbench. Every shape is (batch, ...)."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

__all__ = ["Images", "Labels", "Rows", "SampleLoss", "SampleLosses", "Scores"]

Images: TypeAlias = Tensor
"""float32, ``(batch, channels, height, width)``; clean images lie in [0, 1]."""

Labels: TypeAlias = Tensor
"""int64, ``(batch,)``."""

Scores: TypeAlias = Tensor
"""A classifier's logits, float32, ``(batch, classes)``."""

Rows: TypeAlias = Tensor
"""Positions of samples in a dataset, int64, ``(batch,)``."""

SampleLoss: TypeAlias = Callable[[Scores, slice], Tensor]
"""A loss for each sample, ``(part, classes) -> (part,)``, given which part of the batch the scores belong to."""

SampleLosses: TypeAlias = Callable[[Scores, slice], Tensor]
"""Several losses for each sample, ``(part, classes) -> (part, count)``, as in ``SampleLoss``."""
