"""What an attack is aimed at: a classifier on [0, 1] images, in eval mode, with frozen parameters."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from advbench.errors import AccessDenied, InvalidConfig, InvalidData
from advbench.files import digest, digest_state
from advbench.targets.fast import fast_form
from advbench.tensors import Images, Labels, SampleLosses, Scores
from advbench.types import ALL_CAPABILITIES, Capability

__all__ = [
    "CHUNK_PIXELS",
    "Classifier",
    "FunctionTarget",
    "JacobianAnswer",
    "ModuleTarget",
    "Normalise",
    "PullbackAnswer",
    "Target",
    "chunk_size",
    "differentiate",
    "hold",
]

UNKNOWN = "unknown"
"""The architecture of a target that does not say it."""

CHUNK_PIXELS = 256 * 3 * 96 * 96
"""Input values in one forward pass: bounds memory whatever batch is asked for."""


def chunk_size(images: Images) -> int:
    """How many of these images go through a network at once."""
    return max(1, min(512, CHUNK_PIXELS // max(1, images[0].numel()))) if len(images) else 1


class Normalise(nn.Module):
    """Shift and scale [0, 1] images to what a network was trained on.

    Args:
        mean: One value a channel.
        std: One value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Images) -> Tensor:
        """Normalise ``(batch, channels, height, width)``."""
        return (images - self.mean) / self.std


