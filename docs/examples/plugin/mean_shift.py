"""A method that learns before it perturbs, from another package than advbench's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.access import Access
from advbench.methods import Context, Method, Perturber, TrainingImages, clip_to_budget
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["MeanShift"]


class MeanShift(Method):
    """Add the mean image of those that the target gets wrong, less the mean of those that it gets right.

    One pattern for all images, ``(1, 3, height, width)``; to enhance, its negative. One query for each of the
    attacker's images, and none afterwards. Where the target gets all right, or all wrong, nothing moves.
    """

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """In fitting, predicted and true classes; in perturbing, nothing."""
        return Needs(fit=frozenset({Capability.LABELS, Capability.TRUE_LABELS}))

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Ask about each image of the fit part once."""
        images = train.fit.images()
        rows = torch.arange(len(images))  # the fit part comes first among the samples at hand, then the validation part
        right = access.labels(images, rows=rows) == access.true_labels[rows]
        if right.all() or not right.any():
            return _Shifted(torch.zeros_like(images[:1]), context)
        shift = images[~right].mean(dim=0, keepdim=True) - images[right].mean(dim=0, keepdim=True)
        return _Shifted(shift if context.goal is Goal.DEGRADE else -shift, context)

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the pattern as it was stored."""
        return _Shifted(state["shift"], context)


@dataclass(frozen=True)
class _Shifted:
    shift: Tensor
    context: Context

    def perturb(self, images: Images, access: Access) -> Images:  # noqa: ARG002
        return clip_to_budget(images + self.shift, images, self.context.budget)

    def state(self) -> dict[str, Tensor]:
        return {"shift": self.shift}

    def history(self) -> Sequence[Mapping[str, float]]:
        return ()

    def notes(self) -> Sequence[str]:
        return ()
