"""Decoupled direction and norm."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import lengths, unit_step
from advbench.methods.gradient import MinimalMethod, Nearest, annealed, rising_loss
from advbench.tensors import Images, Labels, Scores
from advbench.types import Goal, Norm

__all__ = ["DDN"]


class DDN(MinimalMethod):
    """Decoupled direction and norm: the gradient turns a perturbation whose length is set apart from it.

    Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger 2019, 'Decoupling Direction and Norm for Efficient
    Gradient-Based L2 Adversarial Attacks and Defenses', https://arxiv.org/abs/1811.09600, under l2. After each step
    along the gradient of the cross-entropy the perturbation is scaled to a length that shrinks by ``gamma`` where the
    class is another, and grows where it is not. Images are ``(batch, 3, height, width)``, lengths in [0, 1] pixel
    scale.

    One forward pass and one gradient a step. Deviations: iterates are not rounded to 8 bits; where the gradient is zero
    there is no step. An image that is never fooled is returned as it came.

    Args:
        steps: Gradients an image.
        first_length: Of the first perturbation.
        gamma: The share by which the length shrinks or grows.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    returns_failures_clean: ClassVar[bool] = True

    steps: int = Field(default=100, ge=1)
    first_length: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=0.05, gt=0, lt=1)

    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:  # noqa: ARG002
        """Take the steps, and keep the shortest perturbation that fools."""
        delta, nearest = torch.zeros_like(images), Nearest(images, Norm.L2)
        radius = torch.full_like(nearest.farthest, self.first_length)

        def loss(scores: Scores, part: slice) -> Tensor:
            return rising_loss(scores, labels[part], Goal.DEGRADE)

        for step in range(self.steps):
            perturbed = images + delta
            answer = access.gradient(perturbed, loss)
            fooled = (answer.scores.argmax(dim=1) != labels).view(-1, 1, 1, 1)
            nearest.offer(perturbed, lengths(delta), fooled)
            radius = torch.where(fooled, (1 - self.gamma) * radius, (1 + self.gamma) * radius)
            radius = torch.minimum(radius, nearest.farthest)
            delta = delta + annealed(1.0, 0.01, step, self.steps) * unit_step(answer.gradient, Norm.L2)
            delta = radius * unit_step(delta, Norm.L2)
            delta = (images + delta).clamp(0, 1) - images
        return nearest.images
