"""Before the game: the discriminator alone learns the target's answers to many altered images."""

import math
from typing import Any

import torch

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.epochs import Epochs
from advbench.methods.pgn.lessons import Lesson, Recipe, discriminator_loss, features_of, foretold
from advbench.methods.pgn.networks import Discriminator
from advbench.progress import Task
from advbench.targets import epoch_batches
from advbench.tensors import Images

__all__ = ["WarmUp", "altered"]

SHIFT, DARKEST, BRIGHTEST, TINT = 1 / 8, 0.6, 1.4, 0.15
"""Of the image's side; of its brightness; of the pixel range."""
MIXED_SHARE, MIXED_AT_MOST = 0.3, 0.5
"""How many images get a second one mixed in, and how much of it."""


class WarmUp(Epochs):
    """A discriminator's training to answer as the target does, before there is a generator to judge.

    The paper has no such phase: its D starts from ImageNet weights. One that starts from nothing, and asks the target
    about every image in another version each time, comes to err where the target errs: its gradients carry over, which
    those of a network that learnt the same classes from other images do not (Papernot et al. 2017, 'Practical Black-Box
    Attacks against Machine Learning', calls such a network a substitute). Every question is counted as a query.

    Args:
        discriminator: D.
        recipe: What it learns.
        epochs: Of the fit images.
        rate: Adam's first; it falls to zero along a cosine.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    name = "pgn-warm-up"
    advice = "try a lower --discriminator-learning-rate, or --precision 32-true"

    def __init__(
        self, discriminator: Discriminator, recipe: Recipe, epochs: int, rate: float, access: Access,
        train: TrainingImages, context: Context,
    ) -> None:  # fmt: skip
        super().__init__(access, train, context, epochs=epochs, batch_size=recipe.batch_size)
        self.discriminator, self.recipe, self.rate = discriminator, recipe, rate
        discriminator.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.learning = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
        self.optimizer = self._optimizer(self.learning)

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        discriminator = self.discriminator
        if not discriminator.is_body_frozen:
            discriminator.train()
        done, totals = len(self.history) * self._steps, torch.zeros(2, dtype=torch.float64)
        for step, batch in enumerate(epoch_batches(len(self.train.fit), self.batch_size, generator), start=done):
            share = (1 + math.cos(math.pi * step / (self.epochs * self._steps))) / 2
            self.optimizer.param_groups[0]["lr"] = share * self.rate
            rows = self._share(batch)
            images = altered(self._images(rows))
            labels = self.train.fit.labels[rows].to(images.device)
            answers = self.access.labels(images, rows=rows)
            with self.fabric.autocast():
                seen = discriminator.features(images) if discriminator.is_body_frozen else images
                lesson = Lesson(seen, labels, answers)
                features = features_of(discriminator, lesson)
                loss = discriminator_loss(discriminator, features, lesson, self.recipe)
                is_right = foretold(discriminator, features, lesson, self.recipe)
            self._update(self.optimizer, loss, self.learning)
            totals += torch.stack([loss.detach() * len(rows), is_right.sum()]).cpu()
            task.advance(1, L_d=float(loss.detach()))
        discriminator.eval()
        self._average([buffer for buffer in discriminator.buffers() if buffer.is_floating_point()])
        loss_sum, right = (self._sum_over_processes(totals) / len(self.train.fit)).tolist()
        return {"discriminator_loss": loss_sum, "agreement": right}

    def _stateful(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator, "optimizer": self.optimizer}


def altered(images: Images) -> Images:
    """Mirror, shift, light, tint and mix images at random, ``(batch, channels, height, width)`` in [0, 1]."""
    count, device = len(images), images.device

    def chance(channels: int = 1) -> torch.Tensor:
        return torch.rand(count, channels, 1, 1).to(device)

    images = torch.where(chance() < 0.5, images.flip(3), images)
    reach = int(SHIFT * images.shape[-1])
    shifts = torch.randint(-reach, reach + 1, (2,)).tolist()
    images = images.roll(tuple(shifts), (2, 3))
    light = DARKEST + (BRIGHTEST - DARKEST) * chance()
    images = (images * light + 2 * TINT * (chance(images.shape[1]) - 0.5)).clamp(0, 1)
    second = MIXED_AT_MOST * chance() * (chance() < MIXED_SHARE)
    return torch.lerp(images, images[torch.randperm(count).to(device)], second)
