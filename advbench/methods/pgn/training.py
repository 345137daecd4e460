"""Algorithm 1 of the paper: how generator and discriminator learn from the target's labels."""

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from advbench.access import Access
from advbench.checkpoint import Checkpoint
from advbench.errors import FitDiverged
from advbench.methods.base import Context, TrainingImages
from advbench.methods.pgn.networks import Discriminator, Generator
from advbench.methods.pgn.objectives import Objective, goal_met
from advbench.progress import Task
from advbench.seeding import seeded
from advbench.targets import epoch_batches, train_mode
from advbench.tensors import Images, Labels, Rows
from advbench.types import Goal

__all__ = ["Fit", "Recipe", "StepFigures", "perturbed_images"]


@dataclass(frozen=True)
class Recipe:
    """How the two networks are trained; see ``PGN`` for each."""

    objective: Objective
    gamma: float
    strength: float
    epochs: int
    batch_size: int
    discriminator_steps: int
    replay: int
    learning_rate: float
    discriminator_learning_rate: float
    cosine: bool
    averaging: float
    patience: int | None
    valid_pixels: bool


def perturbed_images(images: Images, perturbation: Images, strength: float, *, valid_pixels: bool) -> Images:
    """J = I + lambda M (equation 1), kept in [0, 1] where asked."""
    perturbed = images + strength * perturbation
    return perturbed.clamp(0, 1) if valid_pixels else perturbed


@dataclass(frozen=True)
class StepFigures:
    """What one step saw: losses before their updates, and the target's answers to J."""

    discriminator_loss: Tensor
    generator_loss: Tensor
    l1: Tensor
    answers: Labels


@dataclass(frozen=True)
class Judged:
    """What D learnt from in one step: images (or, of a frozen body, their features), true labels, and g."""

    seen: Tensor
    labels: Labels
    g: Tensor

    def __add__(self, other: "Judged") -> "Judged":
        pairs = ((self.seen, other.seen), (self.labels, other.labels), (self.g, other.g))
        return Judged(*(torch.cat(pair) for pair in pairs))


