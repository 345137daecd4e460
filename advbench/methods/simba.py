"""The simple black-box attack."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import clip_to_budget
from advbench.methods.gradient import AimedMethod
from advbench.methods.walk import Walk
from advbench.seeding import per_sample_order
from advbench.tensors import Images
from advbench.types import Capability, Goal

__all__ = ["SimBA"]


class SimBA(AimedMethod):
    """Steps along random directions of an orthonormal basis, kept where the class gets less likely.

    Guo, Gardner, You, Wilson, Weinberger 2019, 'Simple Black-box Adversarial Attacks',
    https://arxiv.org/abs/1905.07121: each direction is tried forwards and, where that did not help, backwards, one
    query each. Images are ``(batch, 3, height, width)``, lengths in [0, 1] pixel scale. An image that has arrived
    leaves.

    Deviations: what is tried is clipped to the budget and to [0, 1] first, in any norm; once the basis is used up it
    is gone through again in the same order; log-odds are compared instead of probabilities, which order points alike
    and are not rounded to 1; y is the predicted class unless ``label`` is ``true``; to enhance, images do not leave
    early.

    Args:
        queries: The most queries an image, all included.
        step: Length of a step.
        basis: ``pixel``, or ``dct``, low frequencies of the cosine transform.
        frequencies: In ``dct``, the share of each direction's frequencies that are used, the lowest.
    """

    uses = frozenset({Capability.SCORES})

    queries: int = Field(default=1000, ge=1)
    step: float = Field(default=0.2, gt=0)
    basis: Literal["pixel", "dct"] = "pixel"
    frequencies: float = Field(default=0.25, gt=0, le=1)

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Try directions until images have arrived or the queries are spent."""
        scores = access.scores(images)
        walk = Walk(images, images, self.aim_by(scores, access, context), access.rows)
        odds = walk.aim.odds(scores)
        spent = torch.ones(len(images), dtype=torch.long, device=images.device)
        stops = context.goal is Goal.DEGRADE
        arrived = walk.aim.reached(scores) & stops
        count = self._basis_size(images)
        order = per_sample_order(count, min(count, self.queries), access.rows, context.seed, "simba").to(images.device)
        turn = 0
        while True:
            stay = walk.leave(arrived | (spent >= self.queries))
            if not len(walk):
                return walk.result()
            odds, spent, order, arrived = odds[stay], spent[stay], order[stay], arrived[stay]
            step = self.step * self._direction(order[:, turn % order.shape[1]], walk.images)
            undecided = torch.arange(len(walk), device=images.device)
            for sign in (1, -1):
                undecided = undecided[spent[undecided] < self.queries]
                spent[undecided] += 1
                better, reached = self._try(walk, undecided, sign * step[undecided], odds, access, context)
                arrived[undecided] = reached & stops
                undecided = undecided[~better]
            turn += 1

    def _try(
        self, walk: Walk, chosen: Tensor, step: Images, odds: Tensor, access: Access, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Move those of the chosen samples whose odds rise by it; say which did, and which of these have arrived."""
        tried = clip_to_budget(walk.perturbed[chosen] + step, walk.images[chosen], context.budget)
        scores, aim = access.scores(tried, walk.rows[chosen.cpu()]), walk.aim.of(chosen)
        risen = aim.odds(scores)
        better = risen > odds[chosen]
        odds[chosen[better]] = risen[better]
        walk.perturbed = walk.perturbed.index_copy(0, chosen[better], tried[better])
        return better, better & aim.reached(scores)

    def _basis_size(self, images: Images) -> int:
        _, channels, height, width = images.shape
        return channels * self._low(height) * self._low(width)

    def _low(self, length: int) -> int:
        """How many frequencies, or pixels, of one direction are used."""
        return length if self.basis == "pixel" else max(1, math.ceil(self.frequencies * length))

    def _direction(self, index: Tensor, images: Images) -> Images:
        """Vectors of the basis by number, one for each image, each of unit l2 length."""
        _, channels, height, width = images.shape
        rows, columns = self._vectors(height).to(images.device), self._vectors(width).to(images.device)
        across = index % len(columns)
        down = index.div(len(columns), rounding_mode="floor") % len(rows)
        channel = torch.eye(channels, device=images.device)[index // (len(columns) * len(rows))]
        vectors: Tensor = torch.einsum("bc,bh,bw->bchw", channel, rows[down], columns[across])
        return vectors

    def _vectors(self, length: int) -> Tensor:
        """The basis of one direction, ``(count, length)``: pixels, or the lowest cosines."""
        if self.basis == "pixel":
            return torch.eye(length)
        frequency = torch.arange(self._low(length)).view(-1, 1)
        waves = torch.cos(math.pi / length * (torch.arange(length) + 0.5) * frequency)
        lengths: Tensor = waves.norm(dim=1, keepdim=True)
        return waves / lengths
