"""The perturbation generation network."""

from advbench.methods.pgn.base import GeneratorMethod
from advbench.methods.pgn.lessons import Lesson, Recipe, gradient_penalty
from advbench.methods.pgn.method import PGN
from advbench.methods.pgn.networks import DECODER_CHANNELS, Discriminator, Generator
from advbench.methods.pgn.objectives import OBJECTIVES, LeastSquares, Logistic, Wasserstein, goal_met
from advbench.methods.pgn.training import Fit
from advbench.methods.pgn.warm_up import WarmUp

__all__ = [
    "DECODER_CHANNELS",
    "OBJECTIVES",
    "PGN",
    "Discriminator",
    "Fit",
    "Generator",
    "GeneratorMethod",
    "LeastSquares",
    "Lesson",
    "Logistic",
    "Recipe",
    "WarmUp",
    "Wasserstein",
    "goal_met",
    "gradient_penalty",
]
