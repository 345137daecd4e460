"""The perturbation generation network."""

from advbench.methods.pgn.method import PGN
from advbench.methods.pgn.networks import DECODER_CHANNELS, Discriminator, Generator
from advbench.methods.pgn.objectives import OBJECTIVES, LeastSquares, Logistic, goal_met
from advbench.methods.pgn.training import Fit, Recipe

__all__ = [
    "DECODER_CHANNELS",
    "OBJECTIVES",
    "PGN",
    "Discriminator",
    "Fit",
    "Generator",
    "LeastSquares",
    "Logistic",
    "Recipe",
    "goal_met",
]
