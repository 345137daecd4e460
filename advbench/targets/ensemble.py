"""Several networks that answer as one."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from advbench.errors import InvalidConfig
from advbench.files import digest
from advbench.targets.base import (
    JacobianAnswer,
    ModuleTarget,
    PullbackAnswer,
    Target,
    chunk_size,
    differentiate,
    hold,
)
from advbench.tensors import Images, Labels, SampleLosses, Scores
from advbench.types import ALL_CAPABILITIES, Capability

__all__ = ["EnsembleTarget", "Fusion"]

Fusion = Literal["logits", "probabilities", "loss"]


class EnsembleTarget(Target):
    """Several networks of the same classes, fused with equal weights, for a perturbation that is to fool them all.

    Liu, Chen, Liu, Song 2016, 'Delving into Transferable Adversarial Examples and Black-box Attacks',
    https://arxiv.org/abs/1611.02770, fuse probabilities; Dong et al. 2018, 'Boosting Adversarial Attacks with
    Momentum', https://arxiv.org/abs/1710.06081, compare this with logits and losses. A gradient goes back once, through
    all members.

    With ``logits``, scores are the mean of the members'; with ``probabilities``, the logarithm of the mean of their
    softmax. With ``loss``, a loss is computed on the scores of each member, and the mean is differentiated: one that
    picks a class by the scores picks each member's own; the ensemble's scores are then the mean of the log-softmax.

    Args:
        members: The networks, all on one device.
        fusion: What is averaged.
    """

    def __init__(self, members: Sequence[ModuleTarget], fusion: Fusion = "logits") -> None:
        classes = {member.num_classes for member in members}
        if len(classes) != 1:
            raise InvalidConfig(f"an ensemble's members score the same classes, got {sorted(classes)} of them")
        self._members, self._fusion = tuple(members), fusion
        self._device = torch.device("cpu")
        self.name = "+".join(member.name for member in members)
        self.architecture = "+".join(member.architecture for member in members)
        (self.num_classes,) = classes
        self.fingerprint = digest(["ensemble", fusion, [member.fingerprint for member in members]])

    @property
    def offers(self) -> frozenset[Capability]:
        """Everything but the weights, as it is no single module."""
        return ALL_CAPABILITIES - {Capability.WEIGHTS}

    def labels(self, images: Images, *, fast: bool = False) -> Labels:
        """Predict classes."""
        return self.scores(images, fast=fast).argmax(dim=1)

    def scores(self, images: Images, *, fast: bool = False) -> Scores:
        """Give the fused scores."""
        return self._fuse(torch.stack([member.scores(images, fast=fast) for member in self._members]))

    def jacobian(self, images: Images, losses: SampleLosses, count: int) -> JacobianAnswer:
        """Differentiate each loss through all members at once.

        Raises:
            InvalidConfig: Several losses under ``loss`` fusion, where members would differ in what each one is.
        """
        if self._fusion == "loss" and count > 1:
            raise InvalidConfig(
                "fusion 'loss' averages one loss a sample, and this method differentiates several scores: "
                "fuse logits or probabilities"
            )
        if not len(images):
            nothing = images.new_zeros((0, count, *images.shape[1:]))
            return JacobianAnswer(nothing, images.new_zeros((0, count)), self.scores(images))
        modules = [member.differentiable() for member in self._members]

        def scored(inputs: Images, part: slice) -> tuple[Tensor, Scores]:
            logits = torch.stack([module(inputs).float() for module in modules])
            fused = self._fuse(logits)
            if self._fusion == "loss":
                return torch.stack([losses(own, part) for own in logits]).mean(dim=0), fused
            return losses(fused, part), fused

        size = max(1, chunk_size(images) // len(modules))  # all members' activations are held at once
        return differentiate(images, self._device, scored, count, size)

    def pullback(self, images: Images) -> PullbackAnswer:
        """Pass through all members at once and keep what the way back needs.

        Raises:
            InvalidConfig: Under ``loss`` fusion, which has to see the loss.
        """
        if self._fusion == "loss":
            raise InvalidConfig(
                "fusion 'loss' has to see the loss, and this method keeps it: fuse logits or probabilities"
            )
        if not len(images):
            return PullbackAnswer(self.scores(images), lambda cotangent: torch.zeros_like(images))  # noqa: ARG005
        modules = [member.differentiable() for member in self._members]

        def scored(inputs: Images) -> Scores:
            return self._fuse(torch.stack([module(inputs).float() for module in modules]))

        return hold(images, self._device, scored, max(1, chunk_size(images) // len(modules)))

    def to(self, device: torch.device) -> "EnsembleTarget":
        """Move all members to a device."""
        for member in self._members:
            member.to(device)
        self._device = device
        return self

    def _fuse(self, logits: Tensor) -> Scores:
        """``(members, batch, classes) -> (batch, classes)``."""
        if self._fusion == "logits":
            return logits.mean(dim=0)
        if self._fusion == "loss":
            return logits.log_softmax(dim=2).mean(dim=0)
        return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
