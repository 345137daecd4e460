"""One run of AutoPGD, projected gradient ascent that chooses its own step size, on any objective."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from advbench.access import Access
from advbench.methods.geometry import clip_to_budget, lengths, unit_step
from advbench.seeding import per_sample_normal, per_sample_uniform
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.threat import Budget
from advbench.types import Norm

__all__ = ["Ascent", "Climbed", "Objective", "best_of", "checkpoints", "starting_points"]

Objective = Callable[[Scores, Tensor], Tensor]
"""What is to rise, ``(part,)``, given scores and which of the images they belong to, both ``(part, ...)``."""

MOMENTUM = 0.25
"""The share of the last move in the next one: 1 - alpha in the paper."""


def starting_points(images: Images, rows: Rows, budget: Budget, seed: int, *purpose: str | int) -> Images:
    """Random points at distance epsilon, clipped to [0, 1]: uniform noise under linf, normal noise under l2."""
    draw = per_sample_uniform if budget.norm is Norm.LINF else per_sample_normal
    noise = draw(images.shape, rows, seed, *purpose).to(images.device)
    noise = noise / lengths(noise, budget.norm).clamp(min=1e-12)
    return clip_to_budget(images + (budget.epsilon or 0.0) * noise, images, budget)


def checkpoints(steps: int) -> Iterator[tuple[int, int]]:
    """After which steps the step size is looked at, and how many steps each look is over."""
    at = window = max(int(0.22 * steps), 1)
    while at <= steps:
        yield at, window
        window = max(window - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
        at += window


@dataclass(frozen=True)
class Climbed:
    """Where an ascent ended, one entry a sample in each field.

    Args:
        points: Where it was fooled, or else the best point.
        values: The objective there.
        fooled: Whether it was.
    """

    points: Images
    values: Tensor
    fooled: Tensor


def best_of(images: Images, attempts: int, attempt: Callable[[int, Tensor], Climbed]) -> Images:
    """The best points of several attempts, each on the images that none before it has fooled.

    Args:
        images: Clean.
        attempts: How many.
        attempt: Given its number and which of the images are left.
    """
    best, values = images.clone(), images.new_full((len(images),), -float("inf"))
    left = torch.arange(len(images), device=images.device)
    for number in range(attempts):
        climbed = attempt(number, left)
        better = climbed.fooled | ~(climbed.values <= values[left])
        best[left[better]], values[left[better]] = climbed.points[better], climbed.values[better]
        left = left[~climbed.fooled]
        if not len(left):
            break
    return best


@dataclass(frozen=True)
class _Climb:
    """The samples that are still in play, one entry a sample in each field."""

    index: Tensor
    images: Images
    point: Images
    previous: Images
    gradient: Images
    value: Tensor
    best: Images
    best_gradient: Images
    best_value: Tensor
    step: Tensor
    rises: Tensor
    checked_value: Tensor
    was_halved: Tensor

    def keep(self, kept: Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[kept] for field in fields(self)))


@dataclass
class Ascent:
    """One run of AutoPGD (algorithm 1 of the paper) on many samples, each of which leaves as soon as it is fooled.

    Args:
        images: Clean, ``(batch, 3, height, width)``.
        rows: The samples that they belong to.
        access: The door to the target.
        budget: With an epsilon.
        objective: What is to rise.
        labels: A sample is fooled when it leaves its class here; None lets every sample climb to the end.
        steps: Moves of each sample.
        eot: Passes that each gradient is the mean of.
        rho: The share of steps that have to rise for the step size to stay.
    """

    images: Images
    rows: Rows
    access: Access
    budget: Budget
    objective: Objective
    labels: Labels | None
    steps: int
    eot: int = 1
    rho: float = 0.75

    def run(self, start: Images) -> Climbed:
        """Climb from ``start``."""
        self._found, self._values = start.clone(), start.new_full((len(start),), -float("inf"))
        self._fooled = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        windows = dict(checkpoints(self.steps))
        climb = self._begin(start)
        for taken in range(1, self.steps + 1):
            if not len(climb.index):
                break
            climb = self._look(self._move(climb, first=taken == 1))
            if taken in windows:
                climb = self._adapt(climb, windows[taken])
        self._found[climb.index], self._values[climb.index] = climb.best, climb.best_value
        return Climbed(self._found, self._values, self._fooled)

    def _begin(self, start: Images) -> _Climb:
        count = len(start)
        step = start.new_full((count, 1, 1, 1), 2 * (self.budget.epsilon or 0.0))
        index = torch.arange(count, device=start.device)
        gradient, value, fooled = self._ask(start, index)
        climb = _Climb(
            index, self.images, start, start, gradient, value, start, gradient, value, step,
            rises=torch.zeros_like(value), checked_value=value, was_halved=torch.ones_like(fooled),
        )  # fmt: skip
        return self._release(climb, fooled)

    def _ask(self, points: Images, index: Tensor) -> tuple[Images, Tensor, Tensor]:
        """The objective, its gradient, and who is fooled; means over ``eot`` passes."""

        def once() -> tuple[Images, Tensor, Scores]:
            answer = self.access.jacobian(
                points, lambda scores, part: self.objective(scores, index[part])[:, None], 1, self.rows[index.cpu()]
            )
            return answer.gradients[:, 0], answer.losses[:, 0], answer.scores

        gradient, value, scores = once()
        for _ in range(self.eot - 1):
            gradient, value, scores = (
                total + new for total, new in zip((gradient, value, scores), once(), strict=True)
            )
        fooled = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        if self.labels is not None:
            fooled = scores.argmax(dim=1) != self.labels[index]
        return (gradient / self.eot).nan_to_num(0, 0, 0), value / self.eot, fooled

    def _move(self, climb: _Climb, *, first: bool) -> _Climb:
        """Step along the gradient, with momentum, and back into the budget."""
        step = climb.step * unit_step(climb.gradient, self.budget.norm)
        point = clip_to_budget(climb.point + step, climb.images, self.budget)
        if not first:
            turned = torch.lerp(climb.point, point, 1 - MOMENTUM) + MOMENTUM * (climb.point - climb.previous)
            point = clip_to_budget(turned, climb.images, self.budget)
        return replace(climb, point=point, previous=climb.point)

    def _look(self, climb: _Climb) -> _Climb:
        """Ask about the new points, and keep what is better."""
        gradient, value, fooled = self._ask(climb.point, climb.index)
        better = value > climb.best_value
        wide = better.view(-1, 1, 1, 1)
        climb = replace(
            climb,
            gradient=gradient,
            value=value,
            rises=climb.rises + (value > climb.value),
            best=torch.where(wide, climb.point, climb.best),
            best_gradient=torch.where(wide, gradient, climb.best_gradient),
            best_value=torch.where(better, value, climb.best_value),
        )
        return self._release(climb, fooled)

    def _release(self, climb: _Climb, fooled: Tensor) -> _Climb:
        """Let the fooled go."""
        if not fooled.any():
            return climb
        gone = climb.index[fooled]
        self._found[gone], self._values[gone], self._fooled[gone] = climb.point[fooled], climb.value[fooled], True
        return climb.keep(~fooled)

    def _adapt(self, climb: _Climb, window: int) -> _Climb:
        """Halve the step, and go back to the best point, where too few steps rose or the best has not changed."""
        stuck = ~climb.was_halved & (climb.best_value <= climb.checked_value)
        halved = (climb.rises <= self.rho * window) | stuck
        wide = halved.view(-1, 1, 1, 1)
        return replace(
            climb,
            step=torch.where(wide, climb.step / 2, climb.step),
            point=torch.where(wide, climb.best, climb.point),
            gradient=torch.where(wide, climb.best_gradient, climb.gradient),
            rises=torch.zeros_like(climb.rises),
            checked_value=climb.best_value,
            was_halved=halved,
        )
