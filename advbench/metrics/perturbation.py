"""How far perturbed images lie from clean ones: one number a sample. Pixels in [0, 1] unless said otherwise."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports need these metrics' names without waiting for torch
    from torch import Tensor

    from advbench.tensors import Images

__all__ = ["PerturbationSizes", "perturbation_sizes", "structural_similarity", "to_uint8"]


@dataclass(frozen=True)
class PerturbationSizes:
    """Sizes of each sample's perturbation, ``(batch,)`` each.

    Args:
        l1: Sum of absolute values over channels and pixels.
        l2: Euclidean norm.
        linf: Largest absolute value.
        rmsd: Root mean square deviation, l2 / sqrt(values).
        psnr: Peak signal-to-noise ratio in dB, -20 log10(rmsd), for a peak of 1; infinite where nothing moved.
    """

    l1: "Tensor"
    l2: "Tensor"
    linf: "Tensor"
    rmsd: "Tensor"
    psnr: "Tensor"


def perturbation_sizes(images: "Images", perturbed: "Images") -> PerturbationSizes:
    """Measure ``perturbed - images`` in float64, which float32 sums over 150,000 pixels would blur."""
    delta = (perturbed.double() - images.double()).flatten(1)
    l2 = delta.norm(dim=1)
    rmsd = l2 / delta.shape[1] ** 0.5
    return PerturbationSizes(
        l1=delta.abs().sum(dim=1),
        l2=l2,
        linf=delta.abs().amax(dim=1),
        rmsd=rmsd,
        psnr=-20 * rmsd.log10(),
    )


def structural_similarity(images: "Images", perturbed: "Images") -> "Tensor":
    """SSIM (Wang et al. 2004; Gaussian window of width 1.5) of each sample, ``(batch,)``; both in [0, 1]."""
    if not len(images):
        return images.new_zeros(0)
    from torchmetrics.functional.image import structural_similarity_index_measure  # lazy: takes a second

    similarity = structural_similarity_index_measure(perturbed, images, reduction="none", data_range=1.0)
    reshaped: Tensor = similarity.reshape(len(images))  # type: ignore[union-attr]
    return reshaped


def to_uint8(images: "Images") -> "Images":
    """What survives being saved as an 8-bit image: rounded (not cut) to the nearest of 256 levels, as floats again."""
    return images.clamp(0, 1).mul(255).round().div(255)
