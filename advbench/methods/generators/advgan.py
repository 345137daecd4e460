"""AdvGAN."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, Perturber, Setting, TrainingImages
from advbench.methods.generators.direct import DirectMethod, pull_back
from advbench.methods.pgn.base import filled
from advbench.methods.pgn.networks import Discriminator, Generator
from advbench.methods.pgn.objectives import LeastSquares
from advbench.methods.pgn.trainer import GameFigures, GameFit, Schedule
from advbench.seeding import seeded
from advbench.tensors import Images, Labels, Rows, Scores
from advbench.types import Goal

__all__ = ["AdvGAN"]


class AdvGAN(DirectMethod):
    """AdvGAN: a generator between a target and a discriminator of real and perturbed images.

    Xiao, Li, Zhu, He, Liu, Song 2018, 'Generating Adversarial Examples with Adversarial Networks',
    https://arxiv.org/abs/1801.02610: minimises ``L_adv + alpha L_GAN + beta L_hinge``. L_adv is Carlini and Wagner's
    margin on the target's logits, L_GAN makes perturbed images look real to a discriminator (least squares), L_hinge
    bounds M softly. Unlike PGN's, this discriminator does not stand in for the target, whose gradient is asked for.
    Images are ``(batch, 3, height, width)`` in [0, 1].

    To enhance, the margin is that of the true class over the others, to rise. Deviations: PGN's generator with its
    bounds, which make L_hinge idle under a budget; L_hinge is of the root mean square over values, so that ``hinge``
    does not depend on the image's size; the best epoch on validation images is kept.

    Args:
        confidence: The margin beyond which an image is not pushed further.
        alpha: Weight of L_GAN.
        beta: Weight of L_hinge. None: 0 under a budget, else 10.
        hinge: The root mean square of M up to which L_hinge is 0.
        discriminator: Architecture of the discriminator's backbone. None: the encoder's.
        discriminator_learning_rate: Adam's, for the discriminator.
    """

    confidence: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=0.1, ge=0)
    beta: float | None = Field(default=None, ge=0)
    hinge: float = Field(default=0.1, ge=0)
    discriminator: str | None = None
    discriminator_learning_rate: float = Field(default=3e-4, gt=0)

    def _defaults(self, setting: Setting, *, small: bool) -> dict[str, Any]:
        own = {
            "beta": 0.0 if setting.budget.epsilon is not None else 10.0,
            "discriminator": self.encoder or ("resnet18" if small else "resnet50"),
        }
        return {**super()._defaults(setting, small=small), **own}

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train generator and discriminator, and the generator through the target."""
        with seeded(context.seed, "advgan", "init"):
            generator = self.first_generator(train, context)
            backbone = self._classifier(filled(self.discriminator), None, filled(self.backbone), train, context)
            discriminator = Discriminator(backbone, classes=0, goal=context.goal, trained="all")
        fit = _Fit(self, generator, discriminator, access, train, context)
        fit.run()
        return self._fitted(fit, self._origin())

    def margin_loss(self, scores: Scores, labels: Labels, goal: Goal) -> Tensor:
        """L_adv of each sample, ``(batch,)``: it falls as the margin does that keeps the goal from being met."""
        others = scores.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        margin = scores.gather(1, labels[:, None])[:, 0] - others
        return (margin if goal is Goal.DEGRADE else -margin).clamp(min=-self.confidence)


class _Fit(GameFit):
    name = "advgan"

    def __init__(
        self, method: AdvGAN, generator: Generator, discriminator: Discriminator, access: Access,
        train: TrainingImages, context: Context,
    ) -> None:  # fmt: skip
        schedule, rate = Schedule(**method._schedule()), method.discriminator_learning_rate
        super().__init__(generator, discriminator, schedule, rate, access, train, context)
        self.method, self.objective = method, LeastSquares()

    def step(self, images: Images, labels: Labels, rows: Rows) -> GameFigures:
        """Update D on real and perturbed images, then G on what D and the target say of the perturbed ones."""
        with self.fabric.autocast():
            perturbation = self.generator(images)
        perturbed = self._moved(images, perturbation)
        discriminator_loss = self._teach(images, perturbed.detach(), labels)
        pulled = pull_back(self.access, perturbed, lambda scores, part: self._adversarial(scores, labels[part]), rows)
        with self._frozen_judge():
            with self.fabric.autocast():
                judged = self.discriminator(perturbed, labels)
            own = self.method.alpha * self.objective.generator(judged.float())
            own = own + filled(self.method.beta) * self._hinge(perturbation)
            self._update_generator(pulled.surrogate + own)
        l1 = perturbation.detach().abs().mean()
        return GameFigures(pulled.loss + own.detach(), l1, pulled.answers, discriminator_loss)

    def _adversarial(self, scores: Scores, labels: Labels) -> Tensor:
        return self.method.margin_loss(scores, labels, self.context.goal)

    def _teach(self, real: Images, perturbed: Images, labels: Labels) -> Tensor:
        with self.fabric.autocast():
            judged = self.discriminator(torch.cat([real, perturbed]), torch.cat([labels, labels]))
        is_real = (torch.arange(len(judged), device=judged.device) < len(real)).float()
        loss = self.objective.discriminator(judged.float(), is_real)
        self._update(self.discriminator_optimizer, loss, self.judged)
        return loss.detach()

    def _hinge(self, perturbation: Images) -> Tensor:
        sizes = perturbation.flatten(1).square().mean(dim=1).clamp(min=1e-12).sqrt()
        return (sizes - self.method.hinge).clamp(min=0).mean()
