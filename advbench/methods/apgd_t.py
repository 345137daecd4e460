"""AutoPGD on the targeted difference of logits ratio, towards one class after another."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.ascent import Ascent, Climbed, best_of, starting_points
from advbench.methods.base import Context
from advbench.methods.fooling import FoolingMethod
from advbench.methods.margins import nearest_classes, targeted_dlr
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Capability, Goal, Norm

__all__ = ["APGDT"]


class APGDT(FoolingMethod):
    """APGD-T: AutoPGD towards each of the classes with the highest scores, one after another.

    Croce, Hein 2020, 'Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks', https://arxiv.org/abs/2003.01690, section 4: the targeted DLR loss for the nine nearest classes. Images
    are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: as in ``apgd-ce``; with fewer classes than targets, each other class is a target once.

    Args:
        targets: Classes to try, from the one with the highest score on the clean image.
        steps: Moves towards each.
        rho: The share of steps that have to raise the loss for the step size to stay.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.INPUT_GRADIENTS, Capability.LABELS, Capability.SCORES}
    )

    targets: int = Field(default=9, ge=1)
    steps: int = Field(default=100, ge=1)
    rho: float = Field(default=0.75, gt=0, lt=1)

    def push(self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context) -> Images:
        """Try class after class; an image that is fooled leaves."""
        nearest = nearest_classes(access.scores(images, rows), labels, self.targets)

        def attempt(rank: int, left: Tensor) -> Climbed:
            own, own_labels, own_rows, aims = images[left], labels[left], rows[left.cpu()], nearest[left, rank]

            def rise(scores: Scores, index: Tensor) -> Tensor:
                return targeted_dlr(scores, own_labels[index].to(scores.device), aims[index].to(scores.device))

            ascent = Ascent(own, own_rows, access, context.budget, rise, own_labels, self.steps, rho=self.rho)
            return ascent.run(starting_points(own, own_rows, context.budget, context.seed, "apgd-t", rank))

        return best_of(images, nearest.shape[1], attempt)
