"""Algorithm 1 of the paper: how generator and discriminator learn from the target's labels."""

from collections import deque

import torch
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.imitation import mirrored_and_shifted
from advbench.methods.pgn.lessons import Lesson, Recipe, discriminator_loss, features_of
from advbench.methods.pgn.networks import Discriminator, Generator
from advbench.methods.pgn.trainer import GameFigures, GameFit
from advbench.progress import Task
from advbench.tensors import Images, Labels, Rows

__all__ = ["Fit"]


class Fit(GameFit):
    """A fit under way.

    Args:
        generator: G.
        discriminator: D.
        recipe: How to train them.
        access: The door to the target.
        train: The attacker's images.
        context: Goal, seed and the rest.
    """

    name = "pgn"

    def __init__(
        self, generator: Generator, discriminator: Discriminator, recipe: Recipe, access: Access,
        train: TrainingImages, context: Context,
    ) -> None:  # fmt: skip
        super().__init__(generator, discriminator, recipe, recipe.discriminator_learning_rate, access, train, context)
        self.recipe = recipe
        self.past: deque[Lesson] = deque(maxlen=recipe.replay)

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        self.past.clear()  # so that a fit resumed at an epoch's start ends in the same numbers
        return super()._epoch(task, generator)

    def step(self, images: Images, labels: Labels, rows: Rows) -> GameFigures:
        """Lines 5 to 13 of Algorithm 1 for one batch.

        What an update leaves as it is, is computed once: a frozen encoder's maps of I serve all of G's steps, and the
        features of J that D's frozen body makes serve D's update and G's. The same numbers with fewer passes.
        """
        recipe, discriminator, encoder_frozen = self.recipe, self.discriminator, self.generator.is_encoder_frozen
        images = mirrored_and_shifted(images) if recipe.augment else images
        with self.fabric.autocast():
            maps = self.generator.maps(images)
            perturbation = self.generator.perturbation(maps, images)
        perturbed = self._moved(images, perturbation)
        answers = self.access.labels(perturbed.detach(), rows=rows)

        frozen_body = discriminator.is_body_frozen
        with self.fabric.autocast():
            features = discriminator.features(perturbed) if frozen_body else None
        taught = self._teach(Lesson((perturbed if features is None else features).detach(), labels, answers))

        generator_loss, l1 = self._learn_from_judge(perturbation, perturbed, features, labels)
        for _ in range(recipe.generator_steps - 1):
            with self.fabric.autocast():
                maps = maps if encoder_frozen else self.generator.maps(images)
                perturbation = self.generator.perturbation(maps, images)
            self._learn_from_judge(perturbation, self._moved(images, perturbation), None, labels)
        return GameFigures(generator_loss, l1, answers, taught)

    def _teach(self, now: Lesson) -> Tensor | None:
        """Lines 7 to 10 of Algorithm 1: update D on what the target said now, and on one remembered step beside it."""
        lesson = now
        if self.past:
            lesson = now + self.past[int(torch.randint(len(self.past), ()))]
        self.past.append(now)
        loss = None
        for _ in range(self.recipe.discriminator_steps):
            with self.fabric.autocast():
                features = features_of(self.discriminator, lesson)
                loss = discriminator_loss(self.discriminator, features, lesson, self.recipe)
            self._update(self.discriminator_optimizer, loss, self.judged)
        return None if loss is None else loss.detach()

    def _learn_from_judge(
        self, perturbation: Images, perturbed: Images, features: Tensor | None, labels: Labels
    ) -> tuple[Tensor, Tensor]:
        """Lines 11 to 13 of Algorithm 1: update G on D's judgement of J."""
        with self._frozen_judge():
            with self.fabric.autocast():
                features = self.discriminator.features(perturbed) if features is None else features
                judged = self.discriminator.judge(features, labels)
            generator_loss = self.recipe.objective.generator(judged.float())
            l1 = perturbation.abs().mean()
            self._update_generator(generator_loss + self.recipe.gamma * l1)
        return generator_loss.detach(), l1.detach()
