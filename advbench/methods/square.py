"""Square Attack: random search over squares, by scores alone."""

import math
from functools import cache
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.fooling import FoolingMethod
from advbench.methods.geometry import lengths
from advbench.methods.margins import margin
from advbench.seeding import stepwise_uniform
from advbench.tensors import Images, Labels, Rows
from advbench.types import Capability, Goal, Norm

__all__ = ["Square", "bump", "side"]

SHRINKING = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After each of these proposals, a square's area is half as large."""


BLOCK = 100
"""Proposals that random numbers are drawn for at a time."""


def side(area: float, proposal: int, height: int, width: int, norm: Norm) -> int:
    """How wide a square is in pixels: odd and at least 3 under l2, where it has a centre."""
    share = area / (1 << sum(proposal > passed for passed in SHRINKING))
    wide = max(round(math.sqrt(share * height * width)), 1)
    if norm is not Norm.LINF:
        wide = max(wide, 3)
        wide += wide % 2 == 0
    return min(wide, height, width)


def _mound(height: int, width: int) -> Tensor:
    """Rectangles within one another, the k-th around the centre adding 1 / k^2."""
    rows, columns = torch.arange(height)[:, None] - height // 2, torch.arange(width)[None] - width // 2
    rings = torch.maximum(rows.abs(), columns.abs())
    added = 1 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    heights: Tensor = added.flip(0).cumsum(0).flip(0)[rings]
    return heights


@cache
def bump(wide: int) -> Tensor:
    """What is proposed under l2: a mound beside a hollow, of length 1, ``(wide, wide)``."""
    half = wide // 2
    if not half:
        return torch.ones(wide, wide)
    parts = [part / lengths(part[None]).flatten() for part in (_mound(half, wide), _mound(wide - half, wide))]
    pair = torch.cat([parts[0], -parts[1]])
    return pair / lengths(pair[None]).flatten()


class Square(FoolingMethod):
    """Square Attack: change one random square at a time, and keep what brings the class nearer to being left.

    Andriushchenko, Croce, Flammarion, Hein 2020, 'Square Attack: a query-efficient black-box adversarial attack via
    random search', https://arxiv.org/abs/1912.00049. It starts from vertical stripes (linf) or from a grid of bumps
    (l2); the squares shrink as the search goes on, by the schedule for 10,000 proposals whatever ``queries`` is, as in
    AutoAttack. Only scores are asked for. Images are ``(batch, 3, size, size)``, epsilon in [0, 1] pixel scale.

    Deviations: each image has squares of its own, where the authors' code changes all images of a batch at the same
    place; a proposal that changes nothing is not asked about.

    Args:
        queries: The most that is asked about each image, the start included, and the clean image's class not.
        area: The share of the image that the first squares cover: p in the paper.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses: ClassVar[frozenset[Capability]] = frozenset({Capability.SCORES, Capability.LABELS})

    queries: int = Field(default=5000, ge=1)
    area: float = Field(default=0.8, gt=0, le=1)

    def push(self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context) -> Images:
        """Search; an image that is fooled leaves."""
        start, propose = (_stripes, _recolour) if context.budget.norm is Norm.LINF else (_tiles, _shift)
        epsilon, (height, width) = context.budget.epsilon or 0.0, images.shape[2:]
        best = start(images, epsilon, rows, context.seed)
        result = best.clone()
        index, values = torch.arange(len(images), device=images.device), margin(access.scores(best, rows), labels)
        draws = torch.empty(0)
        for proposal in range(self.queries - 1):
            if (fooled := values > 0).any():
                result[index] = best
                kept = ~fooled
                index, images, best, values, labels = (t[kept] for t in (index, images, best, values, labels))
                rows, draws = rows[kept.cpu()], draws[kept.cpu()] if len(draws) else draws
            if not len(index):
                return result
            block, turn = divmod(proposal, BLOCK)
            if not turn:
                count = BLOCK * (5 + images.shape[1])
                draws = stepwise_uniform(rows, block, count, context.seed, "square").view(len(rows), BLOCK, -1)
            wide = side(self.area, proposal, height, width, context.budget.norm)
            points = propose(images, best, epsilon, wide, draws[:, turn].to(images.device))
            reached = self._margins(points, best, values, labels, rows, access)
            better = reached > values
            if better.any():
                best = torch.where(better.view(-1, 1, 1, 1), points, best)
                values = torch.where(better, reached, values)
        result[index] = best
        return result

    def _margins(
        self, points: Images, best: Images, values: Tensor, labels: Labels, rows: Rows, access: Access
    ) -> Tensor:
        """The margins of proposals; those that change nothing are not asked about."""
        changed = (points != best).flatten(1).any(dim=1)
        if changed.all():
            return margin(access.scores(points, rows), labels)
        reached = values.clone()
        reached[changed] = margin(access.scores(points[changed], rows[changed.cpu()]), labels[changed])
        return reached


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0)


def _corners(draws: Tensor, wide: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where squares begin, uniformly among the places that have room for them, ``(batch, 1)`` each."""
    top, left = draws[:, :1] * (height - wide + 1), draws[:, 1:2] * (width - wide + 1)
    return top.long(), left.long()


