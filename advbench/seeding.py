"""Random numbers that depend on a seed and on what they are for, never on what ran before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from advbench.tensors import Rows

__all__ = ["derive_seed", "per_sample_normal", "per_sample_order", "per_sample_uniform", "seeded"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose, independent of the seeds for all others."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[torch.Generator]:
    """Seed torch's global generators for one purpose, give a generator of the same seed, and restore them after."""
    derived = derive_seed(seed, *purpose)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived)
        yield torch.Generator().manual_seed(derived)


def per_sample_uniform(shape: torch.Size, rows: Rows, seed: int, *purpose: str | int) -> torch.Tensor:
    """Uniform numbers in [-1, 1), each sample's own stream.

    A counter-based generator gives row i of the evaluation the same numbers in every batch, so that a result does not
    depend on the batch size; that is worth the loop over samples, which costs microseconds each.

    Args:
        shape: Of the result, ``(batch, ...)``.
        rows: Each sample's position in the evaluation set, ``(batch,)``.
        seed: The run's seed.
        purpose: Sets this stream apart from the method's others.
    """
    out = np.empty(shape, dtype=np.float32)
    for part, stream in zip(out, _streams(rows, seed, purpose), strict=True):
        stream.random(out=part, dtype=np.float32)
    return torch.from_numpy(2 * out - 1)


def per_sample_normal(shape: torch.Size, rows: Rows, seed: int, *purpose: str | int) -> torch.Tensor:
    """Standard normal numbers, each sample's own stream, as in ``per_sample_uniform``."""
    out = np.empty(shape, dtype=np.float32)
    for part, stream in zip(out, _streams(rows, seed, purpose), strict=True):
        stream.standard_normal(out=part, dtype=np.float32)
    return torch.from_numpy(out)


def per_sample_order(count: int, kept: int, rows: Rows, seed: int, *purpose: str | int) -> torch.Tensor:
    """The first ``kept`` of ``count`` numbers in random order, each sample's own, ``(batch, kept)``."""
    out = np.empty((len(rows), kept), dtype=np.int64)
    for part, stream in zip(out, _streams(rows, seed, purpose), strict=True):
        part[:] = stream.permutation(count)[:kept]
    return torch.from_numpy(out)


def _streams(rows: Rows, seed: int, purpose: tuple[str | int, ...]) -> Iterator[np.random.Generator]:
    key = derive_seed(seed, *purpose)
    for row in rows.tolist():
        yield np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row]))
