"""The momentum family: iterated gradient steps made to transfer."""

from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Setting
from advbench.methods.geometry import clip_to_budget, unit_step
from advbench.methods.gradient import Aim, AimedMethod
from advbench.methods.transforms import resize_and_pad, smooth
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images
from advbench.types import Norm

__all__ = ["MomentumMethod"]


@dataclass(frozen=True)
class _Run:
    """What one batch is perturbed with."""

    access: Access
    context: Context
    aim: Aim

    def uniform(self, shape: torch.Size, *purpose: str | int) -> torch.Tensor:
        return per_sample_uniform(shape, self.access.rows, self.context.seed, "momentum", *purpose)


class MomentumMethod(AimedMethod):
    """Iterated gradient steps with momentum, and what was added to them so that the result fools other networks too.

    The parts combine freely; each paper's own combination has a name of its own. ``mi-fgsm``: Dong et al. 2018,
    'Boosting Adversarial Attacks with Momentum', https://arxiv.org/abs/1710.06081, the sum of gradients, each over its
    mean absolute value, with ``decay``. ``ni-fgsm`` and ``si-ni-fgsm``: Lin et al. 2020, 'Nesterov Accelerated
    Gradient and Scale Invariance for Adversarial Attacks', https://arxiv.org/abs/1908.06281, gradients a step ahead
    (``nesterov``), and averaged over copies of 1/2, 1/4, ... the brightness (``scales``). ``di-fgsm``: Xie et al.
    2019, 'Improving Transferability of Adversarial Examples with Input Diversity', https://arxiv.org/abs/1803.06978,
    images shrunk and padded at random (``diversity``). ``ti-fgsm``: Dong et al. 2019, 'Evading Defenses to
    Transferable Adversarial Examples by Translation-Invariant Attacks', https://arxiv.org/abs/1904.02884, gradients
    smoothed (``kernel``). ``vmi-fgsm``: Wang, He 2021, 'Enhancing the Transferability of Adversarial Attacks through
    Variance Tuning', https://arxiv.org/abs/2103.15571, gradients corrected by those around the last point
    (``neighbours``). Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: y is the predicted class unless ``label`` is ``true``; an image is shrunk within its own size instead
    of the network's input being enlarged, and each image of a batch has a size and place of its own; under l2 and l1,
    steps and looks ahead have the budget's norm; to enhance, the loss falls instead of rising.

    Args:
        steps: How many.
        relative_step: A step's length as a share of epsilon.
        decay: Of the momentum; 0 for none.
        nesterov: Whether gradients are taken where the momentum leads.
        diversity: The chance that an image is shrunk and padded before its gradient is taken.
        smallest: The least size of a shrunk image, as a share of its own.
        kernel: Width in pixels of the Gaussian that gradients are smoothed with; 0 for none, 15 in the paper, on
            images of 299.
        scales: How many copies of an image a gradient is averaged over.
        neighbours: How many random points around an image its gradient is corrected by; 0 for none.
        neighbourhood: How far these are from it at most, as a multiple of epsilon.
    """

    steps: int = Field(default=10, ge=1)
    relative_step: float = Field(default=0.1, gt=0)
    decay: float = Field(default=1.0, ge=0)
    nesterov: bool = False
    diversity: float = Field(default=0.0, ge=0, le=1)
    smallest: float = Field(default=0.9, gt=0, le=1)
    kernel: int = Field(default=0, ge=0)
    scales: int = Field(default=1, ge=1)
    neighbours: int = Field(default=0, ge=0)
    neighbourhood: float = Field(default=1.5, gt=0)

    def resolve(self, setting: Setting) -> Self:
        """Check that a kernel has a middle."""
        if self.kernel and self.kernel % 2 == 0:
            raise InvalidConfig(f"--kernel is an odd number of pixels or 0, got {self.kernel}")
        return super().resolve(setting)

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Take the steps."""
        run = _Run(access, context, self.aim(images, access, context))
        norm, step = context.budget.norm, self.relative_step * (context.budget.epsilon or 0.0)
        perturbed, momentum, correction = images, torch.zeros_like(images), torch.zeros_like(images)
        for turn in range(self.steps):
            ahead = perturbed + step * self.decay * _heading(momentum, norm) if self.nesterov else perturbed
            gradient = self._gradient(ahead, run, turn, 0)
            tuned = gradient + correction
            momentum = self.decay * momentum + tuned / _mean_size(tuned)
            if self.neighbours and turn + 1 < self.steps:
                correction = self._around(perturbed, run, turn) - gradient
            perturbed = clip_to_budget(perturbed + step * unit_step(momentum, norm), images, context.budget)
        return perturbed

    def _gradient(self, points: Images, run: _Run, turn: int, neighbour: int) -> Images:
        """The gradient at ``points``, averaged over scaled copies and smoothed."""
        copies = [self._through_view(points, run, copy, turn, neighbour) for copy in range(self.scales)]
        return smooth(torch.stack(copies).mean(dim=0) if len(copies) > 1 else copies[0], self.kernel)

    def _through_view(self, points: Images, run: _Run, copy: int, turn: int, neighbour: int) -> Images:
        """The gradient of what the target makes of a view of the images, pulled back through the view."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            view = leaf / 2**copy
            if self.diversity:
                view = self._diversified(view, run.uniform(torch.Size([len(points), 4]), turn, neighbour, copy))
        answer = run.access.gradient(view.detach(), run.aim.gain)
        (pulled,) = torch.autograd.grad(view, leaf, answer.gradient)
        return pulled

    def _diversified(self, images: Images, draws: torch.Tensor) -> Images:
        chance, size, top, left = ((draws + 1) / 2).unbind(dim=1)
        sizes = torch.where(chance < self.diversity, self.smallest + (1 - self.smallest) * size, 1.0)
        return resize_and_pad(images, sizes, top, left)

    def _around(self, perturbed: Images, run: _Run, turn: int) -> Images:
        """The mean gradient at random points around the images."""
        norm, radius = run.context.budget.norm, self.neighbourhood * (run.context.budget.epsilon or 0.0)
        total = torch.zeros_like(perturbed)
        for neighbour in range(1, self.neighbours + 1):
            noise = run.uniform(perturbed.shape, "around", turn, neighbour).to(perturbed.device)
            if norm is not Norm.LINF:
                noise = unit_step(noise, norm)
            total += self._gradient(perturbed + radius * noise, run, turn, neighbour)
        return total / self.neighbours


def _mean_size(gradient: Images) -> torch.Tensor:
    return gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def _heading(momentum: Images, norm: Norm) -> Images:
    """Where the momentum leads, about a unit of ``norm`` a gradient that is in it."""
    return momentum if norm is Norm.LINF else unit_step(momentum, norm)
