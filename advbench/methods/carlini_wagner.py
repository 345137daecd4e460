"""Carlini and Wagner's attack."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import lengths
from advbench.methods.gradient import MinimalMethod, Nearest, margin
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Norm

__all__ = ["CarliniWagner"]

DECAYS = (0.9, 0.999)
"""Of Adam's two averages."""


class CarliniWagner(MinimalMethod):
    """Carlini and Wagner's l2 attack: Adam on the squared length plus c times the margin, over several c.

    Carlini, Wagner 2017, 'Towards Evaluating the Robustness of Neural Networks', https://arxiv.org/abs/1608.04644:
    minimises ``||x' - x||^2 + c max(z_y - max z_k + kappa, 0)`` over w with ``x' = (tanh w + 1) / 2``, which stays in
    [0, 1]; c is multiplied by ten until an image is fooled, then found by bisection, each image its own. Images are
    ``(batch, 3, height, width)``, lengths in [0, 1] pixel scale.

    One forward pass and one gradient a step. Images whose loss has not fallen by a ten-thousandth in a tenth of the
    steps leave the batch until the next c; elsewhere that is asked of the batch as a whole, so that results hang on its
    size. Deviations: 1,000 steps by default, not 10,000. An image that is never fooled is returned as it came.

    Args:
        max_steps: Of Adam, for each c.
        searches: How many c are tried.
        learning_rate: Of Adam.
        initial_c: The first c.
        kappa: By how much the best other class has to lie above the image's own.
        abort_early: Whether images that get nowhere leave before ``max_steps``.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    returns_failures_clean: ClassVar[bool] = True

    max_steps: int = Field(default=1000, ge=1)
    searches: int = Field(default=9, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    initial_c: float = Field(default=0.001, gt=0)
    kappa: float = Field(default=0.0, ge=0)
    abort_early: bool = True

    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:  # noqa: ARG002
        """Search for each image's c."""
        nearest = Nearest(images, Norm.L2)
        c = torch.full((len(images),), self.initial_c, device=images.device)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.searches):
            fooled = self._descend(_Descent.start(images, labels, c, access.rows), nearest, access)
            high = torch.where(fooled, c, high)
            low = torch.where(fooled, low, c)
            c = torch.where(high.isinf(), c * 10, (low + high) / 2)
        return nearest.images

    def _descend(self, state: "_Descent", nearest: Nearest, access: Access) -> Tensor:
        """Minimise for one c an image; tell which images were fooled on the way, ``(batch,)``."""
        ever_fooled = torch.zeros(len(state.images), dtype=torch.bool, device=state.images.device)
        for step in range(self.max_steps):
            # The first iterate is the clean image itself, so that one that needs no perturbation gets none.
            perturbed = state.perturbed() if step else state.images
            delta = perturbed - state.images
            answer = access.gradient(perturbed, partial(self._penalty, state), state.rows)
            fooled = margin(answer.scores, state.labels) <= (-self.kappa if step else 0)
            fooled &= answer.scores.argmax(dim=1) != state.labels
            nearest.offer(perturbed, lengths(delta), fooled.view(-1, 1, 1, 1), state.positions)
            ever_fooled[state.positions] |= fooled
            state.gradient = answer.gradient + 2 * delta
            if self.abort_early and step % math.ceil(self.max_steps / 10) == 0:
                state.drop_stuck(
                    delta.square().flatten(1).sum(dim=1) + self._penalty(state, answer.scores, slice(None))
                )
                if not len(state.images):
                    break
            state.move(step + 1, self.learning_rate)
        return ever_fooled

    def _penalty(self, state: "_Descent", scores: Scores, part: slice) -> Tensor:
        """What is added to the squared length: c times how far the class is from being left."""
        return state.c[part].to(scores.device) * (margin(scores, state.labels[part]) + self.kappa).clamp(min=0)


@dataclass
class _Descent:
    """Adam, for the images whose loss still falls.

    Args:
        images: Clean.
        labels: To be left.
        c: Each image's.
        rows: Which samples they are.
        positions: In the batch that was begun with.
        w: The perturbed images, in the space in which [0, 1] is all numbers.
        mean: Adam's average of gradients.
        square: Adam's average of their squares.
        loss: When progress was last looked at.
        gradient: Of the loss with respect to the perturbed images.
    """

    images: Images
    labels: Labels
    c: Tensor
    rows: Rows
    positions: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    loss: Tensor
    gradient: Tensor

    @classmethod
    def start(cls, images: Images, labels: Labels, c: Tensor, rows: Rows) -> "_Descent":
        w = ((2 * images - 1) * (1 - 1e-6)).atanh()
        positions, nothing = torch.arange(len(images), device=images.device), torch.zeros_like(images)
        return cls(images, labels, c, rows, positions, w, nothing, nothing, torch.full_like(c, torch.inf), nothing)

    def perturbed(self) -> Images:
        return (self.w.tanh() + 1) / 2

    def drop_stuck(self, loss: Tensor) -> None:
        """Let the images go whose loss has not fallen since it was last looked at."""
        falling = loss <= 0.9999 * self.loss
        self.loss = loss
        if not falling.all():
            for name, values in vars(self).items():
                setattr(self, name, values[falling.to(values.device)])

    def move(self, step: int, learning_rate: float) -> None:
        """Take Adam's step, counted from one, along the gradient carried over to w."""
        gradient = self.gradient * (1 - self.w.tanh().square()) / 2
        self.mean = torch.lerp(gradient, self.mean, DECAYS[0])
        self.square = torch.lerp(gradient.square(), self.square, DECAYS[1])
        mean, square = self.mean / (1 - DECAYS[0] ** step), self.square / (1 - DECAYS[1] ** step)
        self.w = self.w - learning_rate * mean / (square.sqrt() + 1e-8)
