"""Balls, lengths and steps in the norms that bound perturbations."""

import torch
from torch import Tensor

from advbench.tensors import Images
from advbench.threat import Budget
from advbench.types import Norm

__all__ = ["clip_to_budget", "dual", "lengths", "movable", "project", "sparse_step", "unit_step"]

SUM_ROUNDING = 3e-7
"""By which part a float32 sum over a photograph's values may err."""

SMALLEST_SHRINK = 1e-7
"""By which part an image is drawn in that rounding has left beyond its budget; doubled until it is within."""

DUALS = {Norm.LINF: Norm.L1, Norm.L2: Norm.L2, Norm.L1: Norm.LINF}


def dual(norm: Norm) -> Norm:
    """The norm in which a gradient's length is the most that a step of unit ``norm`` can gain."""
    return DUALS[norm]


def lengths(delta: Tensor, norm: Norm = Norm.L2) -> Tensor:
    """Norms over all but the first axis, ``(batch, ...) -> (batch, 1, 1, 1)``."""
    flat = delta.flatten(1)
    if norm is Norm.LINF:
        return flat.abs().amax(dim=1).view(-1, 1, 1, 1)
    # vector_norm adds one by one, and errs by up to a hundred-thousandth.
    sizes = flat.abs().sum(dim=1) if norm is Norm.L1 else flat.square().sum(dim=1).sqrt()
    return sizes.view(-1, 1, 1, 1)


def unit_step(gradient: Images, norm: Norm) -> Images:
    """A step of unit length along a gradient; zero where the gradient is.

    Under linf and l2, the step along which a linear function rises most. Under l1 that would move a single pixel, which
    [0, 1] soon stops, so the step is the gradient itself, scaled: as FGM is understood elsewhere.
    """
    if norm is Norm.LINF:
        return gradient.sign()
    largest = gradient.abs().flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    # Of a target that is certain, gradients are so small that their squares would be nothing.
    scaled = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)
    return scaled / lengths(scaled, norm).clamp(min=1)


def movable(gradients: Tensor, images: Tensor) -> Tensor:
    """Gradients to be followed, without the pixels that lie on an edge of [0, 1] and would have to cross it."""
    blocked = ((images <= 0) & (gradients < 0)) | ((images >= 1) & (gradients > 0))
    return gradients.masked_fill(blocked, 0)


def sparse_step(gradient: Images, images: Images, share: float) -> Images:
    """A step of unit l1 length along the signs of a gradient's largest values, all of one size.

    Tramèr and Boneh 2019, 'Adversarial Training and Robustness for Multiple Perturbations' (SLIDE). Values that [0, 1]
    keeps from moving are passed over, and are pushed outwards as far as the others move, so that a projection onto
    budget and [0, 1] does not take back what heavier values have gained.

    Args:
        gradient: ``(batch, channels, height, width)``.
        images: Where the step starts.
        share: Of an image's values, how many move.
    """
    # Rounding may leave a value just short of the edge, where it would be chosen again and again.
    stuck = ((images < 1e-5) & (gradient < 0)) | ((images > 1 - 1e-5) & (gradient > 0))
    free = gradient.masked_fill(stuck, 0)
    sizes = free.abs().flatten(1)
    count = max(1, round(share * sizes.shape[1]))
    smallest = sizes.topk(count, dim=1).values[:, -1:].view(-1, 1, 1, 1)
    moving = free.sign() * (free.abs() >= smallest)
    pinned = gradient.sign() * (stuck & (gradient.abs() >= smallest))
    return (moving + pinned) / lengths(moving, Norm.L1).clamp(min=1)


def project(delta: Images, norm: Norm, epsilon: float | Tensor) -> Images:
    """Bring perturbations to the nearest of norm at most ``epsilon``, a number or ``(batch, 1, 1, 1)``."""
    if norm is Norm.LINF:
        return torch.maximum(torch.minimum(delta, _like(epsilon, delta)), -_like(epsilon, delta))
    if norm is Norm.L2:
        return delta * (_like(epsilon, delta) / lengths(delta).clamp(min=1e-12)).clamp(max=1)
    return _project_l1(delta, _like(epsilon, delta))


def _like(value: float | Tensor, delta: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=delta.dtype, device=delta.device)


def _project_l1(delta: Images, epsilon: Tensor, room: float | Tensor = torch.inf) -> Images:
    """Bring perturbations to the nearest of l1 norm at most ``epsilon`` with no value larger than its ``room``.

    That is ``clamp(size - threshold, 0, room)`` of each value, with one threshold an image (Duchi et al. 2008 without
    ``room``; Croce and Hein 2021, 'Mind the box', with it). The norm falls piecewise linearly with the threshold, so
    the threshold is found on the piece that passes epsilon.
    """
    sizes = delta.abs().flatten(1).double()
    rooms = torch.as_tensor(room, dtype=torch.double, device=delta.device).expand_as(delta).flatten(1)
    radius = epsilon.double().reshape(-1, 1)
    norms = torch.minimum(sizes, rooms).sum(dim=1, keepdim=True)
    if (norms <= radius).all():
        threshold = norms.new_zeros(1)  # sorting costs more than the rest of a step
    else:
        ends = torch.cat([(sizes - rooms).clamp(min=0), sizes], dim=1)  # between its two ends, a value shrinks
        ends, order = ends.sort(dim=1)
        shrinking = torch.where(order < sizes.shape[1], 1, -1).cumsum(dim=1)[:, :-1]
        after = norms - (shrinking * ends.diff(dim=1)).cumsum(dim=1)  # the norm at each end but the first
        piece = (after > radius).sum(dim=1, keepdim=True).clamp(max=after.shape[1] - 1)
        threshold = ends.gather(1, piece + 1) - (radius - after.gather(1, piece)) / shrinking.gather(1, piece).clamp(
            min=1
        )
        threshold = torch.where(norms > radius, threshold, 0)
    kept = (sizes - threshold).clamp(min=0).minimum(rooms)
    return delta.sign() * kept.view_as(delta).to(delta.dtype)


def clip_to_budget(perturbed: Images, images: Images, budget: Budget) -> Images:
    """Move perturbed images to the nearest within the budget around the clean ones, then into [0, 1].

    Clipping to [0, 1] cannot move an image further from a clean one that lies there. Under l1 it would leave much of
    the budget unused, so there the nearest image is found among those in [0, 1].
    """
    delta = perturbed - images
    if budget.epsilon is not None and budget.norm is Norm.L1:
        room = torch.where(delta > 0, 1 - images, images)
        delta = _project_l1(delta, _like(budget.epsilon, delta), room)
    elif budget.epsilon is not None:
        delta = project(delta, budget.norm, budget.epsilon)
    clipped = (images + delta).clamp(0, 1)
    return clipped if budget.epsilon is None else _rounded_within(clipped, images, budget.norm, budget.epsilon)


def _rounded_within(perturbed: Images, images: Images, norm: Norm, epsilon: float) -> Images:
    """Draw those images in a little that rounding has left beyond the budget.

    ``images + delta`` is rounded value by value, which adds up over thousands of values that have each moved a little;
    and so little that scaling them all may change none. So they are drawn in further, until it shows.
    """
    if norm is Norm.LINF or not len(images):
        return perturbed
    shrink = SMALLEST_SHRINK
    while True:
        over = lengths(perturbed - images, norm).flatten() > epsilon * (1 + SUM_ROUNDING)
        if not over.any():
            return perturbed
        perturbed = perturbed.clone()
        perturbed[over] = images[over] + (1 - shrink) * (perturbed[over] - images[over])
        shrink = min(1.0, 2 * shrink)
