"""Balls, lengths and steps in the norms that bound perturbations."""

import torch
from torch import Tensor

from advbench.tensors import Images
from advbench.threat import Budget
from advbench.types import Norm

__all__ = ["clip_to_budget", "dual", "lengths", "movable", "project", "unit_step"]

DUALS = {Norm.LINF: Norm.L1, Norm.L2: Norm.L2, Norm.L1: Norm.LINF}


def dual(norm: Norm) -> Norm:
    """The norm in which a gradient's length is the most that a step of unit ``norm`` can gain."""
    return DUALS[norm]


def lengths(delta: Tensor, norm: Norm = Norm.L2) -> Tensor:
    """Norms over all but the first axis, ``(batch, ...) -> (batch, 1, 1, 1)``."""
    order = {Norm.LINF: torch.inf, Norm.L2: 2, Norm.L1: 1}[norm]
    norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    return norms.view(-1, 1, 1, 1)


def unit_step(gradient: Images, norm: Norm) -> Images:
    """A step of unit length along a gradient; zero where the gradient is.

    Under linf and l2, the step along which a linear function rises most. Under l1 that would move a single pixel, which
    [0, 1] soon stops, so the step is the gradient itself, scaled: as FGM is understood elsewhere.
    """
    if norm is Norm.LINF:
        return gradient.sign()
    return gradient / lengths(gradient, norm).clamp(min=1e-12)


def movable(gradients: Tensor, images: Tensor) -> Tensor:
    """Gradients to be followed, without the pixels that lie on an edge of [0, 1] and would have to cross it."""
    blocked = ((images <= 0) & (gradients < 0)) | ((images >= 1) & (gradients > 0))
    return gradients.masked_fill(blocked, 0)


def project(delta: Images, norm: Norm, epsilon: float | Tensor) -> Images:
    """Bring perturbations to the nearest of norm at most ``epsilon``, a number or ``(batch, 1, 1, 1)``."""
    if norm is Norm.LINF:
        return torch.maximum(torch.minimum(delta, _like(epsilon, delta)), -_like(epsilon, delta))
    if norm is Norm.L2:
        return delta * (_like(epsilon, delta) / lengths(delta).clamp(min=1e-12)).clamp(max=1)
    return _project_l1(delta, _like(epsilon, delta))


def _like(value: float | Tensor, delta: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=delta.dtype, device=delta.device)


def _project_l1(delta: Images, epsilon: Tensor) -> Images:
    """Duchi et al. 2008, 'Efficient Projections onto the l1-Ball', figure 1: a soft threshold found by sorting."""
    sizes = delta.abs().flatten(1)
    radius = epsilon.expand(len(delta), *epsilon.shape[1:]).reshape(-1, 1) if epsilon.ndim else epsilon
    ordered = sizes.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - radius
    ranks = torch.arange(1, sizes.shape[1] + 1, device=delta.device)
    kept = (ordered * ranks > excess).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = (excess.gather(1, kept - 1) / kept).clamp(min=0)
    return delta.sign() * (sizes - threshold).clamp(min=0).view_as(delta)


def clip_to_budget(perturbed: Images, images: Images, budget: Budget) -> Images:
    """Move perturbed images to the nearest within the budget around the clean ones, then into [0, 1].

    Clipping to [0, 1] cannot move an image further from a clean one that lies there.
    """
    delta = perturbed - images
    if budget.epsilon is not None:
        delta = project(delta, budget.norm, budget.epsilon)
    return (images + delta).clamp(0, 1)
