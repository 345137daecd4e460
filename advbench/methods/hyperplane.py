"""The nearest point of a hyperplane within the pixel range."""

import torch
from torch import Tensor

from advbench.methods.geometry import dual, lengths
from advbench.tensors import Images
from advbench.types import Norm

__all__ = ["to_hyperplane"]

NEWTON_STEPS = 30


def to_hyperplane(points: Images, normals: Images, gaps: Tensor, norm: Norm) -> Images:
    """The shortest moves with which points of [0, 1] reach a hyperplane without leaving [0, 1].

    A move ``d`` is the shortest with ``normal . d = gap``. Where the hyperplane does not meet [0, 1], the move goes as
    far towards it as there is room.

    Croce & Hein 2020 (https://arxiv.org/abs/1907.02044) solve this by sorting. Under linf and l2 each value moves by
    ``min(speed * time, room)``, the speed being 1 or ``|normal|``, so that what is gained is a rising concave piecewise
    linear function of time: Newton's method from 0 meets the answer from below, at a few passes over the values.

    Args:
        points: ``(batch, 3, height, width)``.
        normals: Of the hyperplanes.
        gaps: What ``normal . move`` has to be, ``(batch,)``.
        norm: That moves are short in.

    Returns:
        The moves.
    """
    toward = normals * gaps.sign().view(-1, 1, 1, 1)
    weights = toward.abs().flatten(1)
    # Normals of length 1 keep what follows clear of under- and overflow.
    scale = lengths(normals, dual(norm)).flatten().clamp(min=1e-30)
    weights, wanted = weights / scale[:, None], gaps.abs() / scale
    room = torch.where(toward > 0, 1 - points, points).flatten(1).clamp(min=0)
    room = torch.where(weights > 0, room, 0)
    fill = _fill_greedily if norm is Norm.L1 else _fill_evenly
    moves = fill(weights, room, wanted, norm)
    return toward.sign() * moves.view_as(points)


def _fill_evenly(weights: Tensor, room: Tensor, wanted: Tensor, norm: Norm) -> Tensor:
    speeds = torch.ones_like(weights) if norm is Norm.LINF else weights
    time = torch.zeros_like(wanted)
    for _ in range(NEWTON_STEPS):
        moves = torch.minimum(speeds * time[:, None], room)
        lacking = wanted - (weights * moves).sum(dim=1)
        slope = (weights * speeds * (moves < room)).sum(dim=1)
        later = torch.where(slope > 0, lacking.clamp(min=0) / slope, 0)
        time = time + later
        if not (later > 1e-6 * time).any():
            break
    return torch.minimum(speeds * time[:, None], room)


def _fill_greedily(weights: Tensor, room: Tensor, wanted: Tensor, norm: Norm) -> Tensor:  # noqa: ARG001
    """Under l1, the value that gains most for its move goes first, as far as it can."""
    order = weights.argsort(dim=1, descending=True)
    gains = (weights * room).gather(1, order)
    before = gains.cumsum(dim=1) - gains
    moves = (wanted[:, None] - before).clamp(min=0).minimum(gains) / weights.gather(1, order).clamp(min=1e-30)
    return torch.zeros_like(weights).scatter(1, order, moves)
