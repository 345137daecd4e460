"""Projected gradient descent."""

from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Setting
from advbench.methods.geometry import clip_to_budget, sparse_step, unit_step
from advbench.methods.gradient import Aim, AimedMethod
from advbench.methods.walk import Walk
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images, Rows
from advbench.threat import Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["PGD"]


@dataclass
class _Best:
    """The best of the restarts so far, and how good it is."""

    images: Images
    reached: Tensor
    gain: Tensor

    def of(self, chosen: Tensor) -> "_Best":
        return _Best(self.images[chosen], self.reached[chosen], self.gain[chosen])

    def take(self, places: Tensor, other: "_Best") -> None:
        """Replace those at ``places`` that ``other`` is better than: reached first, then the larger gain."""
        mine = self.of(places)
        further = (other.reached & ~mine.reached) | ((other.reached == mine.reached) & (other.gain > mine.gain))
        places, other = places[further], other.of(further)
        self.images[places], self.reached[places], self.gain[places] = other.images, other.reached, other.gain


class PGD(AimedMethod):
    """Projected gradient descent on the cross-entropy.

    Madry et al. 2018, 'Towards Deep Learning Models Resistant to Adversarial Attacks',
    https://arxiv.org/abs/1706.06083: from a random point of the ball, steps along the steepest direction, each
    projected back. Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: y is the predicted class unless ``label`` is ``true``; under l2 and l1 the random start lies epsilon
    away in a random direction (under l1, a start of few values holds on to them); under l1 a step is that of SLIDE
    (Tramèr, Boneh 2019, https://arxiv.org/abs/1904.13000), along the signs of the largest few values of the gradient
    that [0, 1] lets move, and the projection is onto the ball and [0, 1] at once (Croce, Hein 2021,
    https://arxiv.org/abs/2103.01208); to enhance, the loss falls instead of rising. Of several restarts, an image's
    best is kept: one that reached its aim, then that of the larger loss; each restart costs one query beside its
    gradients to tell.

    Args:
        steps: Gradients an image.
        relative_step: A step's length as a share of epsilon.
        random_start: Whether to start from a random point rather than from the image.
        restarts: How many starts.
        stop_when_fooled: Whether an image whose class has changed as wanted is left at that: it is not moved deeper
            into its new class, and costs no more queries.
        l1_share: Under l1, the share of an image's values that a step moves.
    """

    steps: int = Field(default=20, ge=1)
    relative_step: float = Field(default=0.125, gt=0)
    random_start: bool = True
    restarts: int = Field(default=1, ge=1)
    stop_when_fooled: bool = False
    l1_share: float = Field(default=0.01, gt=0, le=1)

    def resolve(self, setting: Setting) -> Self:
        """Check that the options mean something together."""
        if self.restarts > 1 and not self.random_start:
            raise InvalidConfig("--restarts from the same point give the same images: leave out --no-random-start")
        if self.stop_when_fooled and setting.goal is Goal.ENHANCE:
            raise InvalidConfig("--stop-when-fooled is for --goal degrade: to enhance, no image is to be fooled")
        return super().resolve(setting)

    def needs(self, goal: Goal) -> Needs:
        """As an aimed method, and scores to compare restarts by."""
        needs = super().needs(goal)
        return Needs(perturb=needs.perturb | {Capability.SCORES}) if self.restarts > 1 else needs

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Take the steps from each start."""
        aim = self.aim(images, access, context)
        reached = self._climb(images, aim, access.rows, access, context, restart=0)
        if self.restarts == 1:
            return reached
        best = _judge(reached, aim, access.rows, access)
        places = torch.arange(len(images), device=images.device)
        for restart in range(1, self.restarts):
            if self.stop_when_fooled:
                places = places[~best.reached[places]]
            chosen, rows = aim.of(places), access.rows[places.cpu()]
            reached = self._climb(images[places], chosen, rows, access, context, restart)
            best.take(places, _judge(reached, chosen, rows, access))
        return best.images

    def _climb(
        self, images: Images, aim: Aim, rows: Rows, access: Access, context: Context, restart: int
    ) -> Images:  # fmt: skip
        epsilon, norm = context.budget.epsilon or 0.0, context.budget.norm
        start = images
        if self.random_start:
            noise = per_sample_uniform(images.shape, rows, context.seed, "pgd", restart).to(images.device)
            if norm is not Norm.LINF:
                noise = unit_step(noise, norm)
            start = clip_to_budget(images + epsilon * noise, images, context.budget)
        walk = Walk(images, start, aim, rows)
        for _ in range(self.steps):
            answer = access.gradient(walk.perturbed, walk.aim.gain, walk.rows)
            gradient = answer.gradient
            if self.stop_when_fooled:
                gradient = gradient[walk.leave(walk.aim.reached(answer.scores))]
                if not len(walk):
                    break
            step = self.relative_step * epsilon * self._direction(gradient, walk.perturbed, norm)
            walk.perturbed = clip_to_budget(walk.perturbed + step, walk.images, context.budget)
        return walk.result()

    def _direction(self, gradient: Images, perturbed: Images, norm: Norm) -> Images:
        return sparse_step(gradient, perturbed, self.l1_share) if norm is Norm.L1 else unit_step(gradient, norm)


def _judge(perturbed: Images, aim: Aim, rows: Rows, access: Access) -> _Best:
    scores = access.scores(perturbed, rows)
    return _Best(perturbed, aim.reached(scores), aim.gain(scores))
