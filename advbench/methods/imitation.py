"""Learning to answer as the target does: a network that asks it about many altered images."""

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.epochs import Epochs
from advbench.progress import Task
from advbench.targets import epoch_batches
from advbench.tensors import Images, Labels

__all__ = ["Imitation", "Substitution", "altered", "mirrored_and_shifted"]

SHIFT, DARKEST, BRIGHTEST, TINT = 1 / 8, 0.6, 1.4, 0.15
"""Of the image's side; of its brightness; of the pixel range."""
MIXED_SHARE, MIXED_AT_MOST = 0.3, 0.5
"""How many images get a second one mixed in, and how much of it."""


class Imitation(Epochs):
    """A network's training to answer as the target does, from labels alone.

    Papernot, McDaniel, Goodfellow, Jha, Celik, Swami 2017, 'Practical Black-Box Attacks against Machine Learning',
    https://arxiv.org/abs/1602.02697, calls such a network a substitute. One that asks the target about every image in
    another version each time comes to err where the target errs: its gradients carry over, which those of a network
    that learnt the same classes from other images do not. Every question is counted as a query.

    Deviation: the paper alters images along the substitute's Jacobian, here at random (``altered``).

    Args:
        network: Learns, with whatever of its parameters want a gradient.
        rate: Adam's first; it falls to zero along a cosine.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
        epochs: Of the fit images.
        batch_size: Images a step.
    """

    def __init__(
        self, network: nn.Module, rate: float, access: Access, train: TrainingImages, context: Context, *,
        epochs: int, batch_size: int,
    ) -> None:  # fmt: skip
        super().__init__(access, train, context, epochs=epochs, batch_size=batch_size)
        self.network, self.rate = network, rate
        network.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = self._optimizer(self.learning)

    @abstractmethod
    def _lesson(self, images: Images, labels: Labels, answers: Labels) -> tuple[Tensor, Tensor]:
        """The loss to learn by, and where the network, asked before it learns, says what the target said: bool."""

    def _learn(self) -> None:
        """Go into the mode that learning wants."""
        self.network.train()

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        self._learn()
        done, totals = len(self.history) * self._steps, torch.zeros(2, dtype=torch.float64)
        batches = epoch_batches(len(self.train.fit), self.batch_size, generator, self.fabric.world_size)
        for step, batch in enumerate(batches, start=done):
            share = (1 + math.cos(math.pi * step / (self.epochs * self._steps))) / 2
            self.optimizer.param_groups[0]["lr"] = share * self.rate
            rows = self._share(batch)
            images = altered(self._images(rows))
            labels = self.train.fit.labels[rows].to(images.device)
            answers = self.access.labels(images, rows=rows)
            with self.fabric.autocast():
                loss, is_right = self._lesson(images, labels, answers)
            self._update(self.optimizer, loss, self.learning)
            totals += torch.stack([loss.detach() * len(rows), is_right.sum()]).cpu()
            task.advance(1, loss=float(loss.detach()))
        self.network.eval()
        self._average([buffer for buffer in self.network.buffers() if buffer.is_floating_point()])
        loss_sum, right = (self._sum_over_processes(totals) / len(self.train.fit)).tolist()
        return {"loss": loss_sum, "agreement": right}

    def _stateful(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer}


class Substitution(Imitation):
    """A classifier learns the target's answers, by cross-entropy."""

    name = "substitute"
    advice = "try a lower --via-lr, or --precision 32-true"

    def _lesson(self, images: Images, labels: Labels, answers: Labels) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        scores = self.network(images).float()
        return F.cross_entropy(scores, answers), scores.argmax(dim=1) == answers


def altered(images: Images) -> Images:
    """Mirror, shift, light, tint and mix images at random, ``(batch, channels, height, width)`` in [0, 1]."""
    images = mirrored_and_shifted(images)
    light = DARKEST + (BRIGHTEST - DARKEST) * _chance(images)
    images = (images * light + 2 * TINT * (_chance(images, images.shape[1]) - 0.5)).clamp(0, 1)
    second = MIXED_AT_MOST * _chance(images) * (_chance(images) < MIXED_SHARE)
    return torch.lerp(images, images[torch.randperm(len(images)).to(images.device)], second)


def mirrored_and_shifted(images: Images) -> Images:
    """Mirror each image by chance, and shift all alike, round the edges, ``(batch, channels, height, width)``."""
    images = torch.where(_chance(images) < 0.5, images.flip(3), images)
    reach = int(SHIFT * images.shape[-1])
    shifts = torch.randint(-reach, reach + 1, (2,)).tolist()
    return images.roll(tuple(shifts), (2, 3))


def _chance(images: Images, channels: int = 1) -> Tensor:
    """Numbers in [0, 1), ``(batch, channels, 1, 1)``."""
    return torch.rand(len(images), channels, 1, 1).to(images.device)
