"""Measure how far small additive perturbations push an image classifier, in both directions: worse and better."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("advbench")
