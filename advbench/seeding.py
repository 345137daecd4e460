"""Random numbers that depend on a seed and on what they are for, never on what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from advbench.tensors import Rows

__all__ = ["derive_seed", "per_sample_uniform", "seeded", "seeded_everywhere"]


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


@contextmanager
def seeded_everywhere(seed: int, *purpose: str | int) -> Iterator[int]:
    """Seed the global generators of torch, numpy and Python for code of others, and restore them after.

    Yields:
        The seed in 32 bits, for code that takes one of its own.
    """
    small = derive_seed(seed, *purpose) % 2**32
    before = np.random.get_state(), random.getstate()
    with seeded(seed, *purpose):
        np.random.seed(small)
        random.seed(small)
        try:
            yield small
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


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
    key = derive_seed(seed, *purpose)
    out = np.empty(shape, dtype=np.float32)
    for position, row in enumerate(rows.tolist()):
        stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row]))
        stream.random(out=out[position], dtype=np.float32)
    return torch.from_numpy(2 * out - 1)
