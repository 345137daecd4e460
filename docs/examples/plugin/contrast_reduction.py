"""An attack from another package than advbench's own."""

from typing import ClassVar

import torch
from pydantic import Field

from advbench.access import Access
from advbench.methods import Context, ImageMethod, clip_to_budget
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["ContrastReduction"]


class ContrastReduction(ImageMethod):
    """Fade each image towards mid-grey until its predicted class changes.

    A control of Rauber, Brendel, Bethge 2017, 'Foolbox: A Python toolbox to benchmark the robustness of machine
    learning models', https://arxiv.org/abs/1707.04131. Only predicted classes are asked for, at most ``steps`` + 1 an
    image. Images are ``(batch, 3, height, width)`` in [0, 1]. Under a budget, each faded image is first brought to the
    nearest that the budget allows. An image whose class never changes is given as it was faded last.

    Args:
        steps: From the image itself to plain grey.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})

    steps: int = Field(default=20, ge=1)

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """The predicted classes of the images that are perturbed, and nothing before."""
        return Needs(perturb=frozenset({Capability.LABELS}))

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Fade those images further whose class has not changed yet."""
        faded = images.clone()
        before = access.labels(images)
        left = torch.arange(len(images))
        for step in range(1, self.steps + 1):
            if not len(left):
                break
            clean = images[left]
            faded[left] = clip_to_budget(
                clean.lerp(torch.full_like(clean, 0.5), step / self.steps), clean, context.budget
            )
            unchanged = access.labels(faded[left], rows=access.rows[left]) == before[left]
            left = left[unchanged.cpu()]
        return faded
