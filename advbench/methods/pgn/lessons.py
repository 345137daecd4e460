"""What the discriminator learns, and from what: a lesson is a batch with the target's answers to it."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.methods.geometry import lengths
from advbench.methods.pgn.networks import Discriminator
from advbench.methods.pgn.objectives import Objective, goal_met
from advbench.methods.pgn.trainer import Schedule
from advbench.tensors import Labels
from advbench.types import Norm

__all__ = ["Lesson", "Recipe", "discriminator_loss", "features_of", "foretold", "gradient_penalty"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """How the two networks are trained; see ``PGN`` for each."""

    objective: Objective
    gamma: float
    discriminator_learns: Literal["verdict", "answer"]
    discriminator_steps: int
    generator_steps: int
    replay: int
    augment: bool
    discriminator_learning_rate: float


@dataclass(frozen=True)
class Lesson:
    """What D learns from in one step: images (or, of a frozen body, their features), true labels, the answers r."""

    seen: Tensor
    labels: Labels
    answers: Labels

    def __add__(self, other: "Lesson") -> "Lesson":
        pairs = ((self.seen, other.seen), (self.labels, other.labels), (self.answers, other.answers))
        return Lesson(*(torch.cat(pair) for pair in pairs))


def features_of(discriminator: Discriminator, lesson: Lesson) -> Tensor:
    """What D's last layer sees of a lesson."""
    return lesson.seen if discriminator.is_body_frozen else discriminator.features(lesson.seen)


def discriminator_loss(discriminator: Discriminator, features: Tensor, lesson: Lesson, recipe: Recipe) -> Tensor:
    """L_d of the objective where D learns the verdict g; where it learns the answer r, the cross-entropy with r."""
    if recipe.discriminator_learns == "answer":
        return F.cross_entropy(discriminator.scores(features).float(), lesson.answers)
    g = goal_met(lesson.answers, lesson.labels, discriminator.goal)
    loss = recipe.objective.discriminator(discriminator.judge(features, lesson.labels).float(), g)
    if not recipe.objective.penalty:
        return loss
    return loss + recipe.objective.penalty * gradient_penalty(discriminator, lesson, g)


def gradient_penalty(discriminator: Discriminator, lesson: Lesson, g: Tensor) -> Tensor:
    """Mean of (||gradient of D|| - 1)^2, WGAN-GP's, at random points between what met the goal and what did not.

    Each sample is paired with one of the other kind, or, where all are of one kind, with any. A label-aware judge is
    told the sample's own label. Under a frozen body the points lie between features, and so does the gradient.
    """
    seen = lesson.seen.float()
    other = torch.multinomial((g[:, None] != g) + torch.finfo(torch.float32).tiny, 1)[:, 0]
    share = torch.rand(len(g), *[1] * (seen.ndim - 1)).to(seen.device)
    between = torch.lerp(seen[other], seen, share).detach().requires_grad_()
    features = between if discriminator.is_body_frozen else discriminator.features(between)
    judged = discriminator.judge(features, lesson.labels)
    (gradient,) = torch.autograd.grad(judged.sum(), between, create_graph=True)
    return (lengths(gradient.float(), Norm.L2) - 1).square().mean()


def foretold(discriminator: Discriminator, features: Tensor, lesson: Lesson, recipe: Recipe) -> Tensor:
    """Where D, asked before it learns, says what the target said: its answer, or its verdict; bool, ``(batch,)``."""
    if recipe.discriminator_learns == "answer":
        return discriminator.scores(features).argmax(dim=1) == lesson.answers
    g = goal_met(lesson.answers, lesson.labels, discriminator.goal)
    return (discriminator.judge(features, lesson.labels) > 0) == g.bool()
