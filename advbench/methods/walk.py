"""Images that move step by step, of which those that have arrived leave the batch."""

import torch
from torch import Tensor

from advbench.methods.gradient import Aim
from advbench.tensors import Images, Rows

__all__ = ["Walk"]


class Walk:
    """The samples that still move.

    Args:
        images: The clean images, ``(batch, 3, height, width)``.
        start: Where each one sets out.
        aim: Where each one is to go.
        rows: Which samples they are.
    """

    def __init__(self, images: Images, start: Images, aim: Aim, rows: Rows) -> None:
        self.images, self.perturbed, self.aim, self.rows = images, start, aim, rows
        self._places = torch.arange(len(images), device=images.device)
        self._arrived = start.clone()

    def __len__(self) -> int:
        return len(self.images)

    def leave(self, arrived: Tensor) -> Tensor:
        """Let samples go, ``(batch,)``; say which of those at hand stay."""
        stay = ~arrived
        if arrived.any():
            self._arrived[self._places[arrived]] = self.perturbed[arrived]
            self.images, self.perturbed = self.images[stay], self.perturbed[stay]
            self.aim, self.rows = self.aim.of(stay), self.rows[stay.cpu()]
            self._places = self._places[stay]
        return stay

    def result(self) -> Images:
        """Where all samples are now, in the order in which they set out."""
        self._arrived[self._places] = self.perturbed
        return self._arrived
