"""A network's fast execution form: the same function, with less work for each image."""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse

from advbench.datasets import LabelledImages

__all__ = ["fast_form", "restore_batch_norms"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

MEASURED_IMAGES = 256
"""On which folded batch norms take their statistics."""


def fast_form(module: nn.Module, dtype: torch.dtype = torch.float32, *, folds: bool = True) -> nn.Module:
    """Copy a network in eval mode with its batch norms folded into the convolutions before them, in channels_last.

    Logits change by rounding alone in float32 (a test holds this); bfloat16 halves the time again and moves some
    labels, so it serves fitting and never scoring. A network that torch.fx cannot trace keeps its batch norms; so
    does one that uses a convolution twice, which torch.fx would fold as if it were two.

    Args:
        module: In eval mode, with frozen parameters.
        dtype: Of the copy's parameters and inputs.
        folds: Whether batch norms are folded. Only for networks whose code is known: torch.fx runs a module's Python
            once, and what it draws at random, or makes of its gradients, is lost without an error.

    Returns:
        A copy that does not share parameters with ``module``.
    """
    folded = _folded(module) if folds else None
    fast = copy.deepcopy(module) if folded is None else folded
    frozen: nn.Module = fast.eval().requires_grad_(False)
    if dtype is not torch.float32:  # what has parameters of another type keeps them, and sees to its inputs itself
        frozen = frozen.to(dtype)
    return frozen.to(memory_format=torch.channels_last)


def _folded(module: nn.Module) -> nn.Module | None:
    """A copy whose batch norms are folded; None where torch.fx cannot do it, or does it wrongly."""
    try:
        fast = fuse(module, no_trace=False)
    except Exception:  # torch.fx raises whatever the traced code raises
        return None
    assert isinstance(fast, GraphModule)
    called = Counter(node.target for node in fast.graph.nodes if node.op == "call_module")
    twice = [name for name, count in called.items() if count > 1]
    return None if any(isinstance(fast.get_submodule(str(name)), CONVOLUTIONS) for name in twice) else fast


def restore_batch_norms(module: nn.Module, images: LabelledImages) -> None:
    """Give batch norms that were folded into their convolutions, before a network was stored, statistics again.

    Such a layer has a shift and no statistics: mean 0, variance 1. Normalised by a batch's own, as in training, its
    network is another function than the one that was learnt; left as it is, rates that any other network is trained
    with destroy it. Here each takes the moments of what reaches it as its statistics, and the scale and shift that undo
    them: the network is the same function, and can be trained as others.

    Args:
        module: Changed in place, and put in eval mode.
        images: That it will be trained on; some are looked at.
    """
    folded = [layer for layer in module.eval().modules() if isinstance(layer, nn.BatchNorm2d) and _is_folded(layer)]
    if not folded:
        return
    hooks = [layer.register_forward_pre_hook(_take_moments) for layer in folded]
    spread = torch.linspace(0, len(images) - 1, min(len(images), MEASURED_IMAGES)).long()
    with torch.no_grad():
        module(images.images(spread).to(next(module.parameters()).device))
    for hook in hooks:
        hook.remove()


def _take_moments(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    assert isinstance(layer, nn.BatchNorm2d)
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    scale = layer.weight / (1 + layer.eps) ** 0.5
    layer.bias.add_(scale * mean)
    layer.weight.copy_(scale * (variance + layer.eps).sqrt())
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)


def _is_folded(layer: nn.BatchNorm2d) -> bool:
    mean, variance, shift = layer.running_mean, layer.running_var, layer.bias
    if mean is None or variance is None or shift is None:
        return False
    has_statistics = mean.any() or (variance != 1).any()
    return bool(shift.any()) and not has_statistics  # a layer that is only untrained has no shift either
