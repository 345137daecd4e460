"""What methods that follow gradients share: which class a loss is measured against, and in which direction to go."""

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, ImageMethod, Setting
from advbench.methods.geometry import clip_to_budget
from advbench.tensors import Images, Labels, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["GradientMethod", "LabelledMethod", "MinimalMethod", "rising_loss"]


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


class MinimalMethod(LabelledMethod):
    """A labelled method that looks for the shortest perturbation, in the budget's norm, that changes the class.

    Without an epsilon the result is that perturbation. With one, it is projected onto the budget. An image that is not
    of its reference class to begin with is left as it is.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Find the shortest perturbations, and hold them to the budget where there is one."""
        if not len(images):
            return images
        return clip_to_budget(
            self.shortest(images, self.reference(images, access), access, context), images, context.budget
        )

    @abstractmethod
    def shortest(self, images: Images, labels: Labels, access: Access, context: Context) -> Images:
        """Find images in [0, 1], as near as can be in ``context.budget.norm``, that are not of class ``labels``.

        Args:
            images: At least one, ``(batch, 3, height, width)``.
            labels: The class of each to be left, ``(batch,)``.
            access: The door to the target for these samples.
            context: The norm, the seed and the rest; the budget's epsilon is not looked at.
        """


def rising_loss(scores: Scores, labels: Labels, goal: Goal) -> Tensor:
    """What is to rise for each sample, ``(batch,)``: the cross-entropy to degrade, its negative to enhance."""
    loss = F.cross_entropy(scores, labels, reduction="none")
    return loss if goal is Goal.DEGRADE else -loss