@dataclass
class Fit:
    """A fit under way: everything that a checkpoint holds.

    Args:
        generator: G.
        discriminator: D.
        recipe: How to train them.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    generator: Generator
    discriminator: Discriminator
    recipe: Recipe
    access: Access
    train: TrainingImages
    context: Context
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        fabric = self.context.runtime.fabric
        self.fabric = fabric
        for module in (self.generator, self.discriminator):
            module.to(fabric.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.steps = 0
        self.clean: Labels | None = None
        self.spent = self.access.spent()
        self.past: deque[Judged] = deque(maxlen=self.recipe.replay)
        self.judged = [parameter for parameter in self.discriminator.parameters() if parameter.requires_grad]
        self.generator_optimizer = self._optimizer(self.generator.parameters())
        self.discriminator_optimizer = self._optimizer(self.judged)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Any:
        return self.fabric.setup_optimizers(torch.optim.Adam(parameters, fused=True))

    def run(self) -> None:
        """Train until the last epoch, or until ``patience`` epochs brought nothing; resume where a kill left off."""
        checkpoint = None
        if self.context.work is not None:
            checkpoint = Checkpoint(self.context.work / "pgn.ckpt", self.context.identity)
            self._resume(checkpoint.load())
            self.fabric.barrier()  # no process writes a checkpoint before all have read the last one
        batches = math.ceil(len(self.train.fit) / self.recipe.batch_size)
        with self.context.progress.task("fitting PGN", total=self.recipe.epochs * batches) as task:
            task.advance(len(self.history) * batches)
            if not self._is_over() and self.clean is None:
                self.clean = self._clean_answers()
            while not self._is_over():
                self._epoch(task)
                self.spent = self._sum_over_processes(self.access.spent())
                if checkpoint is not None and self.fabric.is_global_zero:
                    checkpoint.save(self._state())

    def _is_over(self) -> bool:
        done, patience = len(self.history), self.recipe.patience
        return done >= self.recipe.epochs or (patience is not None and done - self.best_epoch >= patience)

    def _clean_answers(self) -> Labels:
        """The target's answers to the clean fit images, against which turned samples are counted."""
        rows = self._share(torch.arange(len(self.train.fit)))
        answers = torch.zeros(len(self.train.fit), dtype=torch.long)
        for part in rows.split(self.recipe.batch_size):
            answers[part] = self.access.labels(self._images(part), rows=part).cpu()
        return self._sum_over_processes(answers)

    def _epoch(self, task: Task) -> None:
        epoch = len(self.history)
        sums = torch.zeros(7, dtype=torch.float64)
        train_mode(self.generator)
        self.past.clear()  # so that a fit resumed at an epoch's start ends in the same numbers
        with seeded(self.context.seed, "pgn", "epoch", epoch) as generator:
            batches = epoch_batches(len(self.train.fit), self.recipe.batch_size, generator)
            for batch in batches:
                self._set_rates(len(batches))
                rows = self._share(batch)
                labels = self.train.fit.labels[rows]
                figures = self.step(self._images(rows), labels.to(self.fabric.device), rows)
                losses = torch.stack([figures.discriminator_loss, figures.generator_loss, figures.l1])
                assert self.clean is not None
                before, after = self.clean[rows] == labels, figures.answers.cpu() == labels
                turned = torch.stack([(~before & after).sum(), (before & ~after).sum(), after.sum()])
                sums += torch.cat([losses.cpu().double() * len(rows), turned, torch.tensor([len(rows)])])
                task.advance(L_d=float(losses[0]), L_g=float(losses[1]), L_r=float(losses[2]))
        self._finish_epoch(epoch, self._sum_over_processes(sums))
        task.advance(0, **{"val. accuracy": self.history[-1]["validation_accuracy"]})

    def step(self, images: Images, labels: Labels, rows: Rows) -> StepFigures:
        """Lines 5 to 13 of Algorithm 1 for one batch.

        While D's body is frozen, its features of J are the same before and after D's update, so they are computed once
        and serve both: the same numbers with one pass less.
        """
        recipe, objective, discriminator = self.recipe, self.recipe.objective, self.discriminator
        with self.fabric.autocast():
            perturbation = self.generator(images)
        perturbed = perturbed_images(images, perturbation, recipe.strength, valid_pixels=recipe.valid_pixels)
        answers = self.access.labels(perturbed.detach(), rows=rows)
        g = goal_met(answers, labels, self.context.goal)

        frozen_body = discriminator.is_body_frozen
        with self.fabric.autocast():
            features = discriminator.features(perturbed) if frozen_body else None
        now = Judged((perturbed if features is None else features).detach(), labels, g)
        discriminator_loss = self._teach(now)

        # The generator's loss needs no gradient of D's own parameters, which would cost a third of a backward pass.
        self._freeze(True)
        with self.fabric.autocast():
            judged = discriminator.judge(discriminator.features(perturbed) if features is None else features, labels)
        generator_loss = objective.generator(judged.float())
        l1 = perturbation.abs().mean()
        self._update(self.generator_optimizer, generator_loss + recipe.gamma * l1, list(self.generator.parameters()))
        self._freeze(False)
        self.steps += 1
        self._update_average()
        return StepFigures(discriminator_loss.detach(), generator_loss.detach(), l1.detach(), answers)

    def _teach(self, now: Judged) -> Tensor:
        """Lines 7 to 10 of Algorithm 1: update D on what the target said now, and on one remembered step beside it."""
        lesson = now
        if self.past:
            lesson = now + self.past[int(torch.randint(len(self.past), ()))]
        self.past.append(now)
        for _ in range(self.recipe.discriminator_steps):
            with self.fabric.autocast():
                features = (
                    lesson.seen if self.discriminator.is_body_frozen else self.discriminator.features(lesson.seen)
                )
                judged = self.discriminator.judge(features, lesson.labels)
            loss = self.recipe.objective.discriminator(judged.float(), lesson.g)
            self._update(self.discriminator_optimizer, loss, self.judged)
        return loss

    def _update(self, optimizer: Any, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self._average_gradients(parameters)
        optimizer.step()

    def _freeze(self, frozen: bool) -> None:
        for parameter in self.judged:
            parameter.requires_grad_(not frozen)

    def _finish_epoch(self, epoch: int, sums: Tensor) -> None:
        count = float(sums[6])
        discriminator_loss, generator_loss, l1 = (sums[:3] / count).tolist()
        if not all(map(math.isfinite, (discriminator_loss, generator_loss, l1))):
            raise FitDiverged(
                f"PGN's losses are no longer finite in epoch {epoch + 1}: try a lower --learning-rate, "
                "--precision 32-true, or a bound with --epsilon"
            )
        accuracy = self._validation_accuracy()
        self.history.append(
            {
                "epoch": epoch + 1,
                "discriminator_loss": discriminator_loss,
                "generator_loss": generator_loss,
                "l1": l1,
                "wrong_to_right": float(sums[3]),
                "right_to_wrong": float(sums[4]),
                "fit_accuracy": float(sums[5]) / count,
                "validation_accuracy": accuracy,
            }
        )
        if not self.best or self._is_better(accuracy, self.history[self.best_epoch - 1]["validation_accuracy"]):
            self.best_epoch = epoch + 1
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}

    def _is_better(self, accuracy: float, than: float) -> bool:
        # On a tie the later epoch is taken: it has been averaged over more steps.
        return accuracy <= than if self.context.goal is Goal.DEGRADE else accuracy >= than

    def _validation_accuracy(self) -> float:
        """The target's accuracy on perturbed validation images, asked once by one process."""
        accuracy = 0.0
        if self.fabric.is_global_zero:
            images, right = self.train.validation, 0
            for part in torch.arange(len(images)).split(self.recipe.batch_size):
                inputs = images.images(part).to(self.fabric.device)
                with torch.no_grad():
                    perturbation = self.average(inputs)
                perturbed = perturbed_images(
                    inputs, perturbation, self.recipe.strength, valid_pixels=self.recipe.valid_pixels
                )
                answers = self.access.labels(perturbed, rows=len(self.train.fit) + part)
                right += int((answers.cpu() == images.labels[part]).sum())
            accuracy = right / len(images)
        return float(self.fabric.broadcast(accuracy))

    def _images(self, rows: Rows) -> Images:
        images = self.train.fit.images(rows)
        return images.to(self.fabric.device, memory_format=torch.channels_last, non_blocking=True)

    def _share(self, rows: Rows) -> Rows:
        """This process's part of a batch."""
        return rows[self.fabric.global_rank :: self.fabric.world_size]

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return sums
        return cast(Tensor, self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum")).cpu()

    def _average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over processes, in one message."""
        if self.fabric.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        reduced = cast(Tensor, self.fabric.all_reduce(flat, reduce_op="mean"))
        for gradient, part in zip(gradients, reduced.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _set_rates(self, batches: int) -> None:
        """Follow the schedule: cosine from the first rates to zero at the last step of the last epoch."""
        done = self.steps / (batches * self.recipe.epochs)
        share = (1 + math.cos(math.pi * done)) / 2 if self.recipe.cosine else 1.0
        self.generator_optimizer.param_groups[0]["lr"] = share * self.recipe.learning_rate
        self.discriminator_optimizer.param_groups[0]["lr"] = share * self.recipe.discriminator_learning_rate

    def _update_average(self) -> None:
        """Move the averaged generator towards the current one; the first steps' raw weights are soon forgotten."""
        decay = min(self.recipe.averaging, (1 + self.steps) / (10 + self.steps))
        averages, currents = (
            [value for value in network.state_dict().values() if value.is_floating_point()]
            for network in (self.average, self.generator)
        )
        get_ema_multi_avg_fn(decay)(averages, currents, self.steps)

    def _state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        return parts | {
            "history": self.history,
            "clean": self.clean,
            "spent": self.spent,
            "steps": self.steps,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.history, self.steps, self.clean = state["history"], state["steps"], state["clean"]
        if self.fabric.is_global_zero:
            self.access.recall(state["spent"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]

    def _stateful(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
