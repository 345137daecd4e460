"""AutoPGD on the cross-entropy or the difference of logits ratio."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.ascent import Ascent, Climbed, Objective, best_of, starting_points
from advbench.methods.base import Context
from advbench.methods.fooling import FoolingMethod
from advbench.methods.margins import dlr
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Capability, Goal, Norm

__all__ = ["APGD"]


class APGD(FoolingMethod):
    """AutoPGD, projected gradient ascent with momentum that needs no step size.

    Croce, Hein 2020, 'Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks', https://arxiv.org/abs/2003.01690, algorithm 1: a step of 2 epsilon is halved at checkpoints, ever closer
    together, where too few steps raised the loss or the best loss stays the same, and the search goes back to the best
    point. Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: y is the predicted class unless ``label`` is ``true``; a sample leaves as soon as it is misclassified,
    and one that never is ends at the highest loss found; with several passes a gradient, a sample is judged by
    its mean scores, where the authors' code takes the last pass; to enhance, the loss falls and no sample leaves.

    Args:
        loss: ``ce``, the cross-entropy, or ``dlr``, the difference of logits ratio, which scaled logits do not hide.
        steps: Moves of an image in each restart; each costs ``eot`` gradients, and the start as many.
        restarts: Random starts; an image that is fooled leaves.
        eot: Gradients that each move follows the mean of, for targets that answer at random.
        rho: The share of steps that have to raise the loss for the step size to stay.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses: ClassVar[frozenset[Capability]] = frozenset({Capability.INPUT_GRADIENTS, Capability.LABELS})

    loss: Literal["ce", "dlr"] = "ce"
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    eot: int = Field(default=1, ge=1)
    rho: float = Field(default=0.75, gt=0, lt=1)

    def push(self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context) -> Images:
        """Climb from as many starts as asked for, and keep the best of each image."""

        def attempt(restart: int, left: Tensor) -> Climbed:
            own, own_labels, own_rows = images[left], labels[left], rows[left.cpu()]
            ascent = Ascent(
                own, own_rows, access, context.budget, self._objective(own_labels, context.goal),
                own_labels if context.goal is Goal.DEGRADE else None, self.steps, self.eot, self.rho,
            )  # fmt: skip
            return ascent.run(starting_points(own, own_rows, context.budget, context.seed, "apgd", self.loss, restart))

        return best_of(images, self.restarts, attempt)

    def _objective(self, labels: Labels, goal: Goal) -> Objective:
        sign = 1 if goal is Goal.DEGRADE else -1

        def rise(scores: Scores, index: Tensor) -> Tensor:
            own = labels[index].to(scores.device)
            loss = dlr(scores, own) if self.loss == "dlr" else F.cross_entropy(scores, own, reduction="none")
            return sign * loss

        return rise
