"""Visual prompting: one pattern for all images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.checkpoint import Checkpoint
from advbench.errors import FitDiverged, InvalidConfig
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.methods.geometry import clip_to_budget, project
from advbench.methods.gradient import rising_loss
from advbench.progress import Task
from advbench.seeding import seeded
from advbench.targets import epoch_batches
from advbench.tensors import Images, Rows
from advbench.threat import Budget, Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["Prompt"]

PAPER_WIDTH = 30 / 224
"""The paper's best frame, as a share of the image's side."""


class Prompt(Method):
    """Visual prompt: one additive pattern for all images, trained through the target towards the true classes.

    Bahng, Jahanian, Sankaranarayanan, Isola 2022, 'Exploring Visual Prompts for Adapting Large-Scale Models',
    https://arxiv.org/abs/2203.17274: a frame of learnt pixels is added to every image, and the cross-entropy of the
    frozen classifier on the attacker's own labelled images is brought down. The pattern is ``(1, 3, height, width)``.

    A budget means: the pattern itself is projected onto it after every step, epsilon in [0, 1] pixel scale, and images
    are clipped to [0, 1]. Without one the pattern is held to [-1, 1], beyond which a pixel cannot move.

    Deviations: Adam rather than SGD at rate 40, and tens of epochs rather than 1,000; the epoch is chosen on validation
    images; no mapping between two sets of classes, as the target knows the images' own; the clipping to [0, 1] is
    differentiated as if it were not there, so that a pixel that was pushed out of range can come back; to degrade, the
    cross-entropy is brought up.

    Args:
        shape: ``frame``, as in the paper, or ``full``, the whole image.
        width: Of the frame, in pixels. None: 30 in 224, the paper's.
        epochs: Passes over the attacker's images.
        batch_size: Images a step.
        learning_rate: Adam's, in pixel scale; it falls to zero along a cosine.
    """

    shape: Literal["frame", "full"] = "frame"
    width: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=0.02, gt=0)

    def resolve(self, setting: Setting) -> Self:
        """Fill in the frame's width."""
        if self.shape == "full":
            if self.width is not None:
                raise InvalidConfig("--shape full has no frame: leave out --width")
            return self
        width = self.width or max(1, round(PAPER_WIDTH * setting.image_size))
        if 2 * width >= setting.image_size:
            raise InvalidConfig(
                f"a frame of {width} pixels covers all of {setting.image_size}: give --shape full, or a smaller --width"
            )
        return self.model_copy(update={"width": width})

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Gradients, labels and the attacker's own true labels in fitting; nothing afterwards."""
        return Needs(fit=frozenset({Capability.INPUT_GRADIENTS, Capability.LABELS, Capability.TRUE_LABELS}))

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train the pattern.

        Raises:
            FitDiverged: The target's scores are not finite.
        """
        fit = _Fit(self, access, train, context)
        fit.run()
        return _Prompted(fit.best.cpu(), context.budget, tuple(fit.history))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the pattern."""
        return _Prompted(state["pattern"], context.budget, ())

    def mask(self, size: int) -> Tensor:
        """Where the pattern may be other than zero, ``(1, 1, size, size)``."""
        if self.width is None:
            return torch.ones(1, 1, size, size)
        inside = torch.zeros(1, 1, size - 2 * self.width, size - 2 * self.width)
        return F.pad(inside, (self.width,) * 4, value=1.0)


@dataclass(frozen=True)
class _Prompted:
    pattern: Tensor
    budget: Budget
    epochs: tuple[Mapping[str, float], ...]

    def perturb(self, images: Images, access: Access) -> Images:  # noqa: ARG002
        return clip_to_budget(images + self.pattern.to(images.device), images, self.budget)

    def state(self) -> dict[str, Tensor]:
        return {"pattern": self.pattern}

    def history(self) -> Sequence[Mapping[str, float]]:
        return self.epochs

    def notes(self) -> Sequence[str]:
        return ()


