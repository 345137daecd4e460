"""Fitting by epochs: the best is kept by the validation images, and a killed fit goes on where it was."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from advbench.access import Access
from advbench.checkpoint import Checkpoint
from advbench.errors import FitDiverged
from advbench.methods.base import Context, TrainingImages
from advbench.progress import Task
from advbench.seeding import seeded
from advbench.tensors import Images, Rows
from advbench.types import Goal

__all__ = ["EpochFit", "Epochs"]


class Epochs(ABC):
    """Training under way: everything that a checkpoint holds, and how it goes on by one epoch.

    Args:
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
        epochs: At most.
        batch_size: Images a step.
    """

    name: ClassVar[str]
    """For its random numbers, its checkpoint and the progress shown."""
    advice: ClassVar[str]
    """What to try where the figures are no longer finite."""

    def __init__(
        self, access: Access, train: TrainingImages, context: Context, *, epochs: int, batch_size: int
    ) -> None:
        self.access, self.train, self.context = access, train, context
        self.epochs, self.batch_size = epochs, batch_size
        self.fabric = context.runtime.fabric
        self.history: list[dict[str, float]] = []
        # Of a part that other fits have as well, only what it asked itself is kept: what came before is each fit's own.
        spent, seconds = access.spent(), access.seconds()
        self.before = (spent, seconds) if context.is_shared else (torch.zeros_like(spent), 0.0)
        self.spent = spent - self.before[0]

    @abstractmethod
    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        """Go through one epoch, and give its figures."""

    @abstractmethod
    def _stateful(self) -> dict[str, Any]:
        """What changes from epoch to epoch: by name, things with ``state_dict`` and ``load_state_dict``."""

    def _extra_state(self) -> dict[str, Any]:
        """Attributes that a checkpoint holds beside ``_stateful``."""
        return {}

    def _begin(self) -> None:  # noqa: B027
        """Ask what has to be known before the first epoch: by default, nothing."""

    @property
    def _steps(self) -> int:
        """Of one epoch."""
        return math.ceil(len(self.train.fit) / self.batch_size)

    def run(self) -> None:
        """Go on until it is over; resume where a kill left off."""
        self.context.runtime.begin_loss_scale()
        checkpoint = None
        if self.context.work is not None:
            checkpoint = Checkpoint(self.context.work / f"{self.name}.ckpt", self.context.identity)
            self._resume(checkpoint.load(self.context.progress.say))
            self.fabric.barrier()  # no process writes a checkpoint before all have read the last one
        with self.context.progress.task(f"fitting {self.name}", total=self.epochs * self._steps) as task:
            task.advance(len(self.history) * self._steps)
            if not self.history:
                self._begin()
            while not self._is_over():
                epoch = len(self.history)
                with seeded(self.context.seed, self.name, "epoch", epoch) as generator:
                    figures = self._epoch(task, generator)
                if not all(map(math.isfinite, figures.values())):
                    raise FitDiverged(f"{self.name}: figures are no longer finite in epoch {epoch + 1}: {self.advice}")
                self._finish_epoch(task, {"epoch": epoch + 1, **figures})
                self.spent = self._sum_over_processes(self.access.spent() - self.before[0])
                if checkpoint is not None and self.fabric.is_global_zero:
                    checkpoint.save(self._state())

    def _is_over(self) -> bool:
        return len(self.history) >= self.epochs

    def _finish_epoch(self, task: Task, figures: dict[str, float]) -> None:  # noqa: ARG002
        self.history.append(figures)

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

    def _optimizer(self, parameters: Iterable[nn.Parameter], betas: tuple[float, float] = (0.9, 0.999)) -> Any:
        return self.fabric.setup_optimizers(torch.optim.Adam(parameters, betas=betas, fused=True))

    def _update(self, optimizer: Any, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self._average([parameter.grad for parameter in parameters if parameter.grad is not None])
        optimizer.step()

    def _average(self, tensors: list[Tensor]) -> None:
        """Average over processes, in one message."""
        if self.fabric.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        reduced = cast(Tensor, self.fabric.all_reduce(flat, reduce_op="mean"))
        for tensor, part in zip(tensors, reduced.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _saved(self) -> dict[str, Any]:
        """``_stateful``, and the scale of float16's losses."""
        return {**self._stateful(), "precision": self.fabric.strategy.precision}

    def _state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._saved().items()}
        accounts = {"history": self.history, "spent": self.spent, "seconds": self.access.seconds() - self.before[1]}
        return parts | accounts | self._extra_state()

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        for name, part in self._saved().items():
            part.load_state_dict(state[name])
        for name in ("history", *self._extra_state()):
            setattr(self, name, state[name])
        # What all processes asked is divided among them by samples: each holds to its share of a limit.
        own = torch.zeros_like(state["spent"])
        mine = slice(self.fabric.global_rank, None, self.fabric.world_size)
        own[:, mine] = state["spent"][:, mine]
        self.access.recall(self.before[0] + own, self.before[1] + state["seconds"])


class EpochFit(Epochs):
    """A fit under way, of whose epochs the best is kept.

    Args:
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
        epochs: At most.
        batch_size: Images a step.
        patience: Stop after so many epochs without a better validation accuracy; None never does.
    """

    def __init__(
        self, access: Access, train: TrainingImages, context: Context, *,
        epochs: int, batch_size: int, patience: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(access, train, context, epochs=epochs, batch_size=batch_size)
        self.patience = patience
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0

    @abstractmethod
    def _perturbed(self, images: Images) -> Images:
        """Perturb with what has been learnt so far."""

    @abstractmethod
    def _learnt(self) -> Mapping[str, Tensor]:
        """What is kept of the best epoch."""

    def _is_over(self) -> bool:
        done = len(self.history)
        return super()._is_over() or (self.patience is not None and done - self.best_epoch >= self.patience)

    def _finish_epoch(self, task: Task, figures: dict[str, float]) -> None:
        accuracy = self._validation_accuracy()
        task.advance(0, **{"val. accuracy": accuracy})
        super()._finish_epoch(task, {**figures, "validation_accuracy": accuracy})
        if not self.best or self._is_better(accuracy, self.history[self.best_epoch - 1]["validation_accuracy"]):
            self.best_epoch = len(self.history)
            self.best = {name: value.clone() for name, value in self._learnt().items()}

    def _is_better(self, accuracy: float, than: float) -> bool:
        # On a tie the later epoch is taken: it has learnt from more steps.
        return accuracy <= than if self.context.goal is Goal.DEGRADE else accuracy >= than

    def _validation_accuracy(self) -> float:
        """The target's accuracy on perturbed validation images, asked once by one process."""
        accuracy = 0.0
        if self.fabric.is_global_zero:
            images, right = self.train.validation, 0
            for part in torch.arange(len(images)).split(self.batch_size):
                perturbed = self._perturbed(images.images(part).to(self.fabric.device))
                answers = self.access.labels(perturbed, rows=len(self.train.fit) + part)
                right += int((answers.cpu() == images.labels[part]).sum())
            accuracy = right / len(images)
        return float(self.fabric.broadcast(accuracy))

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "best": self.best, "best_epoch": self.best_epoch}

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        super()._resume(state)
        if state is not None:
            self.best, self.best_epoch = state["best"], state["best_epoch"]
