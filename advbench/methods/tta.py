"""Test-time augmentation, as far as it can be a perturbation of an image."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, ImageMethod
from advbench.methods.geometry import clip_to_budget
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["TestTimeAugmentation"]


class TestTimeAugmentation(ImageMethod):
    """Of several shifted and scaled versions of an image, the one that the target is surest of.

    The target is asked about every version, its softmax scores (or votes) are averaged over them, as in Krizhevsky,
    Sutskever, Hinton 2012, 'ImageNet Classification with Deep Convolutional Neural Networks', and the version with the
    highest score for the averaged class is returned. To degrade, the version with the lowest: the worst of K random
    transformations of Engstrom et al. 2019, 'Exploring the Landscape of Spatial Robustness',
    https://arxiv.org/abs/1712.02779. Images are ``(batch, 3, height, width)``.

    Deviation: usual test-time augmentation answers with the averaged scores. That is another classifier and not another
    image, so it is no perturbation and is not offered here; what is, shows the target one version alone.

    A budget means: each version's perturbation, version minus clean, is projected onto it before the target is asked,
    epsilon in [0, 1] pixel scale. A small one leaves a faint copy of the moved image over the clean one. Without one,
    versions are whole.

    Args:
        versions: How many, the image itself among them; as many queries an image.
        by: Average ``scores``, or count the votes of ``labels``; a tie goes to the class of the image itself, and of
            versions that voted alike the first is taken, the image itself before all others.
        shift: The most that a version is moved in each direction, as a share of the image's side.
        scale: The most that it is enlarged (which crops it), or shrunk by the same factor; edges are repeated.
        flip: Whether half of the versions are mirrored left to right; no for digits and letters.
    """

    versions: int = Field(default=10, ge=1)
    by: Literal["scores", "labels"] = "scores"
    shift: float = Field(default=0.07, ge=0, lt=1)
    scale: float = Field(default=0.1, ge=0)
    flip: bool = False

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Scores or labels."""
        return Needs(perturb=frozenset({Capability(self.by)}))

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Ask about every version, and choose one."""
        moves = per_sample_uniform(torch.Size([len(images), self.versions, 4]), access.rows, context.seed, "tta")
        moves = moves.to(images.device)
        answers = [
            self._answers(self._version(images, moves[:, number], number, context), access)
            for number in range(self.versions)
        ]
        shares = torch.stack(answers, dim=1)
        averaged = shares.mean(dim=1)
        if self.by == "labels":
            averaged = averaged + shares[:, 0] / (2 * self.versions)
        support = shares.gather(2, averaged.argmax(dim=1).view(-1, 1, 1).expand(-1, self.versions, 1))[..., 0]
        chosen = support.argmin(dim=1) if context.goal is Goal.DEGRADE else support.argmax(dim=1)
        picked = self._version(images, moves[torch.arange(len(images)), chosen], 1, context)
        return torch.where((chosen == 0).view(-1, 1, 1, 1), images, picked)

    def _answers(self, images: Images, access: Access) -> Tensor:
        """What the target gives each class, ``(batch, classes)``."""
        if self.by == "scores":
            return access.scores(images).softmax(dim=1)
        return F.one_hot(access.labels(images), access.num_classes).float()

    def _version(self, images: Images, moves: Tensor, number: int, context: Context) -> Images:
        """Moved images, within the budget; version 0 is the image itself.

        Args:
            images: ``(batch, 3, height, width)``.
            moves: Shifts to the right and down, scaling and mirroring, each in [-1, 1), ``(batch, 4)``.
            number: Of the version.
            context: For the budget.
        """
        if not number or not len(images):
            return images
        size = (1 + self.scale) ** moves[:, 2]
        mirror = torch.where((moves[:, 3] < 0) & self.flip, -1.0, 1.0)
        # The grid says where each pixel comes from, in halves of the image's side.
        matrix = torch.zeros(len(images), 2, 3, device=images.device)
        matrix[:, 0, 0], matrix[:, 1, 1] = size * mirror, size
        matrix[:, :, 2] = 2 * self.shift * moves[:, :2]
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return clip_to_budget(moved, images, context.budget)
