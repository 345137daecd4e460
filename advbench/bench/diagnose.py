"""Why one run may say less than it seems to: flags on the target, and on what the attack did to its loss."""

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.metrics import log_odds
from advbench.results import Flag
from advbench.targets import Target
from advbench.tensors import Images, Rows, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["PROBED_IMAGES", "flags_that_concern", "loss_flags", "target_flags"]

PROBED_IMAGES = 32
"""How many clean images the target is looked at with: a handful, because every target is."""

FEW = 4
"""How many of them are put through it once more, without the others."""

ROUNDING = 1e-3
"""Relative to the largest score: by how much an image's scores may hang on its batch."""

ZERO_SHARE = 0.1
"""Of images without a gradient: more than these are no accident."""

SATURATED = 1e-6
"""The cross-entropy's gradient over that of the margin, below which float32's rounding of the softmax decides it."""

EXTREME = 100.0
"""Log-odds that stand for everything beyond them: there the stored softmax has been rounded to zero."""

_ON_GRADIENTS = frozenset({"zero-gradients", "nan-gradients", "vanishing-gradients"})
"""Flags on the target that matter to methods that differentiate it; the others matter to all."""


def target_flags(target: Target, images: Images) -> list[Flag]:
    """Look at a target with a few clean images: a few passes, and two gradients where it has any.

    Args:
        target: To be looked at, by the harness itself: no method's ledger is charged.
        images: ``(batch, 3, height, width)``.
    """
    if Capability.SCORES not in target.offers:
        return _label_flags(target, images)
    found = []
    first, second = target.scores(images), target.scores(images)
    apart = float((first[:FEW] - target.scores(images[:FEW])).abs().max())
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        largest = float((first - second).abs().max())
        found.append(Flag(name="randomised-target", found=f"scores differ by up to {largest:.3g} between two passes"))
    elif apart > ROUNDING * float(first.abs().max()):
        told = f"scores differ by up to {apart:.3g} between a batch of {FEW} and of {len(images)}"
        found.append(Flag(name="batch-dependent-target", found=told))
    if first.min() >= 0 and torch.allclose(first.sum(dim=1), torch.ones(len(first)), atol=1e-3):
        found.append(Flag(name="probabilities", found=f"{len(first)} of {len(first)} answers sum to 1, none negative"))
    if Capability.INPUT_GRADIENTS in target.offers:
        found += _gradient_flags(target, images)
    return found


def _label_flags(target: Target, images: Images) -> list[Flag]:
    first, second = target.labels(images), target.labels(images)
    apart = (first[:FEW] != target.labels(images[:FEW])).float().mean().item()
    changed = (first != second).float().mean().item()
    if changed:
        return [Flag(name="randomised-target", found=_share(changed, "labels differ between two passes"))]
    told = _share(apart, f"labels differ between a batch of {FEW} and of {len(images)}")
    return [Flag(name="batch-dependent-target", found=told)] if apart else []


def _gradient_flags(target: Target, images: Images) -> list[Flag]:
    gradients = target.jacobian(images, _entropy_and_margin, 2).gradients.flatten(2)
    finite = gradients.isfinite().all(dim=2).all(dim=1)
    entropy, margin = gradients[finite].abs().amax(dim=2).unbind(dim=1)
    zero = (entropy == 0) & (margin == 0)
    vanishing = entropy < SATURATED * margin
    found = []
    if not finite.all():
        share = _share((~finite).float().mean().item(), "images have a NaN or infinite gradient")
        found.append(Flag(name="nan-gradients", found=share))
    if zero.any() and zero.float().mean() > ZERO_SHARE:
        found.append(
            Flag(name="zero-gradients", found=_share(zero.float().mean().item(), "images' gradients are zero"))
        )
    if vanishing.any() and vanishing.float().mean() > 0.5:
        share = _share(vanishing.float().mean().item(), f"images' gradients are under {SATURATED:g} of their margin's")
        found.append(Flag(name="vanishing-gradients", found=share))
    return found


def _entropy_and_margin(scores: Scores, _part: Rows | slice) -> Tensor:
    """The cross-entropy of the predicted class, and by how much its logit leads: ``(batch, 2)``."""
    best = scores.topk(2, dim=1).values
    entropy = F.cross_entropy(scores, scores.argmax(dim=1), reduction="none")
    return torch.stack([entropy, best[:, 0] - best[:, 1]], dim=1)


def _share(share: float, what: str) -> str:
    return f"{share:.0%} of {what}"


def flags_that_concern(flags: list[Flag], needs: Needs) -> list[Flag]:
    """Of a target's flags, those that matter to a method: masked gradients do not to one that uses none."""
    differentiates = (needs.fit | needs.perturb) & {Capability.INPUT_GRADIENTS, Capability.WEIGHTS}
    return [flag for flag in flags if differentiates or flag.name not in _ON_GRADIENTS]


def loss_flags(samples: pa.Table, goal: Goal, *, only_changed: bool = False) -> list[Flag]:
    """Whether the target's cross-entropy moved towards the goal, over the images on which there was something to do.

    Args:
        samples: As in ``Evaluation``; without scores there is no loss to look at.
        goal: Degrade: over the images that were right. Enhance: over those that were wrong.
        only_changed: Leave out the images that came back as they were.
    """
    if "clean_scores" not in samples.column_names:
        return []
    labels = samples["label"].to_numpy()
    was_right = samples["clean_prediction"].to_numpy() == labels
    open_to_do = was_right if goal is Goal.DEGRADE else ~was_right
    if only_changed:
        open_to_do = open_to_do & (samples["linf"].to_numpy() > 0)
    if not open_to_do.any():
        return []
    before, after = (_odds(samples, f"{version}_scores", labels)[open_to_do] for version in ("clean", "raw"))
    moved = after < before if goal is Goal.DEGRADE else after > before
    if moved.mean() > 0.5:
        return []
    verb = "rose" if goal is Goal.DEGRADE else "fell"
    found = f"the loss {verb} for {moved.mean():.0%} of {len(moved)} images"
    untold = (before == after) & (np.abs(before) > EXTREME)
    if untold.any():
        found += f", and is too extreme to tell for {untold.mean():.0%}"
    return [Flag(name="loss-does-not-rise", found=found)]


def _odds(samples: pa.Table, column: str, labels: np.ndarray) -> np.ndarray:
    """The true class's log-odds: they fall as the loss rises, and tell it where float32 would round it to zero."""
    scores = samples[column].combine_chunks().flatten().to_numpy().reshape(len(labels), -1)
    truth: np.ndarray = log_odds(scores)[np.arange(len(labels)), labels]
    return truth
