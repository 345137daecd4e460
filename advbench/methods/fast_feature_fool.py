"""Data-free universal perturbations."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, TrainingImages
from advbench.methods.geometry import project
from advbench.methods.universal import UniversalFit, UniversalMethod
from advbench.progress import Task
from advbench.seeding import seeded
from advbench.targets import Classifier, Normalise
from advbench.threat import Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["FastFeatureFool"]


class FastFeatureFool(UniversalMethod):
    """Fast feature fool: a universal perturbation from the target's weights alone.

    Mopuri, Garg, Babu 2017, 'Fast Feature Fool: A data independent approach to universal adversarial perturbations',
    https://arxiv.org/abs/1707.05572: v alone, without an image, is to excite the convolutional part as much as it can:
    it minimises ``- sum over layers log mean |activation(v)|`` by Adam under a bound. A v that has reached the bound
    everywhere is halved, and goes on: here after every epoch of ``steps``, as in the authors' code. Images are
    ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    The work is done on a copy of the target's module and asks it nothing; only the choice among epochs asks for the
    classes of the validation images. Deviations: any norm; layers are the network's rectifiers (or, without any, its
    convolutions) that put out feature maps; v enters in place of an image whose normalised
    pixels are zero, as the authors' networks have it: the mean image, or black where nothing is subtracted.

    Args:
        epochs: How often v is halved.
        steps: Adam's steps in an epoch.
        relative_rate: Adam's rate as a share of epsilon (of the mean size of a pixel under l2 and l1).
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})

    steps: int = Field(default=100, ge=1)
    relative_rate: float = Field(default=0.01, gt=0)

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """The weights; labels and true labels of the validation images, to choose the epoch."""
        return Needs(fit=frozenset({Capability.WEIGHTS, Capability.LABELS, Capability.TRUE_LABELS}))

    def _start(self, access: Access, train: TrainingImages, context: Context) -> UniversalFit:
        return _FeatureFit(self, access, train, context)


class _FeatureFit(UniversalFit):
    name = "fast-feature-fool"

    def __init__(self, method: FastFeatureFool, access: Access, train: TrainingImages, context: Context) -> None:
        super().__init__(method, access, train, context)
        self.method = method
        module = access.module().to(self.fabric.device).eval()
        self.excitement = _Excitement(module)
        with seeded(context.seed, self.name, "start"):
            noise = 2 * torch.rand(self.v.shape) - 1
        self.scale = _pixel_scale(context)
        self.v = self._bounded(self.scale * noise.to(self.v.device))

    @property
    def _steps(self) -> int:
        return self.method.steps

    def _bounded(self, v: Tensor) -> Tensor:
        return project(v, self.budget.norm, self.budget.epsilon or 0.0)

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:  # noqa: ARG002
        halved = self.v if not self.history else self.v / 2
        v = nn.Parameter(halved.clone())
        optimizer = torch.optim.Adam([v], lr=self.method.relative_rate * self.scale)
        for _ in range(self.method.steps):
            loss = -self.excitement(v)
            optimizer.zero_grad()
            (v.grad,) = torch.autograd.grad(loss, [v])
            optimizer.step()
            with torch.no_grad():
                v.copy_(self._bounded(v))
            task.advance(loss=float(loss.detach()))
        self.v = v.detach()
        return {"loss": float(loss.detach())}


class _Excitement:
    """The sum over layers of the log of the mean size of what they put out, for v alone."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        normalise = module.normalise if isinstance(module, Classifier) else None
        self.background = normalise.mean if isinstance(normalise, Normalise) else 0.0
        self.logs: list[Tensor] = []
        layers = _of_kind(module, RECTIFIERS) or _of_kind(module, (nn.Conv2d,))
        for layer in layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG002
        if output.ndim == 4:
            # At once, as a later layer may work in place.
            self.logs.append(output.abs().mean().clamp(min=1e-12).log())

    def __call__(self, v: Tensor) -> Tensor:
        self.logs.clear()
        self.module(self.background + v)
        if not self.logs:
            raise InvalidConfig(f"{type(self.module).__name__} has no convolutional layer to excite")
        return torch.stack(self.logs).sum()


RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish)


def _of_kind(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def _pixel_scale(context: Context) -> float:
    """The size that each value has where v fills its budget evenly."""
    values = 3 * context.image_size**2
    shares = {Norm.LINF: 1.0, Norm.L2: 1 / math.sqrt(values), Norm.L1: 1 / values}
    return shares[context.budget.norm] * (context.budget.epsilon or 0.0)