@dataclass
class _Fit:
    """A fit under way: everything that a checkpoint holds."""

    method: Prompt
    access: Access
    train: TrainingImages
    context: Context
    history: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        self.fabric = self.context.runtime.fabric
        size = self.context.image_size
        self.mask = self.method.mask(size).to(self.fabric.device)
        self.pattern = torch.zeros(1, 3, size, size, device=self.fabric.device)
        self.best = self.pattern.clone()
        self.optimizer = torch.optim.Adam([self.pattern], lr=self.method.learning_rate)
        self.batches = math.ceil(len(self.train.fit) / self.method.batch_size)

    def run(self) -> None:
        """Train until the last epoch; resume where a kill left off."""
        checkpoint = None
        if self.context.work is not None:
            checkpoint = Checkpoint(self.context.work / "prompt.ckpt", self.context.identity)
            self._resume(checkpoint.load())
            self.fabric.barrier()  # no process writes a checkpoint before all have read the last one
        with self.context.progress.task("fitting a prompt", total=self.method.epochs * self.batches) as task:
            task.advance(self.steps)
            while len(self.history) < self.method.epochs:
                self._epoch(task)
                spent = self._sum_over_processes(self.access.spent())
                if checkpoint is not None and self.fabric.is_global_zero:
                    checkpoint.save(self._state(spent))

    def _epoch(self, task: Task) -> None:
        epoch, fit, sums = len(self.history) + 1, self.train.fit, torch.zeros(2, dtype=torch.float64)
        with seeded(self.context.seed, "prompt", "epoch", epoch) as generator:
            for batch in epoch_batches(len(fit), self.method.batch_size, generator):
                rows = batch[self.fabric.global_rank :: self.fabric.world_size]
                sums += self._step(fit.images(rows), fit.labels[rows], rows, len(batch))
                task.advance()
        loss, right = (self._sum_over_processes(sums) / len(fit)).tolist()
        if not math.isfinite(loss):
            raise FitDiverged(f"the target's scores are not finite in epoch {epoch}: no prompt can be learnt from them")
        accuracy = self._validation_accuracy()
        goal = 1 if self.context.goal is Goal.ENHANCE else -1
        # On a tie the later epoch is taken: its rate was lower.
        if goal * accuracy >= max((goal * done["validation_accuracy"] for done in self.history), default=-1.0):
            self.best = self.pattern.clone()
        self.history.append({"epoch": epoch, "loss": loss, "fit_accuracy": right, "validation_accuracy": accuracy})

    def _step(self, images: Images, labels: Tensor, rows: Rows, count: int) -> Tensor:
        """One step of Adam along the mean gradient; the loss's sum and how many were right."""
        labels = labels.to(self.fabric.device)
        perturbed = (images.to(self.fabric.device) + self.pattern).clamp(0, 1)
        answer = self.access.gradient(
            perturbed, lambda scores, part: rising_loss(scores, labels[part], self.context.goal), rows=rows
        )
        uphill = self._sum_over_processes(answer.gradient.sum(dim=0, keepdim=True))
        self.pattern.grad = -uphill.to(self.fabric.device) * self.mask / count
        share = (1 + math.cos(math.pi * self.steps / (self.batches * self.method.epochs))) / 2
        self.optimizer.param_groups[0]["lr"] = share * self.method.learning_rate
        self.optimizer.step()
        epsilon, norm = self.context.budget.epsilon, self.context.budget.norm
        self.pattern.copy_(project(self.pattern, Norm.LINF, 1.0) if epsilon is None
                           else project(self.pattern, norm, epsilon))  # fmt: skip
        self.steps += 1
        loss = F.cross_entropy(answer.scores, labels, reduction="sum")
        return torch.stack([loss, (answer.scores.argmax(dim=1) == labels).sum()]).double().cpu()

    def _validation_accuracy(self) -> float:
        """The target's accuracy on prompted validation images, asked once by one process."""
        images, right = self.train.validation, 0
        if self.fabric.is_global_zero:
            prompted = _Prompted(self.pattern, self.context.budget, ())
            for part in torch.arange(len(images)).split(self.method.batch_size):
                perturbed = prompted.perturb(images.images(part).to(self.fabric.device), self.access)
                answers = self.access.labels(perturbed, rows=len(self.train.fit) + part)
                right += int((answers.cpu() == images.labels[part]).sum())
        return float(self.fabric.broadcast(right / len(images)))

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return sums
        return cast(Tensor, self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum")).cpu()

    def _state(self, spent: Tensor) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "steps": self.steps,
            "spent": spent,
        }

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.pattern.copy_(state["pattern"])
        self.best.copy_(state["best"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.steps = state["history"], state["steps"]
        if self.fabric.is_global_zero:
            self.access.recall(state["spent"])
