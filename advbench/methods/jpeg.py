"""JPEG re-compression."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from advbench.access import Access
from advbench.methods.base import Context, ImageMethod
from advbench.methods.geometry import clip_to_budget
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Goal

__all__ = ["JPEG"]


class JPEG(ImageMethod):
    """What is left of an image after it was saved as a JPEG file and read again.

    Dziugaite, Ghahramani, Roy 2016, 'A study of the effect of JPG compression on adversarial images',
    https://arxiv.org/abs/1608.00853. Images are ``(batch, 3, height, width)``, rounded to 8 bits before. Nothing is
    asked of the target, and both goals are served alike.

    A budget means: the perturbation, re-compressed minus clean, is projected onto it; epsilon is in [0, 1] pixel scale.
    Without one the re-compressed image is given as it is. At high quality the perturbation is smaller than most
    budgets, and does not fill them. Deviation from the paper: there the images that are compressed are adversarial
    ones; here they are the clean ones, as for every other enhancer.

    Args:
        quality: 1 to 95, as Pillow counts; its chroma is halved in both directions.
    """

    quality: int = Field(default=75, ge=1, le=95)

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Nothing."""
        return Needs()

    def perturb(self, images: Images, access: Access, context: Context) -> Images:  # noqa: ARG002
        """Compress and decompress."""
        if not len(images):
            return images
        decoded = torch.from_numpy(np.stack(list(self._recompressed(images)))).to(images.device)
        return clip_to_budget(decoded.permute(0, 3, 1, 2).float().div(255), images, context.budget).contiguous()

    def _recompressed(self, images: Images) -> Iterator[NDArray[np.uint8]]:
        """Each image in memory; the codec releases the interpreter's lock, so they go side by side."""
        levels = images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        with ThreadPoolExecutor() as pool:
            yield from pool.map(partial(_recompress, quality=self.quality), levels)


def _recompress(levels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(levels).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.array(image)
