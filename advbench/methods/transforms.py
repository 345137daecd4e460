"""What momentum methods do to images before a gradient is taken, and to the gradient after."""

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.tensors import Images

__all__ = ["resize_and_pad", "smooth"]


def resize_and_pad(images: Images, sizes: Tensor, tops: Tensor, lefts: Tensor) -> Images:
    """Shrink each image to its own size, bilinearly, and put it somewhere on a black one of the old size.

    Both are linear in each direction, so that they are a product with one matrix from either side: one product for
    all samples, whatever their sizes, which autograd differentiates.

    Args:
        images: ``(batch, channels, height, width)``.
        sizes: The new sizes as shares of the old, ``(batch,)``, rounded to whole pixels.
        tops: Where in the free room an image goes, as shares of it in [0, 1), ``(batch,)``.
        lefts: The same from the left.
    """
    rows = _shrink(images.shape[-2], sizes, tops).to(images.device)
    columns = _shrink(images.shape[-1], sizes, lefts).to(images.device)
    return rows.unsqueeze(1) @ images @ columns.transpose(1, 2).unsqueeze(1)


def _shrink(length: int, sizes: Tensor, places: Tensor) -> Tensor:
    """Matrices from old pixels to new ones, ``(batch, length, length)``."""
    new = (sizes * length).round().clamp(1, length).view(-1, 1)
    before = (places.view(-1, 1) * (length - new + 1)).floor()
    position = torch.arange(length) - before  # of each pixel in the small image
    source = ((position + 0.5) * length / new - 0.5).clamp(0, length - 1)
    weights = (1 - (source.unsqueeze(2) - torch.arange(length)).abs()).clamp(min=0)
    return weights * ((position >= 0) & (position < new)).unsqueeze(2)


def smooth(gradient: Images, width: int) -> Images:
    """Convolve each channel with a Gaussian of ``width`` pixels that reaches to three standard deviations."""
    if width < 2:
        return gradient
    weights = torch.exp(-torch.linspace(-3, 3, width, device=gradient.device).square() / 2)
    weights = weights / weights.sum()
    channels = gradient.shape[1]
    kernel = weights.expand(channels, 1, width)
    across = F.conv2d(gradient, kernel.unsqueeze(2), padding="same", groups=channels)
    return F.conv2d(across, kernel.unsqueeze(3), padding="same", groups=channels)
