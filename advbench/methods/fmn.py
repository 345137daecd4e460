"""The fast minimum-norm attack."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import dual, lengths, movable, project, unit_step
from advbench.methods.gradient import MinimalMethod, Nearest, annealed, margin
from advbench.tensors import Images, Labels, Scores
from advbench.types import Norm

__all__ = ["FMN"]


class FMN(MinimalMethod):
    """Fast minimum-norm attack: gradient steps inside a ball that shrinks while the class is another.

    Pintor, Roli, Brendel, Biggio 2021, 'Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints',
    https://arxiv.org/abs/2102.12827, under linf, l2 and l1. Until an image is first fooled, its radius reaches the
    boundary of the linear approximation; from then on it shrinks or grows by a factor, and where the image is fooled it
    never passes the shortest perturbation found. Images are ``(batch, 3, height, width)``, lengths in [0, 1] pixel
    scale.

    One forward pass and one gradient a step. Deviations: pixels that [0, 1] holds back do not count in the gradient,
    without which few images at the edges of the range are ever fooled; until an image is first fooled, its radius
    reaches a thousandth beyond that boundary, on which there would be no way on; no starting points, no l0. An image
    that is never fooled is returned as it came.

    Args:
        steps: Gradients an image.
        step_size: A step's l2 length at first; it falls to a hundredth along a cosine.
        gamma: The share by which a radius shrinks or grows at first; it falls to a thousandth along a cosine.
    """

    steps: int = Field(default=100, ge=1)
    step_size: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=0.05, gt=0, lt=1)

    last_gamma: ClassVar[float] = 0.001
    returns_failures_clean: ClassVar[bool] = True

    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:
        """Take the steps, and keep the shortest perturbation that fools."""
        norm = context.budget.norm
        delta, nearest = torch.zeros_like(images), Nearest(images, norm)
        radius = torch.full_like(nearest.farthest, torch.inf)

        def loss(scores: Scores, part: slice) -> Tensor:
            return -margin(scores, labels[part])

        for step in range(self.steps):
            perturbed, length = images + delta, lengths(delta, norm)
            answer = access.gradient(perturbed, loss)
            gradient = movable(answer.gradient, perturbed)
            fooled = (answer.scores.argmax(dim=1) != labels).view(-1, 1, 1, 1)
            nearest.offer(perturbed, length, fooled)
            distance = margin(answer.scores, labels).abs().view(-1, 1, 1, 1) / lengths(gradient, dual(norm)).clamp(
                min=1e-12
            )
            gamma = annealed(self.gamma, self.last_gamma, step, self.steps)
            grown = torch.where(nearest.found, radius * (1 + gamma), (length + distance) * (1 + self.last_gamma))
            radius = torch.where(fooled, torch.minimum(radius * (1 - gamma), nearest.length), grown)
            radius = torch.minimum(radius, nearest.farthest)
            size = annealed(self.step_size, self.step_size / 100, step, self.steps)
            delta = project(delta + size * unit_step(gradient, Norm.L2), norm, radius)
            delta = (images + delta).clamp(0, 1) - images
        return nearest.images
