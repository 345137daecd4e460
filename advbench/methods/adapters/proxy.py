"""What another library's code is given in place of the target: a module that asks through access, and is counted."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.access import Access
from advbench.errors import AdvbenchError, InvalidConfig
from advbench.tensors import Images, Rows, Scores
from advbench.types import Capability

__all__ = ["Proxy"]


class _Counted(torch.autograd.Function):
    """Logits whose way back is asked for through access: one query forward, one gradient an image backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Images, proxy: "Proxy", rows: Rows) -> Scores:
        answer = proxy.access.pullback(images, rows)
        ctx.pull = answer.pull  # type: ignore[attr-defined]
        ctx.proxy = proxy  # type: ignore[attr-defined]
        return answer.scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, cotangent: Tensor) -> tuple[Tensor, None, None]:
        return ctx.pull(cotangent), None, None  # type: ignore[attr-defined]


class Proxy(nn.Module):
    """A stand-in for the target that holds no network: ``(batch, 3, height, width)`` to ``(batch, classes)``.

    Queries are attributed exactly: to the samples at hand in their order where as many are asked about, and to the only
    one where there is one. Anything else is refused, as whose queries they are could only be guessed.

    Args:
        access: The door to the target.
        rows: The samples at hand.
        reach: LABELS answers with one-hot labels, SCORES with logits, INPUT_GRADIENTS with logits that can be
            differentiated once.
        device: Where the images are; libraries look for a parameter to learn it from.
        name: For messages.
    """

    def __init__(self, access: Access, rows: Rows, reach: Capability, device: torch.device, name: str) -> None:
        super().__init__()
        self.access, self.rows, self.reach, self.name = access, rows, reach, name
        self.refusal: AdvbenchError | None = None
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, images: Images) -> Scores:
        """Ask. A refusal is kept as well as raised, as the libraries' code may swallow it."""
        try:
            return self._ask(images.float())
        except AdvbenchError as error:
            self.refusal = error
            raise

    def _ask(self, images: Images) -> Scores:
        rows = self._rows(len(images))
        if self.reach is Capability.LABELS:
            return F.one_hot(self.access.labels(images.detach(), rows), self.access.num_classes).float()
        if self.reach is Capability.INPUT_GRADIENTS and torch.is_grad_enabled() and images.requires_grad:
            answer: Scores = _Counted.apply(images, self, rows)
            return answer
        return self.access.scores(images, rows)

    def _rows(self, count: int) -> Rows:
        if count == len(self.rows):
            return self.rows
        if len(self.rows) == 1:
            return self.rows.expand(count)
        raise InvalidConfig(
            f"{self.name} asked about {count} images while {len(self.rows)} are at hand, so its queries cannot be "
            "counted for each image: run it with --batch 1"
        )
