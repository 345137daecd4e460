"""Training a generator through the target's gradient, which the target gives for each perturbed image."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, Setting, TrainingImages
from advbench.methods.pgn.base import GeneratorMethod
from advbench.methods.pgn.networks import Generator
from advbench.methods.pgn.trainer import GeneratorFit, Schedule, StepFigures
from advbench.seeding import seeded
from advbench.tensors import Images, Labels, Rows, SampleLoss, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["DirectFit", "DirectMethod", "Pulled", "pull_back"]


class DirectMethod(GeneratorMethod):
    """A generator that learns through a white-box target, from gradients alone: the weights need not be granted."""

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Gradients and scores in fitting; in perturbing, nothing."""
        asked = (Capability.INPUT_GRADIENTS, Capability.SCORES, Capability.LABELS, Capability.TRUE_LABELS)
        return Needs(fit=frozenset(asked))

    def _defaults(self, setting: Setting, *, small: bool) -> dict[str, Any]:  # noqa: ARG002
        degrade = setting.goal is Goal.DEGRADE
        return {"learning_rate": 1e-3 if degrade else 5e-4, "initial_scale": 1.0 if degrade else 0.3}

    def _train(self, kind: "type[F]", access: Access, train: TrainingImages, context: Context) -> "F":
        """Train the generator through the target."""
        with seeded(context.seed, kind.name, "init"):
            generator = self.first_generator(train, context)
        fit = kind(self, generator, access, train, context)
        fit.run()
        return fit


M = TypeVar("M", bound=DirectMethod)


@dataclass(frozen=True)
class Pulled:
    """What the target said of perturbed images, made ready to be learnt from.

    Args:
        surrogate: A scalar whose gradient with respect to the perturbed images is that of the mean loss.
        loss: The mean loss.
        answers: The predicted classes.
    """

    surrogate: Tensor
    loss: Tensor
    answers: Labels


def pull_back(access: Access, perturbed: Images, loss: SampleLoss, rows: Rows) -> Pulled:
    """Ask for the gradient of ``loss`` at the perturbed images, and tie it to what they were made from."""
    answer = access.jacobian(perturbed.detach(), lambda scores, part: loss(scores, part).unsqueeze(1), 1, rows)
    surrogate = (perturbed * answer.gradients.squeeze(1)).sum() / max(1, len(rows))
    return Pulled(surrogate, answer.losses.mean(), answer.scores.argmax(dim=1))


class DirectFit(GeneratorFit, Generic[M]):
    """The training of a generator through the target; subclasses say by which loss.

    Args:
        method: Its options.
        generator: G, at its start.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    clean_scores: Tensor | None = None

    def __init__(
        self, method: M, generator: Generator, access: Access, train: TrainingImages, context: Context
    ) -> None:
        super().__init__(generator, Schedule(**method._schedule()), access, train, context)
        self.method = method

    @abstractmethod
    def _target_loss(self, scores: Scores, clean: Scores, labels: Labels) -> Tensor:
        """What is to fall for each sample, ``(part,)``, given the target's scores of J and of I, and true labels."""

    def _own_loss(self, images: Images, perturbed: Images) -> Tensor:  # noqa: ARG002
        """What is to fall beside it, without asking the target."""
        return torch.zeros((), device=images.device)

    def _perturbation(self, images: Images) -> Images:
        perturbation: Images = self.generator(images)
        return perturbation

    def _begin(self) -> None:
        own = torch.zeros(len(self.train.fit), self.access.num_classes)
        for part in self._share(torch.arange(len(own))).split(self.batch_size):
            own[part] = self.access.scores(self._images(part), rows=part).cpu()
        self.clean_scores = self._sum_over_processes(own)
        self.clean = self.clean_scores.argmax(dim=1)

    def step(self, images: Images, labels: Labels, rows: Rows) -> StepFigures:
        """Make M for one batch, ask the target for the loss's gradient at J, and pull it back through the generator."""
        with self.fabric.autocast():
            perturbation = self._perturbation(images)
        perturbed = self._moved(images, perturbation)
        assert self.clean_scores is not None
        clean = self.clean_scores[rows].to(images.device)
        pulled = pull_back(
            self.access, perturbed, lambda scores, part: self._target_loss(scores, clean[part], labels[part]), rows
        )
        own = self._own_loss(images, perturbed)
        self._update_generator(pulled.surrogate + own)
        return StepFigures(pulled.loss + own.detach(), perturbation.detach().abs().mean(), pulled.answers)

    def _extra_state(self) -> dict[str, Any]:
        return {**super()._extra_state(), "clean_scores": self.clean_scores}


F = TypeVar("F", bound=DirectFit[Any])
