"""What FGSM and its iterated kin share: which class the loss is measured against, and in which direction to go."""

from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor

from advbench.errors import InvalidConfig
from advbench.methods.base import ImageMethod, Setting, lengths
from advbench.tensors import Images, Labels, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["GradientMethod", "rising_loss", "steepest"]


class GradientMethod(ImageMethod):
    """An image method that follows input gradients within a budget.

    Args:
        label: The class that the loss is measured against. ``true`` is a capability of its own, and needs
            ``--true-labels``.
    """

    label: Literal["predicted", "true"] = "predicted"

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Input gradients, labels, and the true ones where the loss is measured against them."""
        reference = Capability.TRUE_LABELS if self.label == "true" else Capability.LABELS
        return Needs(perturb=frozenset({Capability.INPUT_GRADIENTS, reference}))

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget: a step has to have a length."""
        if setting.budget.epsilon is None:
            raise InvalidConfig("this attack needs a budget: give --epsilon, such as --epsilon 8/255")
        return self


def rising_loss(scores: Scores, labels: Labels, goal: Goal) -> Tensor:
    """What is to rise for each sample, ``(batch,)``: the cross-entropy to degrade, its negative to enhance."""
    loss = F.cross_entropy(scores, labels, reduction="none")
    return loss if goal is Goal.DEGRADE else -loss


def steepest(gradient: Images, norm: Norm) -> Images:
    """The step of unit norm along which a linear function rises most; zero where the gradient is."""
    if norm is Norm.LINF:
        return gradient.sign()
    return gradient / lengths(gradient).clamp(min=1e-12)