class Classifier(nn.Module):
    """A network with its normalisation inside: [0, 1] images in, logits out.

    Args:
        network: Maps normalised images to logits; auxiliary heads of training mode are passed through.
        normalise: Applied first.
    """

    def __init__(self, network: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network

    def forward(self, images: Images) -> Scores:
        """Score ``(batch, channels, height, width)``."""
        scores: Scores = self.network(self.normalise(images))
        return scores


@dataclass(frozen=True)
class JacobianAnswer:
    """Several losses and their gradients with respect to the images, and the logits, all from one forward pass.

    Args:
        gradients: ``(batch, count, channels, height, width)``.
        losses: ``(batch, count)``.
        scores: ``(batch, classes)``.
    """

    gradients: Tensor
    losses: Tensor
    scores: Scores


@dataclass(frozen=True)
class PullbackAnswer:
    """Logits, and a way back from them: for code of others, which asks for gradients only after it saw the logits.

    Args:
        scores: ``(batch, classes)``.
        pull: From a cotangent of the scores' shape to the gradient with respect to the images, through the same pass.
    """

    scores: Scores
    pull: Callable[[Tensor], Images]


class Target(ABC):
    """A fixed classifier. Methods reach it only through an ``Access`` handle; the harness scores it directly."""

    name: str
    architecture: str
    num_classes: int
    fingerprint: str
    """A hash of everything that decides its answers."""

    @property
    @abstractmethod
    def offers(self) -> frozenset[Capability]:
        """What this target can grant at all."""

    @abstractmethod
    def labels(self, images: Images, *, fast: bool = False) -> Labels:
        """Predict classes. ``fast`` allows the fast execution form, at its precision."""

    def scores(self, images: Images, *, fast: bool = False) -> Scores:  # noqa: ARG002
        """Give logits, float32."""
        raise AccessDenied(f"target '{self.name}' answers with labels only, not with scores")

    def jacobian(self, images: Images, losses: SampleLosses, count: int) -> JacobianAnswer:  # noqa: ARG002
        """Differentiate each of ``count`` losses a sample by itself, after one forward pass, in float32."""
        raise AccessDenied(f"target '{self.name}' is a function without gradients")

    def pullback(self, images: Images) -> PullbackAnswer:  # noqa: ARG002
        """Give logits, float32, with a way back to the images that holds this pass in memory."""
        raise AccessDenied(f"target '{self.name}' is a function without gradients")

    def module(self) -> nn.Module:
        """Give a copy of the module, which has its own parameters."""
        raise AccessDenied(f"target '{self.name}' is a function without weights")

    def to(self, device: torch.device) -> "Target":  # noqa: ARG002
        """Move to a device."""
        return self


def differentiate(
    images: Images,
    device: torch.device,
    scored: Callable[[Images, slice], tuple[Tensor, Scores]],
    count: int,
    size: int,
) -> JacobianAnswer:
    """Put images through a network in parts, and go back once for each of ``count`` losses.

    Args:
        images: At least one.
        device: Where the network is.
        scored: From inputs and the part of the batch that they are to losses, ``(part, count)``, and logits.
        count: Losses a sample.
        size: Images in a part.
    """
    gradients, values, scores = [], [], []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        piece = images.detach()[part]
        inputs = piece.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad():
            value, logits = scored(inputs, part)
        # The gradients of the input alone: no parameter's is ever computed.
        rows = [
            torch.autograd.grad(value[:, index].sum(), inputs, retain_graph=index + 1 < count)[0]
            for index in range(count)
        ]
        gradients.append(torch.stack(rows, dim=1).to(images.device))
        values.append(value.detach().to(images.device))
        scores.append(logits.detach().to(images.device))
    return JacobianAnswer(torch.cat(gradients).contiguous(), torch.cat(values), torch.cat(scores))


def hold(images: Images, device: torch.device, scored: Callable[[Images], Scores], size: int) -> PullbackAnswer:
    """Put images through a network in parts, and keep what the way back needs.

    Args:
        images: At least one.
        device: Where the network is.
        scored: From inputs to logits.
        size: Images in a part.
    """
    pieces = images.detach().to(device).split(size)
    inputs = [piece.contiguous(memory_format=torch.channels_last).requires_grad_() for piece in pieces]
    with torch.enable_grad():
        logits = [scored(piece) for piece in inputs]

    def pull(cotangent: Tensor) -> Images:
        parts = cotangent.detach().to(device).split(size)
        gradients = torch.autograd.grad(logits, inputs, list(parts), retain_graph=True)
        return torch.cat(gradients).to(images.device).contiguous()

    return PullbackAnswer(torch.cat(logits).detach().to(images.device), pull)


def _logits(answer: object) -> Tensor:
    if not isinstance(answer, Tensor):
        raise InvalidData(
            f"the target's network gave {type(answer).__name__}: expected its logits alone, a tensor (batch, classes); "
            "take them out in its forward"
        )
    return answer


class ModuleTarget(Target):
    """A classifier that is a torch module.

    It is put in eval mode and its parameters are frozen. Float32 answers come from the module as it is; the fast form
    (channels_last, bfloat16 where allowed, batch norm folded where the network is known) serves where a method allows
    it.

    Args:
        module: Maps [0, 1] images to logits.
        num_classes: How many classes it scores.
        name: For people.
        architecture: What a known-structure threat model reveals: a name of which others can build the network. Left
            out, such threat models do not fit.
        fast_dtype: The fast form's precision.
        folds: Whether the fast form folds batch norms, which changes logits by rounding alone: for torchvision's and
            timm's networks. Of code that nobody knows it might lose randomness, or gradients of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        name: str = "module",
        architecture: str = UNKNOWN,
        fast_dtype: torch.dtype = torch.float32,
        *,
        folds: bool = False,
    ) -> None:
        self._folds = folds
        self._module = module.eval().requires_grad_(False)
        self._fast: nn.Module | None = None
        self.fast_dtype = fast_dtype
        self.name, self.architecture, self.num_classes = name, architecture, num_classes
        self.fingerprint = digest([architecture, num_classes, digest_state(module.state_dict())])
        self._device = next((value.device for value in module.state_dict().values()), torch.device("cpu"))

    @property
    def offers(self) -> frozenset[Capability]:
        """Everything; its structure where it has a name."""
        return ALL_CAPABILITIES if self.architecture != UNKNOWN else ALL_CAPABILITIES - {Capability.STRUCTURE}

    def labels(self, images: Images, *, fast: bool = False) -> Labels:
        """Predict classes."""
        return self.scores(images, fast=fast).argmax(dim=1)

    def scores(self, images: Images, *, fast: bool = False) -> Scores:
        """Give logits, float32, on the device that the images are on."""
        if not len(images):
            return images.new_zeros((0, self.num_classes))
        module = self._fast_module() if fast else self._module
        dtype = self.fast_dtype if fast else torch.float32
        with torch.inference_mode():
            pieces = [  # of copies, which the module may write to
                _logits(module(piece.to(self._device, dtype, memory_format=torch.channels_last, copy=True)))
                for piece in images.detach().split(chunk_size(images))
            ]
            answer = torch.cat(pieces).float()
        return answer.to(images.device).clone()  # outside inference mode: an ordinary tensor again

    def jacobian(self, images: Images, losses: SampleLosses, count: int) -> JacobianAnswer:
        """Differentiate each loss through the float32 fast form, by one backward pass a loss."""
        if not len(images):
            nothing = images.new_zeros((0, count, *images.shape[1:]))
            return JacobianAnswer(nothing, images.new_zeros((0, count)), self.scores(images))
        module = self.differentiable()

        def scored(inputs: Images, part: slice) -> tuple[Tensor, Scores]:
            logits = module(inputs).float()
            return losses(logits, part), logits

        return differentiate(images, self._device, scored, count, chunk_size(images))

    def differentiable(self) -> nn.Module:
        """The float32 module that gradients are taken through."""
        return self._fast_module() if self.fast_dtype is torch.float32 else self._module

    def pullback(self, images: Images) -> PullbackAnswer:
        """Pass through the float32 fast form and keep what the way back needs."""
        if not len(images):
            return PullbackAnswer(self.scores(images), lambda cotangent: torch.zeros_like(images))  # noqa: ARG005
        module = self.differentiable()
        return hold(images, self._device, lambda inputs: module(inputs).float(), chunk_size(images))

    def module(self) -> nn.Module:
        """Give a copy, which cannot change this target."""
        return copy.deepcopy(self._module)

    def to(self, device: torch.device) -> "ModuleTarget":
        """Move to a device."""
        self._module.to(device)
        self._fast, self._device = None, device
        return self

    def _fast_module(self) -> nn.Module:
        if self._fast is None:
            self._fast = fast_form(self._module, self.fast_dtype, folds=self._folds)
        return self._fast


class FunctionTarget(Target):
    """A classifier that is a plain function, such as a call to a remote API. Only black-box threats fit it.

    Args:
        function: Maps images, float32 in [0, 1], ``(batch, 3, height, width)``, to labels ``(batch,)`` or scores
            ``(batch, classes)``.
        num_classes: How many classes it knows.
        outputs: Which of the two it returns.
        name: For people, and its identity: name the version of the model behind it.
    """

    def __init__(
        self,
        function: Callable[[Images], Tensor],
        num_classes: int,
        outputs: Literal["labels", "scores"] = "labels",
        name: str = "function",
    ) -> None:
        if not callable(function):
            raise InvalidConfig(f"a function target needs a function of images, got {type(function).__name__}")
        if outputs not in ("labels", "scores"):
            raise InvalidConfig(f"a function target's outputs are 'labels' or 'scores', got '{outputs}'")
        self._function, self._outputs = function, outputs
        self.name, self.architecture, self.num_classes = name, UNKNOWN, num_classes
        self.fingerprint = digest(["function", name, num_classes, outputs])

    @property
    def offers(self) -> frozenset[Capability]:
        """Labels, and scores where the function returns them."""
        scores = {Capability.SCORES} if self._outputs == "scores" else set()
        return frozenset({Capability.LABELS, Capability.TRUE_LABELS} | scores)

    def labels(self, images: Images, *, fast: bool = False) -> Labels:
        """Predict classes."""
        if self._outputs == "scores":
            return self.scores(images, fast=fast).argmax(dim=1)
        return self._call(images, torch.Size([len(images)])).long()

    def scores(self, images: Images, *, fast: bool = False) -> Scores:
        """Give the function's scores, where it returns them."""
        if self._outputs != "scores":
            return super().scores(images, fast=fast)
        return self._call(images, torch.Size([len(images), self.num_classes])).float()

    def _call(self, images: Images, shape: torch.Size) -> Tensor:
        if not len(images):
            return images.new_zeros(shape)
        with torch.no_grad():
            given = self._function(images.detach().cpu().clone())  # its own, to write to
        try:
            answer = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidData(
                f"target '{self.name}' returned {type(given).__name__}: expected a tensor of {self._outputs}"
            ) from error
        if answer.shape != shape:
            raise InvalidData(
                f"target '{self.name}' returned shape {tuple(answer.shape)} for {len(images)} images: "
                f"expected {tuple(shape)} for outputs='{self._outputs}'"
            )
        return answer.to(images.device)
