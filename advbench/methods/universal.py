"""What universal methods share: one perturbation for all images, found epoch by epoch on the attacker's own."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.methods.epochs import EpochFit
from advbench.methods.geometry import clip_to_budget
from advbench.tensors import Images
from advbench.threat import Budget

__all__ = ["FittedUniversal", "UniversalFit", "UniversalMethod"]


class UniversalFit(EpochFit):
    """One perturbation v, ``(1, 3, height, width)``, under way.

    Args:
        method: Its options.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, budget, seed and the rest.
    """

    advice = "try --precision 32-true"

    def __init__(self, method: "UniversalMethod", access: Access, train: TrainingImages, context: Context) -> None:
        super().__init__(access, train, context, epochs=method.epochs, batch_size=method.batch_size)
        size = context.image_size
        self.v = torch.zeros(1, 3, size, size, device=self.fabric.device)

    @property
    def budget(self) -> Budget:
        """How long v may be."""
        return self.context.budget

    def _perturbed(self, images: Images) -> Images:
        return clip_to_budget(images + self.v, images, self.budget)

    def _learnt(self) -> dict[str, Tensor]:
        return {"v": self.v}

    def _stateful(self) -> dict[str, Any]:
        return {}

    def _extra_state(self) -> dict[str, Any]:
        return {"v": self.v}

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        super()._resume(state)
        self.v = self.v.to(self.fabric.device)


class UniversalMethod(Method):
    """A method that finds one perturbation for all images, and perturbs without asking anything.

    Args:
        epochs: Passes over the attacker's images, at most; of them, the one that is best on the validation images is
            kept.
        batch_size: Images a step.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget: without one, any image would do."""
        if setting.budget.epsilon is None:
            raise InvalidConfig("a universal perturbation needs a budget: give --epsilon, such as --epsilon 8/255")
        return self

    @abstractmethod
    def _start(self, access: Access, train: TrainingImages, context: Context) -> UniversalFit:
        """Make the fit, before its first epoch."""

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Find the perturbation on the attacker's own images."""
        fit = self._start(access, train, context)
        fit.run()
        note = f"{fit.name}: the perturbation of epoch {fit.best_epoch} of {len(fit.history)}"
        return FittedUniversal(fit.best["v"].cpu(), context.budget, tuple(fit.history), (note,))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the perturbation as it was stored."""
        return FittedUniversal(state["perturbation"], context.budget)


@dataclass(frozen=True)
class FittedUniversal:
    """A universal perturbation, ready to use.

    Args:
        perturbation: v, ``(1, 3, height, width)``.
        budget: Kept for each image.
        epochs: The history.
        remarks: The notes.
    """

    perturbation: Tensor
    budget: Budget
    epochs: tuple[Mapping[str, float], ...] = ()
    remarks: tuple[str, ...] = ()

    def perturb(self, images: Images, access: Access) -> Images:  # noqa: ARG002
        """Add v; the target is not asked."""
        return clip_to_budget(images + self.perturbation.to(images.device), images, self.budget)

    def state(self) -> dict[str, Tensor]:
        """The perturbation."""
        return {"perturbation": self.perturbation.contiguous()}

    def history(self) -> Sequence[Mapping[str, float]]:
        """Figures by epoch."""
        return self.epochs

    def notes(self) -> Sequence[str]:
        """What a reader should know."""
        return self.remarks
