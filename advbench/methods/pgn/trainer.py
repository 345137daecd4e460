"""Training a generator by epochs, whatever it learns from: optimiser, schedule, moving average, figures by epoch."""

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.epochs import EpochFit
from advbench.methods.pgn.networks import Discriminator, Generator
from advbench.progress import Task
from advbench.targets import epoch_batches
from advbench.tensors import Images, Labels, Rows

__all__ = ["GameFigures", "GameFit", "GeneratorFit", "Schedule", "StepFigures", "perturbed_images"]


def perturbed_images(images: Images, perturbation: Images, strength: float, *, valid_pixels: bool) -> Images:
    """J = I + lambda M (equation 1), kept in [0, 1] where asked."""
    perturbed = images + strength * perturbation
    return perturbed.clamp(0, 1) if valid_pixels else perturbed


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a generator is trained; see ``GeneratorMethod`` for each."""

    strength: float
    epochs: int
    batch_size: int
    learning_rate: float
    cosine: bool
    averaging: float
    patience: int | None
    valid_pixels: bool
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class StepFigures:
    """What one step saw: G's losses before its first update, and the target's answers to J."""

    generator_loss: Tensor
    l1: Tensor
    answers: Labels

    def losses(self) -> dict[str, Tensor]:
        """The losses by their names in the history."""
        return {"generator_loss": self.generator_loss, "l1": self.l1}


@dataclass(frozen=True)
class GameFigures(StepFigures):
    """What one step of a game against a discriminator saw: D's loss before its last update; None where it had none."""

    discriminator_loss: Tensor | None

    def losses(self) -> dict[str, Tensor]:
        """The losses by their names in the history."""
        judging = {} if self.discriminator_loss is None else {"discriminator_loss": self.discriminator_loss}
        return {**judging, **super().losses()}


SYMBOLS = {"discriminator_loss": "L_d", "generator_loss": "L_g", "l1": "L_r"}


class GeneratorFit(EpochFit):
    """A generator's training under way.

    Args:
        generator: G.
        schedule: How long and how fast.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    advice = "try a lower --learning-rate, --precision 32-true, or a bound with --epsilon"

    def __init__(
        self, generator: Generator, schedule: Schedule, access: Access, train: TrainingImages, context: Context
    ) -> None:
        super().__init__(
            access, train, context,
            epochs=schedule.epochs, batch_size=schedule.batch_size, patience=schedule.patience,
        )  # fmt: skip
        self.generator, self.schedule = generator, schedule
        generator.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(generator).eval().requires_grad_(False)
        self.learning = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        self.generator_optimizer = self._optimizer(self.learning, schedule.betas)
        self.steps = 0
        self.clean: Labels | None = None

    @abstractmethod
    def step(self, images: Images, labels: Labels, rows: Rows) -> StepFigures:
        """Learn from one batch."""

    def _begin(self) -> None:
        """Ask for the clean fit images' classes, against which turned samples are counted."""
        rows = self._share(torch.arange(len(self.train.fit)))
        answers = torch.zeros(len(self.train.fit), dtype=torch.long)
        for part in rows.split(self.batch_size):
            answers[part] = self.access.labels(self._images(part), rows=part).cpu()
        self.clean = self._sum_over_processes(answers)

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        assert self.clean is not None
        totals: dict[str, Tensor] = {}
        turned = torch.zeros(4, dtype=torch.float64)
        self.generator.train()
        batches = epoch_batches(len(self.train.fit), self.batch_size, generator, self.fabric.world_size)
        for position, batch in enumerate(batches):
            self._set_rates((len(self.history) + position / len(batches)) / self.epochs)
            rows = self._share(batch)
            labels = self.train.fit.labels[rows]
            figures = self.step(self._images(rows), labels.to(self.fabric.device), rows)
            losses = {name: value.detach().cpu().double() for name, value in figures.losses().items()}
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value * len(rows)
            before, after = self.clean[rows] == labels, figures.answers.cpu() == labels
            turned += torch.stack(
                [(~before & after).sum(), (before & ~after).sum(), after.sum(), torch.tensor(len(rows))]
            )
            task.advance(1, **{SYMBOLS[name]: float(value) for name, value in losses.items()})
        return self._figures(totals, turned)

    def _figures(self, totals: dict[str, Tensor], turned: Tensor) -> dict[str, float]:
        *losses, wrong_to_right, right_to_wrong, right, count = self._sum_over_processes(
            torch.cat([torch.stack(list(totals.values())), turned])
        ).tolist()
        means = {name: loss / count for name, loss in zip(totals, losses, strict=True)}
        counts = {"wrong_to_right": wrong_to_right, "right_to_wrong": right_to_wrong}
        return {**means, **counts, "fit_accuracy": right / count}

    def _perturbed(self, images: Images) -> Images:
        with torch.no_grad():
            return self._moved(images, self.average(images))

    def _moved(self, images: Images, perturbation: Images) -> Images:
        schedule = self.schedule
        return perturbed_images(images, perturbation, schedule.strength, valid_pixels=schedule.valid_pixels)

    def _learnt(self) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], self.average.state_dict())

    def _update_generator(self, loss: Tensor) -> None:
        self._update(self.generator_optimizer, loss, self.learning)
        self.steps += 1
        self._update_average()

    def _set_rates(self, done: float) -> None:
        """Follow the schedule: cosine from the first rates to zero, where ``done`` of all batches is 1."""
        share = (1 + math.cos(math.pi * done)) / 2 if self.schedule.cosine else 1.0
        for optimizer, rate in self._rates():
            optimizer.param_groups[0]["lr"] = share * rate

    def _rates(self) -> list[tuple[Any, float]]:
        """Each optimiser with its first rate."""
        return [(self.generator_optimizer, self.schedule.learning_rate)]

    def _update_average(self) -> None:
        """Move the averaged generator towards the current one; the first steps' raw weights are soon forgotten."""
        decay = min(self.schedule.averaging, (1 + self.steps) / (10 + self.steps))
        averages, currents = (
            [value for value in network.state_dict().values() if value.is_floating_point()]
            for network in (self.average, self.generator)
        )
        get_ema_multi_avg_fn(decay)(averages, currents, self.steps)

    def _extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "clean": self.clean}

    def _stateful(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "average": self.average,
            "generator_optimizer": self.generator_optimizer,
        }


class GameFit(GeneratorFit):
    """The training of a generator against a discriminator.

    Args:
        generator: G.
        discriminator: D.
        schedule: How long and how fast.
        rate: Adam's first rate for D.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    def __init__(
        self, generator: Generator, discriminator: Discriminator, schedule: Schedule, rate: float, access: Access,
        train: TrainingImages, context: Context,
    ) -> None:  # fmt: skip
        super().__init__(generator, schedule, access, train, context)
        self.discriminator, self.discriminator_rate = discriminator, rate
        discriminator.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.judged = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
        self.discriminator_optimizer = self._optimizer(self.judged, schedule.betas)

    @contextmanager
    def _frozen_judge(self) -> Iterator[None]:
        """The generator's loss needs no gradient of D's parameters, which would cost a third of a backward pass."""
        for parameter in self.judged:
            parameter.requires_grad_(False)
        yield
        for parameter in self.judged:
            parameter.requires_grad_(True)

    def _rates(self) -> list[tuple[Any, float]]:
        return [*super()._rates(), (self.discriminator_optimizer, self.discriminator_rate)]

    def _stateful(self) -> dict[str, Any]:
        judge = {"discriminator": self.discriminator, "discriminator_optimizer": self.discriminator_optimizer}
        return {**super()._stateful(), **judge}