def _stripes(images: Images, epsilon: float, rows: Rows, seed: int) -> Images:
    """Vertical stripes one pixel wide, each channel by itself."""
    count, channels, _, width = images.shape
    draws = stepwise_uniform(rows, 0, channels * width, seed, "square", "start").to(images.device)
    return (images + epsilon * _signs(draws).view(count, channels, 1, width)).clamp(0, 1)


def _recolour(images: Images, best: Images, epsilon: float, wide: int, draws: Tensor) -> Images:
    """Move a square by epsilon up or down in each channel, whatever it was moved by before."""
    _, _, height, width = images.shape
    top, left = _corners(draws, wide, height, width)
    down = torch.arange(height, device=images.device) - top
    right = torch.arange(width, device=images.device) - left
    inside = ((down >= 0) & (down < wide))[:, None, :, None] & ((right >= 0) & (right < wide))[:, None, None, :]
    colours = epsilon * _signs(draws[:, 5:])[:, :, None, None]
    return torch.where(inside, (images + colours).clamp(0, 1), best)


def _tiles(images: Images, epsilon: float, rows: Rows, seed: int) -> Images:
    """A centred grid of bumps, five or so in each direction, with signs and turns at random."""
    count, channels, height, width = images.shape
    wide = max(min(height, width) // 5, min(3, height, width))
    down, right = height // wide, width // wide
    draws = stepwise_uniform(rows, 0, (channels + 1) * down * right, seed, "square", "start").to(images.device)
    tiles = draws.view(count, channels + 1, down, right).repeat_interleave(wide, 2).repeat_interleave(wide, 3)
    shape = bump(wide).to(images.device)
    pattern = torch.where(tiles[:, :1] < 0.5, shape.repeat(down, right), shape.T.repeat(down, right))
    delta = torch.zeros_like(images)
    top, left = (height - wide * down) // 2, (width - wide * right) // 2
    delta[:, :, top : top + wide * down, left : left + wide * right] = _signs(tiles[:, 1:]) * pattern
    return _at_length(images, delta, epsilon)


def _shift(images: Images, best: Images, epsilon: float, wide: int, draws: Tensor) -> Images:
    """Move the perturbation of one square to another and shape it anew, with the length that is free as well."""
    _, channels, height, width = images.shape
    delta = (best - images).flatten(2)
    grid = (torch.arange(wide)[:, None] * width + torch.arange(wide)).flatten().to(images.device)
    into, emptied = (
        (top * width + left + grid)[:, None, :].expand(-1, channels, -1)
        for top, left in (_corners(part, wide, height, width) for part in (draws[:, :2], draws[:, 2:4]))
    )
    touched = torch.zeros_like(delta).scatter(2, into, 1.0).scatter(2, emptied, 1.0)
    spare = (epsilon**2 - delta.square().sum(dim=(1, 2), keepdim=True)).clamp(min=0) / channels
    length = (spare + (delta.square() * touched).sum(dim=2, keepdim=True)).sqrt()
    shape = bump(wide).to(images.device)
    turned = torch.where(draws[:, 4, None] < 0.5, shape.flatten(), shape.T.flatten())[:, None, :]
    fresh = _signs(draws[:, 5:])[:, :, None] * turned + _unit(delta.gather(2, into))
    moved = delta.scatter(2, emptied, 0.0).scatter(2, into, _unit(fresh) * length)
    return _at_length(images, moved.view_as(images), epsilon)


def _unit(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values, dim=2, keepdim=True)
    return values / norms.clamp(min=1e-12)


def _at_length(images: Images, delta: Images, epsilon: float) -> Images:
    """The image with a perturbation of length epsilon, less where [0, 1] cuts it."""
    return (images + epsilon * delta / lengths(delta).clamp(min=1e-12)).clamp(0, 1)
