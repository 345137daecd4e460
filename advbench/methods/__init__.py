"""Attacks and enhancers, one interface for all."""

from advbench.methods.base import Context, ImageMethod, Method, Perturber, Setting, TrainingImages
from advbench.methods.build import build_method
from advbench.methods.geometry import clip_to_budget
from advbench.methods.transfer import Transfer

__all__ = [
    "Context",
    "ImageMethod",
    "Method",
    "Perturber",
    "Setting",
    "TrainingImages",
    "Transfer",
    "build_method",
    "clip_to_budget",
]
