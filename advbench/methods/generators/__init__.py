"""PGN's generator trained by other losses: directly through a white-box target."""

from advbench.methods.generators.advgan import AdvGAN
from advbench.methods.generators.atn import ATN
from advbench.methods.generators.gap import GAP

__all__ = ["ATN", "GAP", "AdvGAN"]
