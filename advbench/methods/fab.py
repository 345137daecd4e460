"""The fast adaptive boundary attack, targeted."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import clip_to_budget, lengths
from advbench.methods.gradient import MinimalMethod
from advbench.methods.hyperplane import to_hyperplane
from advbench.methods.margins import nearest_classes
from advbench.targets.base import chunk_size
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Capability, Norm

__all__ = ["FABT"]

PATIENCE, FAR = 20, 2.0
"""Where a distance is enough, an image that after so many steps is still so many times further gives a class up."""


@dataclass
class _Shortest:
    """The nearest images found so far that are not of their class."""

    images: Images
    norm: Norm
    points: Images
    distances: Tensor
    reached: Tensor
    """As ``distances``, since the search turned to the class at hand."""

    def offer(self, index: Tensor, points: Images, left: Tensor) -> None:
        """Take over points that have left their class, where they are nearer."""
        distances = lengths(points - self.images[index], self.norm).flatten()
        self.reached[index] = torch.where(left, distances, torch.inf).minimum(self.reached[index])
        nearer = left & (distances < self.distances[index])
        chosen = index[nearer]
        self.points[chosen], self.distances[chosen] = points[nearer], distances[nearer]


class FABT(MinimalMethod):
    """FAB-T: steps onto the linearised boundary between the image's class and another, ever nearer to the image.

    Croce, Hein 2020, 'Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack',
    https://arxiv.org/abs/1907.02044, in the targeted form of https://arxiv.org/abs/2003.01690: the point and the clean
    image are each projected onto the hyperplane within [0, 1], overshot and mixed, the nearer having more weight; a
    point that has left its class is drawn back towards the image. Images are ``(batch, 3, height, width)``.

    Deviations: a point that is drawn back is projected onto the hyperplane of where it was, as the pass that found it
    out has given that already: one pass a step instead of two; no random restarts. Within AutoAttack an image leaves
    when it is fooled within epsilon, and gives up a class that after 20 steps is still over twice as far.

    Args:
        targets: Classes to try, from the one with the highest score on the clean image.
        steps: Passes for each.
        mix: The most weight that the clean image's projection has: alpha_max in the paper.
        overshoot: How far a projection goes, 1 being onto the boundary: eta.
        backward: What is kept of a perturbation that has left its class: beta.
    """

    uses: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.INPUT_GRADIENTS, Capability.LABELS, Capability.SCORES}
    )
    returns_failures_clean: ClassVar[bool] = True

    targets: int = Field(default=9, ge=1)
    steps: int = Field(default=100, ge=1)
    mix: float = Field(default=0.1, gt=0, le=1)
    overshoot: float = Field(default=1.05, ge=1)
    backward: float = Field(default=0.9, gt=0, lt=1)

    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:
        """Search each image to the end."""
        return self.search(images, labels, access.rows, access, context.budget.norm)

    def push(self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context) -> Images:
        """Search until each image has left its class within the budget."""
        budget = context.budget
        found = self.search(images, labels, rows, access, budget.norm, enough=budget.epsilon)
        return clip_to_budget(found, images, budget)

    def search(
        self, images: Images, labels: Labels, rows: Rows, access: Access, norm: Norm, enough: float | None = None
    ) -> Images:
        """Look for the shortest perturbations that leave the class.

        Args:
            images: At least one, ``(batch, 3, height, width)``.
            labels: The class of each to be left; an image that is of another is left as it is.
            rows: The samples that the images belong to.
            access: The door to the target.
            norm: That they are to be short in.
            enough: A distance at which an image leaves, and by which it gives up a class that is far; None searches
                each class to the end.
        """
        scores = access.scores(images, rows)
        infinite = images.new_full((len(images),), torch.inf)
        distances = torch.where(scores.argmax(dim=1) == labels, infinite, 0)
        found = _Shortest(images, norm, images.clone(), distances, infinite)
        nearest = nearest_classes(scores, labels, self.targets)
        for rank in range(nearest.shape[1]):
            index = (found.distances > (enough or 0.0)).nonzero().flatten()
            points, found.reached = images[index], infinite.clone()
            for step in range(self.steps):
                if not len(index):
                    break
                if enough is not None and step == PATIENCE:
                    near = ~found.reached[index].isfinite() | (found.reached[index] <= FAR * enough)
                    index, points = index[near], points[near]
                index, points = self._step(index, points, labels, nearest[:, rank], rows, access, found, enough)
            if len(index):
                found.offer(index, points, access.labels(points, rows[index.cpu()]) != labels[index])
        return found.points

    def _step(
        self, index: Tensor, points: Images, labels: Labels, aims: Labels, rows: Rows, access: Access,
        found: _Shortest, enough: float | None,
    ) -> tuple[Tensor, Images]:  # fmt: skip
        """Ask about the points, keep those that have left their class, and move on from all that are not done."""

        def lead(scores: Scores, part: slice) -> Tensor:
            own, aim = (classes[index[part]].to(scores.device)[:, None] for classes in (labels, aims))
            return scores.gather(1, aim) - scores.gather(1, own)

        answer = access.jacobian(points, lead, 1, rows[index.cpu()])
        left = answer.scores.argmax(dim=1) != labels[index]
        found.offer(index, points, left)
        normals, leads = answer.gradients[:, 0].nan_to_num(0, 0, 0), answer.losses[:, 0].nan_to_num(0, 0, 0)
        if enough is not None and (done := found.distances[index] <= enough).any():
            index, points, left, normals, leads = (value[~done] for value in (index, points, left, normals, leads))
        clean, size = found.images[index], chunk_size(points)
        parts = (slice(start, start + size) for start in range(0, len(points), size))
        mixed = [
            self._mixed(points[part], clean[part], left[part], normals[part], leads[part], found.norm) for part in parts
        ]
        return index, torch.cat(mixed) if mixed else points

    def _mixed(
        self, points: Images, images: Images, left: Tensor, normals: Images, leads: Tensor, norm: Norm
    ) -> Images:
        """Project the points, drawn back where they have left their class, and the clean images; overshoot and mix."""
        drawn = torch.where(left.view(-1, 1, 1, 1), torch.lerp(images, points, self.backward), points)
        both, twice = torch.cat([drawn, images]), torch.cat([normals, normals])
        # A hyperplane through the points where the lead, made linear there, is zero.
        gaps = -torch.cat([leads, leads]) - (twice * (both - torch.cat([points, points]))).flatten(1).sum(dim=1)
        moves = to_hyperplane(both, twice, gaps, norm)
        own, clean = moves.chunk(2)
        short, long = lengths(moves, norm).clamp(min=1e-8).chunk(2)
        weight = (short / (short + long)).clamp(max=self.mix)
        return torch.lerp(drawn + self.overshoot * own, images + self.overshoot * clean, weight).clamp(0, 1)
