"""Gradients estimated from scores by natural evolution strategies."""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Setting
from advbench.methods.geometry import clip_to_budget, unit_step
from advbench.methods.gradient import AimedMethod
from advbench.methods.walk import Walk
from advbench.seeding import per_sample_normal
from advbench.targets import chunk_size
from advbench.tensors import Images
from advbench.types import Capability, Goal

__all__ = ["NES"]


class NES(AimedMethod):
    """Projected gradient descent on gradients estimated from scores.

    Ilyas, Engstrom, Athalye, Lin 2018, 'Black-box Adversarial Attacks with Limited Queries and Information',
    https://arxiv.org/abs/1804.08598: the gradient is the mean of Gaussian directions, each times the difference that it
    makes to the loss, from either side. Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale. A step
    costs one query at the image, which tells whether it has arrived and may leave, and two a direction.

    Deviations: the loss is the log-odds of the class, whose gradient has the direction of the log-probability's and
    does not vanish where the class is certain; y is the predicted class unless ``label`` is ``true``; fixed step
    length; to enhance, images do not leave early; what the target is asked about is kept in [0, 1].

    Args:
        queries: The most queries an image, all included; whole steps only are made of them.
        directions: How many a gradient is estimated from.
        sigma: The directions' standard deviation, in [0, 1] pixel scale.
        relative_step: A step's length as a share of epsilon.
    """

    uses = frozenset({Capability.SCORES})

    queries: int = Field(default=1000, ge=3)
    directions: int = Field(default=25, ge=1)
    sigma: float = Field(default=0.001, gt=0)
    relative_step: float = Field(default=0.125, gt=0)

    def resolve(self, setting: Setting) -> Self:
        """Check that the queries make a step, and that there is a budget."""
        if self.queries < 2 * self.directions + 1:
            raise InvalidConfig(
                f"--queries {self.queries} make no step of nes with --directions {self.directions}, which takes "
                f"{2 * self.directions + 1}: give more queries or fewer directions",
                option="queries",
            )
        return super().resolve(setting)

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Take as many steps as the queries suffice for."""
        walk: Walk | None = None
        for turn in range(self.queries // (2 * self.directions + 1)):
            scores = access.scores(images) if walk is None else access.scores(walk.perturbed, walk.rows)
            walk = walk or Walk(images, images, self.aim_by(scores, access, context), access.rows)
            if context.goal is Goal.DEGRADE:
                walk.leave(walk.aim.reached(scores))
            if not len(walk):
                break
            gradient = self.estimate(walk, access, context, turn)
            step = self.relative_step * (context.budget.epsilon or 0.0) * unit_step(gradient, context.budget.norm)
            walk.perturbed = clip_to_budget(walk.perturbed + step, walk.images, context.budget)
        return images if walk is None else walk.result()

    def estimate(self, walk: Walk, access: Access, context: Context, turn: int) -> Images:
        """Estimate the gradient of the log-odds where images are, several directions at a time."""
        points, total = walk.perturbed, torch.zeros_like(walk.perturbed)
        at_once = max(1, chunk_size(points) // len(points))
        for group in torch.arange(self.directions).split(at_once):
            noise = torch.stack(
                [
                    per_sample_normal(points.shape, walk.rows, context.seed, "nes", turn, direction)
                    for direction in group.tolist()
                ]
            ).to(points.device)
            rises, falls = (
                self._odds((points + sign * self.sigma * noise).clamp(0, 1), walk, access) for sign in (1, -1)
            )
            total += ((rises - falls).view(len(group), -1, 1, 1, 1) * noise).sum(dim=0)
        return total / (2 * self.sigma * self.directions)

    def _odds(self, points: Tensor, walk: Walk, access: Access) -> Tensor:
        """The log-odds that are to rise at ``(group, batch, ...)`` points, ``(group, batch)``."""
        group = len(points)
        scores = access.scores(points.flatten(0, 1), walk.rows.repeat(group))
        everywhere = walk.aim.of(torch.arange(len(walk)).repeat(group).to(scores.device))
        return everywhere.odds(scores).view(group, -1)
