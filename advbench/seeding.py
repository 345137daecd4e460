"""Random numbers that depend on a seed and on what they are for, never on what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from advbench.tensors import Rows

__all__ = [
    "derive_seed",
    "per_sample_normal",
    "per_sample_order",
    "per_sample_uniform",
    "seeded",
    "seeded_everywhere",
    "stepwise_uniform",
]


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


def stepwise_uniform(rows: Rows, step: int, count: int, seed: int, *purpose: str | int) -> torch.Tensor:
    """A few uniform numbers in [0, 1) for each sample at one step of many, ``(batch, count)``.

    Each sample and step has a stream of its own, as in ``per_sample_uniform``, but the streams are SplitMix64 (Steele,
    Lea, Flood 2014), which needs no state and no loop over samples: what thousands of small draws ask for.

    Args:
        rows: Each sample's position in the evaluation set, ``(batch,)``.
        step: The draw's number.
        count: Numbers a sample.
        seed: The run's seed.
        purpose: Sets this stream apart from the method's others.
    """
    key = np.array([derive_seed(seed, *purpose)], dtype=np.uint64)
    streams = _split_mix(key + rows.cpu().numpy().astype(np.uint64) * _GOLDEN)
    streams = _split_mix(streams + np.array([step], dtype=np.uint64) * _GOLDEN)
    bits = _split_mix(streams[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _split_mix(state: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers so that neighbours become unrelated."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: np.ndarray = state ^ (state >> np.uint64(31))
    return scrambled
