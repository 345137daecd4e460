"""Visual prompting: one pattern for all images."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Setting, TrainingImages
from advbench.methods.geometry import project
from advbench.methods.gradient import rising_loss
from advbench.methods.universal import UniversalFit, UniversalMethod
from advbench.progress import Task
from advbench.tensors import Images, Labels, Rows
from advbench.threat import Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["Prompt"]

PAPER_WIDTH = 30 / 224
"""The paper's best frame, as a share of the image's side."""


class Prompt(UniversalMethod):
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

    def mask(self, size: int) -> Tensor:
        """Where the pattern may be other than zero, ``(1, 1, size, size)``."""
        if self.width is None:
            return torch.ones(1, 1, size, size)
        inside = torch.zeros(1, 1, size - 2 * self.width, size - 2 * self.width)
        return F.pad(inside, (self.width,) * 4, value=1.0)

    def _start(self, access: Access, train: TrainingImages, context: Context) -> UniversalFit:
        return _PromptFit(self, access, train, context)


class _PromptFit(UniversalFit):
    name = "prompt"

    def __init__(self, method: Prompt, access: Access, train: TrainingImages, context: Context) -> None:
        super().__init__(method, access, train, context)
        self.mask = method.mask(context.image_size).to(self.fabric.device)
        self.learning_rate = method.learning_rate
        self.optimizer = torch.optim.Adam([self.v], lr=method.learning_rate)

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)
        batches = torch.randperm(len(self.train.fit), generator=generator).split(self.batch_size)
        for position, batch in enumerate(batches):
            done = (len(self.history) + position / len(batches)) / self.epochs
            self.optimizer.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * done)) / 2
            rows = self._share(batch)
            sums += self._step(self._images(rows), self.train.fit.labels[rows], rows, len(batch))
            task.advance()
        loss, right = (self._sum_over_processes(sums) / len(self.train.fit)).tolist()
        return {"loss": loss, "fit_accuracy": right}

    def _step(self, images: Images, labels: Labels, rows: Rows, count: int) -> Tensor:
        """One step of Adam along the mean gradient; the loss's sum and how many were right."""
        labels = labels.to(self.fabric.device)
        answer = self.access.gradient(
            (images + self.v).clamp(0, 1),
            lambda scores, part: rising_loss(scores, labels[part], self.context.goal),
            rows=rows,
        )
        uphill = self._sum_over_processes(answer.gradient.sum(dim=0, keepdim=True))
        self.v.grad = -uphill.to(self.fabric.device) * self.mask / count
        self.optimizer.step()
        epsilon, norm = self.budget.epsilon, self.budget.norm
        self.v.copy_(project(self.v, Norm.LINF, 1.0) if epsilon is None else project(self.v, norm, epsilon))
        loss = F.cross_entropy(answer.scores, labels, reduction="sum")
        return torch.stack([loss, (answer.scores.argmax(dim=1) == labels).sum()]).double().cpu()

    def _stateful(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer}

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        pattern = self.v
        super()._resume(state)
        self.v = pattern.copy_(self.v)  # the tensor that Adam moves
