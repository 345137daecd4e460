"""The minimax objectives: what discriminator and generator minimise, given D's last unit before its sigmoid."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.types import Goal

__all__ = ["OBJECTIVES", "LeastSquares", "Logistic", "Objective", "Wasserstein", "goal_met"]


def goal_met(predicted: Tensor, labels: Tensor, goal: Goal) -> Tensor:
    """The target variable g, float, ``(batch,)``: equation 4 to enhance (r = l), equation 10 to degrade (r != l)."""
    right = predicted == labels
    return (right if goal is Goal.ENHANCE else ~right).float()


class Objective(Protocol):
    """A pair of losses; each is a mean over the batch where the paper's formulas are sums.

    Args:
        penalty: Weight of the gradient penalty that D's loss is given beside it; 0 has none.
        betas: Adam's decay rates for both networks.
    """

    penalty: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def discriminator(self, logits: Tensor, g: Tensor) -> Tensor:
        """L_d."""

    def generator(self, logits: Tensor) -> Tensor:
        """L_g, without the regulariser."""


class LeastSquares(Objective):
    """Equations 7 and 8, after LSGAN. The generator's gradient, (D - 1) D (1 - D), vanishes where D is near 0."""

    def discriminator(self, logits: Tensor, g: Tensor) -> Tensor:
        """L_d = 1/2 mean[g (D - 1)^2 + (1 - g) D^2]."""
        judged = torch.sigmoid(logits)
        return 0.5 * (g * (judged - 1).square() + (1 - g) * judged.square()).mean()

    def generator(self, logits: Tensor) -> Tensor:
        """L_g = 1/2 mean (D - 1)^2."""
        return 0.5 * (torch.sigmoid(logits) - 1).square().mean()


class Logistic(Objective):
    """Equations 25 and 26: the cross-entropy. The generator's gradient stays where D is near 0."""

    def discriminator(self, logits: Tensor, g: Tensor) -> Tensor:
        """L_d = 1/2 mean[-g log D - (1 - g) log(1 - D)]."""
        return 0.5 * F.binary_cross_entropy_with_logits(logits, g)

    def generator(self, logits: Tensor) -> Tensor:
        """L_g = 1/2 mean[-log D]."""
        return 0.5 * F.softplus(-logits).mean()


class Wasserstein(Objective):
    """Algorithm 1 of Gulrajani et al. 2017, 'Improved Training of Wasserstein GANs': WGAN-GP.

    D is a critic, whose unit has no sigmoid: what is real there is a J that met the goal here, and what is generated
    there one that did not, both of them the generator's. A batch of one kind alone has no distance, but its penalty.
    """

    penalty = 10.0
    betas = (0.0, 0.9)

    def discriminator(self, logits: Tensor, g: Tensor) -> Tensor:
        """L_d = mean D over g = 0, less mean D over g = 1; 0 where one of them is empty."""
        met, unmet = g.sum(), (1 - g).sum()
        apart = ((1 - g) * logits).sum() / unmet.clamp(min=1) - (g * logits).sum() / met.clamp(min=1)
        return apart * ((met > 0) & (unmet > 0))

    def generator(self, logits: Tensor) -> Tensor:
        """L_g = - mean D."""
        return -logits.mean()


OBJECTIVES: dict[str, Objective] = {
    "least-squares": LeastSquares(),
    "logistic": Logistic(),
    "wgan-gp": Wasserstein(),
}
