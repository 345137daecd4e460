"""What methods that follow gradients share: which class a loss is measured against, and in which direction to go."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, ImageMethod, Setting
from advbench.methods.geometry import clip_to_budget, lengths
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images, Labels, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal, Norm

__all__ = [
    "Aim",
    "AimedMethod",
    "GradientMethod",
    "LabelledMethod",
    "MinimalMethod",
    "Nearest",
    "annealed",
    "margin",
    "over_the_boundary",
    "rising_loss",
]


OVERSHOOTS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""By how much of its length a shortest perturbation is lengthened."""


class LabelledMethod(ImageMethod):
    """An image method that pushes scores away from one class of each image, or towards it.

    Args:
        label: That class. ``true`` is a capability of its own, and needs ``--true-labels``.
    """

    uses: ClassVar[frozenset[Capability]] = frozenset({Capability.INPUT_GRADIENTS})
    """What is touched while perturbing, beside labels."""

    label: Literal["predicted", "true"] = "predicted"

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """What the method uses, and the labels that it goes by."""
        reference = Capability.TRUE_LABELS if self.label == "true" else Capability.LABELS
        return Needs(perturb=self.uses | {reference})

    def reference(self, images: Images, access: Access) -> Labels:
        """The class of each image that the method goes by: one query an image, or none where it is the true one."""
        return access.true_labels if self.label == "true" else access.labels(images)


class GradientMethod(LabelledMethod):
    """A labelled method that makes the most of a given budget."""

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget: a step has to have a length."""
        if setting.budget.epsilon is None:
            raise InvalidConfig("this attack needs a budget: give --epsilon, such as --epsilon 8/255")
        return self


@dataclass(frozen=True)
class Aim:
    """The class that each image is pushed away from, or towards.

    Args:
        classes: ``(batch,)``.
        towards: To each class rather than away from it.
    """

    classes: Labels
    towards: bool

    def gain(self, scores: Scores, part: slice = slice(None)) -> Tensor:
        """What is to rise, ``(batch,)``: the cross-entropy with the class, or its negative."""
        loss = F.cross_entropy(scores, self.classes[part].to(scores.device), reduction="none")
        return -loss if self.towards else loss

    def odds(self, scores: Scores) -> Tensor:
        """What is to rise, ``(batch,)``: the log-odds against the class, or for it.

        They order points as the cross-entropy does and have gradients of its direction, without vanishing where the
        class is certain: differences between scores stay measurable there.
        """
        own = self.classes.view(-1, 1).to(scores.device)
        others = scores.scatter(1, own, -torch.inf).logsumexp(dim=1)
        against = others - scores.gather(1, own).squeeze(1)
        return -against if self.towards else against

    def reached(self, scores: Scores) -> Tensor:
        """Which samples are where they are to be, ``(batch,)``."""
        return (scores.argmax(dim=1) == self.classes.to(scores.device)) == self.towards

    def of(self, chosen: Tensor) -> "Aim":
        """The aim of some of the samples."""
        return Aim(self.classes[chosen], self.towards)


class AimedMethod(GradientMethod):
    """A labelled method that may be given another class to reach.

    Args:
        towards: That class, to degrade: ``none``, so that any other than ``label`` will do; ``random``;
            ``least-likely`` or ``next`` (likeliest), both of the clean image and other than ``label``.
    """

    towards: Literal["none", "least-likely", "next", "random"] = "none"

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget, and that a class to reach does not stand against the goal."""
        if self.towards != "none" and setting.goal is Goal.ENHANCE:
            raise InvalidConfig(f"--towards {self.towards} leads away from the right class: it is for --goal degrade")
        return super().resolve(setting)

    def needs(self, goal: Goal) -> Needs:
        """As a labelled method, and the scores that the class to reach is chosen by."""
        needs = super().needs(goal)
        if self.towards not in ("least-likely", "next"):
            return needs
        return Needs(perturb=needs.perturb | {Capability.SCORES})

    def aim(self, images: Images, access: Access, context: Context) -> Aim:
        """Choose each image's class: one query an image, or none where it is the true one or away from it."""
        if self.towards in ("least-likely", "next"):
            return self.aim_by(access.scores(images), access, context)
        return self._aim_without_scores(self.reference(images, access), access, context)

    def _aim_without_scores(self, labels: Labels, access: Access, context: Context) -> Aim:
        if self.towards == "none":
            return Aim(labels, towards=context.goal is Goal.ENHANCE)
        draws = per_sample_uniform(torch.Size([len(labels), 1]), access.rows, context.seed, "towards").squeeze(1)
        others = ((draws + 1) / 2 * (access.num_classes - 1)).long().clamp(max=access.num_classes - 2)
        others = others.to(labels.device)
        return _aim_at(others + (others >= labels), access)

    def aim_by(self, scores: Scores, access: Access, context: Context) -> Aim:
        """Choose each image's class by the clean images' scores, where they are known already."""
        labels = access.true_labels if self.label == "true" else scores.argmax(dim=1)
        own = labels.view(-1, 1)
        if self.towards == "least-likely":
            return _aim_at(scores.scatter(1, own, torch.inf).argmin(dim=1), access)
        if self.towards == "next":
            return _aim_at(scores.scatter(1, own, -torch.inf).argmax(dim=1), access)
        return self._aim_without_scores(labels, access, context)


