"""A network's fast execution form: the same function, with less work for each image."""

import copy

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

__all__ = ["fast_form", "train_mode"]


def fast_form(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Copy a network in eval mode with its batch norms folded into the convolutions before them, in channels_last.

    Logits change by rounding alone in float32 (a test holds this); bfloat16 halves the time again and moves some
    labels, so it serves fitting and never scoring. A network that torch.fx cannot trace keeps its batch norms.

    Args:
        module: In eval mode, with frozen parameters.
        dtype: Of the copy's parameters and inputs.

    Returns:
        A copy that does not share parameters with ``module``.
    """
    try:
        fast = fuse(module, no_trace=False)
    except Exception:  # torch.fx raises whatever the traced code raises
        fast = copy.deepcopy(module)
    frozen: nn.Module = fast.eval().requires_grad_(False).to(dtype)
    return frozen.to(memory_format=torch.channels_last)


def train_mode(module: nn.Module) -> nn.Module:
    """Put a network in train mode, but for batch norms that were folded into their convolutions before it was stored.

    Such a layer has a shift and no statistics: mean 0, variance 1. Normalised by a batch's own, as in training, its
    network is another function than the one that was learnt, and its pretrained weights are worth nothing.
    """
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and _is_folded(layer):
            layer.eval()
    return module


def _is_folded(layer: nn.BatchNorm2d) -> bool:
    mean, variance, shift = layer.running_mean, layer.running_var, layer.bias
    if mean is None or variance is None or shift is None:
        return False
    has_statistics = mean.any() or (variance != 1).any()
    return bool(shift.any()) and not has_statistics  # a layer that is only untrained has no shift either
