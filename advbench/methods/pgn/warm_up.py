"""Before the game: the discriminator alone learns the target's answers to many altered images."""

from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.imitation import Imitation
from advbench.methods.pgn.lessons import Lesson, Recipe, discriminator_loss, features_of, foretold
from advbench.methods.pgn.networks import Discriminator
from advbench.tensors import Images, Labels

__all__ = ["WarmUp"]


class WarmUp(Imitation):
    """A discriminator's training to answer as the target does, before there is a generator to judge.

    The paper has no such phase: its D starts from ImageNet weights.

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
        super().__init__(discriminator, rate, access, train, context, epochs=epochs, batch_size=recipe.batch_size)
        self.discriminator, self.recipe = discriminator, recipe

    def _learn(self) -> None:
        if not self.discriminator.is_body_frozen:
            self.discriminator.train()

    def _lesson(self, images: Images, labels: Labels, answers: Labels) -> tuple[Tensor, Tensor]:
        discriminator = self.discriminator
        seen = discriminator.features(images) if discriminator.is_body_frozen else images
        lesson = Lesson(seen, labels, answers)
        features = features_of(discriminator, lesson)
        loss = discriminator_loss(discriminator, features, lesson, self.recipe)
        return loss, foretold(discriminator, features, lesson, self.recipe)