def _aim_at(classes: Labels, access: Access) -> Aim:
    access.seek(classes)
    return Aim(classes, towards=True)


class MinimalMethod(LabelledMethod):
    """A labelled method that looks for the shortest perturbation, in the budget's norm, that changes the class.

    Without an epsilon the result is that perturbation, a ten-thousandth longer: a search ends a hair behind the
    boundary, where another pass, which rounds otherwise, may score it as before. With an epsilon, it is projected onto
    the budget. An image that is not of its reference class to begin with is left as it is.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    uses: ClassVar[frozenset[Capability]] = frozenset({Capability.INPUT_GRADIENTS, Capability.LABELS})

    def resolve(self, setting: Setting) -> Self:
        """Check that the method knows what is short in the budget's norm."""
        if setting.budget.norm not in self.norms:
            known = " or ".join(f"--norm {norm}" for norm in sorted(self.norms))
            raise InvalidConfig(f"this attack does not minimise the {setting.budget.norm} norm: give {known}")
        return self

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Find the shortest perturbations, and hold them to the budget where there is one."""
        if not len(images):
            return images
        labels = self.reference(images, access)
        found = over_the_boundary(self.shortest(images, labels, access, context), images, labels, access)
        return clip_to_budget(found, images, context.budget)

    @abstractmethod
    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:
        """Find images in [0, 1], as near as can be in ``context.budget.norm``, that are not of class ``labels``.

        Args:
            images: At least one, ``(batch, 3, height, width)``.
            labels: The class of each to be left, ``(batch,)``.
            access: The door to the target for these samples.
            context: The norm, the seed and the rest; the budget's epsilon is not looked at.
        """


def over_the_boundary(found: Images, images: Images, labels: Labels, access: Access) -> Images:
    """Lengthen perturbations by the least of ``OVERSHOOTS`` with which the image is of another class than ``labels``.

    A query an image that was moved, and one more for each that is short of the boundary.
    """
    found, delta = found.clone(), found - images
    left = delta.flatten(1).any(dim=1).nonzero().flatten()
    for overshoot in OVERSHOOTS:
        if not len(left):
            break
        found[left] = (images[left] + (1 + overshoot) * delta[left]).clamp(0, 1)
        left = left[access.labels(found[left], access.rows[left.cpu()]) == labels[left]]
    return found


def rising_loss(scores: Scores, labels: Labels, goal: Goal) -> Tensor:
    """What is to rise for each sample, ``(batch,)``: the cross-entropy to degrade, its negative to enhance."""
    loss = F.cross_entropy(scores, labels.to(scores.device), reduction="none")
    return loss if goal is Goal.DEGRADE else -loss


def margin(scores: Scores, labels: Labels) -> Tensor:
    """How far the class ``labels`` lies above the best other one, ``(batch,)``; negative where it is not the first."""
    own = labels.to(scores.device).unsqueeze(1)
    best_other: Tensor = scores.scatter(1, own, -torch.inf).amax(dim=1)
    return scores.gather(1, own).squeeze(1) - best_other


def annealed(first: float, last: float, step: int, steps: int) -> float:
    """A value that falls from ``first`` towards ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


class Nearest:
    """The nearest fooling image found so far for each sample: the clean one until there is any.

    Args:
        images: Clean, ``(batch, 3, height, width)``.
        norm: In which near is meant.
    """

    def __init__(self, images: Images, norm: Norm) -> None:
        self.images = images.clone()
        self.farthest = lengths(torch.maximum(images, 1 - images), norm)
        """The length of the longest perturbation within [0, 1], ``(batch, 1, 1, 1)``."""
        self.length = self.farthest.clone()
        """Of the perturbation to the nearest fooling image."""
        self.found = torch.zeros_like(self.length, dtype=torch.bool)

    def offer(self, perturbed: Images, length: Tensor, fooled: Tensor, at: Tensor | slice = slice(None)) -> None:
        """Take those that fool and are nearer than any before.

        Args:
            perturbed: One image for each sample.
            length: Of its perturbation, ``(batch, 1, 1, 1)``.
            fooled: Whether it fools, ``(batch, 1, 1, 1)``.
            at: Which samples they are, where not all.
        """
        better = fooled & (length < self.length[at])
        self.images[at] = torch.where(better, perturbed, self.images[at])
        self.length[at] = torch.where(better, length, self.length[at])
        self.found[at] |= fooled
