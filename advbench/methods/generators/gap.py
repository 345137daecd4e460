"""Generative adversarial perturbations."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Perturber, Setting, TrainingImages
from advbench.methods.generators.direct import DirectFit, DirectMethod
from advbench.methods.universal import FittedUniversal
from advbench.seeding import seeded
from advbench.tensors import Images, Labels, Scores
from advbench.types import Goal

__all__ = ["GAP", "log_cross_entropy"]


class GAP(DirectMethod):
    """Generative adversarial perturbations.

    Poursaeed, Katsman, Gao, Belongie 2018, 'Generative Adversarial Perturbations', https://arxiv.org/abs/1712.02328. A
    generator is trained through the target: away from the true class by ``- log H``, H being the cross-entropy, or
    towards the least likely class by ``log H``. ``gap`` makes a perturbation for each image, ``gap-universal`` one for
    all images, out of a fixed image of noise Z. Images are ``(batch, 3, height, width)`` in [0, 1].

    To enhance, the same generator is trained towards the true class: what direct training reaches where PGN plays its
    game. Deviations: PGN's generator and its bounds (tanh under linf) instead of a ResNet generator that is scaled to
    the budget; the best epoch on validation images is kept, of a moving average of the generator. While
    ``gap-universal`` learns, Z is drawn anew for each image of a batch, since batch norm cannot tell copies of one
    apart; one Z is chosen from the start, and its perturbation is what is kept.

    Args:
        universal: One perturbation for all images; the attack's name sets it.
        aim: To degrade: ``away`` from the true class, or towards the ``least-likely``.
        loss: ``log-cross-entropy``, as in the paper, or ``cross-entropy``. None: the former to degrade, the latter to
            enhance, where a logarithm would go on about images that are right already.
    """

    universal: bool = False
    aim: Literal["away", "least-likely"] = "away"
    loss: Literal["log-cross-entropy", "cross-entropy"] | None = None

    def resolve(self, setting: Setting) -> Self:
        """Fill in every field that is None."""
        if self.universal and setting.budget.epsilon is None:
            raise InvalidConfig("a universal perturbation needs a budget: give --epsilon, such as --epsilon 8/255")
        if self.aim == "least-likely" and setting.goal is Goal.ENHANCE:
            raise InvalidConfig("--aim least-likely leads away from the right class: it is for --goal degrade")
        return super().resolve(setting)

    def _defaults(self, setting: Setting, *, small: bool) -> dict[str, Any]:
        loss = "log-cross-entropy" if setting.goal is Goal.DEGRADE else "cross-entropy"
        return {**super()._defaults(setting, small=small), "loss": loss}

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train the generator through the target."""
        if not self.universal:
            return self._fitted(self._train(_Fit, access, train, context), self._origin())
        fit = self._train(_UniversalFit, access, train, context)
        return FittedUniversal(fit.best["v"].cpu(), context.budget, tuple(fit.history), tuple(self._origin()))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Rebuild the generator, or take the perturbation as it was stored."""
        if self.universal:
            return FittedUniversal(state["perturbation"], context.budget)
        return super().restore(state, context)


class _Fit(DirectFit[GAP]):
    name = "gap"

    def _target_loss(self, scores: Scores, clean: Scores, labels: Labels) -> Tensor:
        measure = log_cross_entropy if self.method.loss == "log-cross-entropy" else _cross_entropy
        if self.context.goal is Goal.ENHANCE:
            return measure(scores, labels)
        if self.method.aim == "least-likely":
            return measure(scores, clean.argmin(dim=1))
        return -measure(scores, labels)


class _UniversalFit(_Fit):
    name = "gap-universal"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        size = self.context.image_size
        with seeded(self.context.seed, self.name, "z"):
            self.z = torch.rand(1, 3, size, size).to(self.fabric.device)

    def _perturbation(self, images: Images) -> Images:
        noise = torch.rand(images.shape).to(images.device)
        perturbation: Images = self.generator(noise)
        return perturbation

    def _perturbed(self, images: Images) -> Images:
        return FittedUniversal(self._learnt()["v"], self.context.budget).perturb(images, self.access)

    def _learnt(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"v": self.schedule.strength * self.average(self.z)}


def _cross_entropy(scores: Scores, labels: Labels) -> Tensor:
    return F.cross_entropy(scores, labels, reduction="none")


def log_cross_entropy(scores: Scores, labels: Labels) -> Tensor:
    """The logarithm of each sample's cross-entropy, ``(batch,)``, with its gradient also where that is tiny.

    With the margin m of the label's logit over the logsumexp of the others, it is log log(1 + exp(-m)), which is -m to
    within exp(-m) / 2 where m is large.
    """
    others = scores.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    margin = scores.gather(1, labels[:, None])[:, 0] - others
    near = F.softplus(-margin.clamp(max=_LARGE)).log()
    return torch.where(margin > _LARGE, -margin, near)


_LARGE = 15.0
