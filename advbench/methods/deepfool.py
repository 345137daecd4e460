"""DeepFool."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import clip_to_budget, dual, lengths, movable, unit_step
from advbench.methods.gradient import MinimalMethod, over_the_boundary
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Norm

__all__ = ["DeepFool"]

GRADIENT_VALUES = 2**26
"""Gradient values asked for at once, 256 MiB of float32: bounds memory whatever the batch and the number of classes."""

SMALLEST_MOVE = 1e-6
"""Of each pixel in a step: less is lost in rounding, and an image that lies on the boundary itself would stay there."""


class DeepFool(MinimalMethod):
    """DeepFool: steps to the nearest boundary of the classifier's linear approximation until the class changes.

    Moosavi-Dezfooli, Fawzi, Frossard 2016, 'DeepFool: a simple and accurate method to fool deep neural networks',
    https://arxiv.org/abs/1511.04599, under l2 and linf. With f_k the score of class k less that of the image's own and
    w_k its gradient, a step goes to the class of least ``|f_k| / ||w_k||``, in the dual norm, and has ``1 + overshoot``
    times that length. Images are ``(batch, 3, height, width)``, lengths in [0, 1] pixel scale.

    Each step is one forward pass, and so many gradients as classes are looked at; fooled images leave the batch. The
    labels, where they are the predicted ones, come with the first pass.

    Deviations: after the first step only the ``nearest`` classes of each image are looked at, a heuristic that saves
    most of the gradients: one class made perturbations 0.1% longer than all ten did on digits, and no longer on a
    classifier of 1,000 classes (with ``candidates`` of them it is the paper's algorithm). Each iterate is clipped to
    [0, 1], and after ``clipped_steps`` the pixels that this holds back no longer count; a step moves a pixel by a
    millionth at least. An image that is not fooled after ``max_steps`` is returned as it was then.

    Args:
        overshoot: How far beyond the boundary to go, as a share of each step.
        max_steps: Steps at most.
        candidates: How many classes of highest score to consider, the image's own among them, as in the authors' code.
        nearest: How many of the candidates to keep after the first step: those whose boundaries were nearest then.
        clipped_steps: Steps, as in the authors' code, that fall short of the boundary by what [0, 1] takes off them.
            Short first steps find shorter perturbations, as the gradient turns on the way; many of them only cost time.
        bisections: How often to halve the stretch from the clean image to the fooling one in search of the boundary on
            it, which takes the overshoot back. One query each, and one to see that what came back still fools.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})

    overshoot: float = Field(default=0.02, ge=0)
    max_steps: int = Field(default=50, ge=1)
    candidates: int = Field(default=10, ge=2)
    nearest: int = Field(default=1, ge=1)
    clipped_steps: int = Field(default=3, ge=0)
    bisections: int = Field(default=0, ge=0)

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Find the shortest perturbations without asking for labels first: the first pass tells them."""
        if not len(images):
            return images
        labels = access.true_labels if self.label == "true" else None
        return clip_to_budget(self.shortest(images, labels, access, context), images, context.budget)

    def shortest(self, images: Images, labels: Labels | None, access: Access, context: Context) -> Images:
        """Find the nearest images of another class than ``labels``, or than the predicted ones where those are None."""
        count = min(self.candidates, access.num_classes)
        size = max(1, GRADIENT_VALUES // (count * images[0].numel()))
        found = []
        for part in torch.arange(len(images)).split(size):
            classes = _Classes(len(part), count, None if labels is None else labels[part], images.device)
            own = access.at(part)
            perturbed = self._fool(images[part], classes, own, own.rows, context.budget.norm)
            if self.bisections:
                perturbed = self._bisect(images[part], perturbed, classes.labels, own, own.rows)
                perturbed = over_the_boundary(perturbed, images[part], classes.labels, own)
            found.append(perturbed)
        return torch.cat(found)

    def _fool(self, images: Images, classes: "_Classes", access: Access, rows: Rows, norm: Norm) -> Images:
        perturbed = images.clone()
        active = torch.arange(len(images), device=images.device)
        floor = SMALLEST_MOVE * lengths(torch.ones_like(images[:1]), norm)
        for step in range(self.max_steps):
            answer = access.jacobian(perturbed[active], classes.margins, classes.count, rows[active.cpu()])
            kept = answer.scores.argmax(dim=1) == classes.own
            active, gradients, margins = active[kept], answer.gradients[kept], answer.losses[kept]
            if not len(active):
                break
            current = perturbed[active]
            if step >= self.clipped_steps:
                gradients = movable(gradients, current.unsqueeze(1))
            distances = margins.abs() / _dual_lengths(gradients, norm).clamp(min=1e-12)
            classes.keep(kept, distances, self.nearest)
            best = distances.argmin(dim=1)
            each = torch.arange(len(active), device=images.device)
            length = distances[each, best].view(-1, 1, 1, 1).clamp(min=floor)
            move = (1 + self.overshoot) * length * unit_step(gradients[each, best], norm)
            perturbed[active] = (current + move.nan_to_num(0, 0, 0)).clamp(0, 1)
        return perturbed

    def _bisect(self, images: Images, perturbed: Images, labels: Labels, access: Access, rows: Rows) -> Images:
        """Come back from each fooling image towards the clean one, as long as the class is another."""
        inside = torch.zeros(len(images), 1, 1, 1, device=images.device)
        outside = torch.ones_like(inside)
        for _ in range(self.bisections):
            middle = (inside + outside) / 2
            fooled = access.labels(torch.lerp(images, perturbed, middle), rows) != labels
            fooled = fooled.view(-1, 1, 1, 1)
            inside, outside = torch.where(fooled, inside, middle), torch.where(fooled, middle, outside)
        return torch.lerp(images, perturbed, outside)


class _Classes:
    """Which classes are looked at for each image that is not fooled yet.

    Args:
        size: Images.
        count: Classes for each, its own among them.
        labels: Their own classes, or None where the first scores are to tell.
        device: Where the images are.
    """

    def __init__(self, size: int, count: int, labels: Labels | None, device: torch.device) -> None:
        self._known = labels
        self._ranked = False
        self._classes = torch.zeros(size, count, dtype=torch.long, device=device)
        self.labels = self._classes[:, 0]

    @property
    def count(self) -> int:
        """Classes beside the own one."""
        return self._classes.shape[1] - 1

    @property
    def own(self) -> Labels:
        """The class of each image to be left."""
        return self._classes[:, 0]

    def margins(self, scores: Scores, part: slice) -> Tensor:
        """How far each other class lies above the own one, ``(part, count)``; the first scores rank the classes."""
        if not self._ranked:
            self._classes[part] = self._rank(scores.detach().to(self._classes.device), part)
        chosen = scores.gather(1, self._classes[part].to(scores.device))
        return chosen[:, 1:] - chosen[:, :1]

    def _rank(self, scores: Scores, part: slice) -> Labels:
        own = scores.argmax(dim=1) if self._known is None else self._known[part]
        ranked = scores.scatter(1, own.unsqueeze(1), torch.inf).topk(self._classes.shape[1], dim=1)
        return torch.cat([own.unsqueeze(1), ranked.indices[:, 1:]], dim=1)

    def keep(self, kept: Tensor, distances: Tensor, nearest: int) -> None:
        """Go on with the images that are ``kept``, and after the first step with the nearest classes alone."""
        classes = self._classes[kept]
        if not self._ranked and nearest < self.count:
            close = distances.topk(nearest, dim=1, largest=False).indices
            classes = torch.cat([classes[:, :1], classes[:, 1:].gather(1, close)], dim=1)
        self._classes, self._ranked = classes, True


def _dual_lengths(gradients: Tensor, norm: Norm) -> Tensor:
    """Of ``(batch, count, channels, height, width)``, to ``(batch, count)``."""
    return lengths(gradients.flatten(0, 1), dual(norm)).view(gradients.shape[:2])
