"""Transfer: a method run on the attacker's surrogate and applied to a target that it never asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import SerializeAsAny
from torch import Tensor

from advbench.access import Access, QueryLedger, perturb_access
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.targets import ClassifierSpec, ModuleTarget, Target
from advbench.tensors import Images
from advbench.threat import THREATS, Needs
from advbench.types import Capability, Goal

__all__ = ["Transfer"]


class Transfer(Method):
    """Perturb against a surrogate with all access to it, and show the target only the result.

    Liu, Chen, Liu, Song 2016, 'Delving into Transferable Adversarial Examples and Black-box Attacks',
    https://arxiv.org/abs/1611.02770, with one surrogate. The surrogate is trained on the attacker's own images. The
    target is never asked anything, so this fits every threat model.

    Args:
        inner: The method. It learns nothing before it perturbs: ``ImageMethod``.
        surrogate: What the attacker trains.
    """

    inner: SerializeAsAny[Method]
    surrogate: ClassifierSpec

    def resolve(self, setting: Setting) -> Self:
        """Resolve the inner method."""
        return self.model_copy(update={"inner": self.inner.resolve(setting)})

    def needs(self, goal: Goal) -> Needs:
        """Of the target, only what no surrogate can tell: the true labels, where the inner method wants them."""
        truth = frozenset({Capability.TRUE_LABELS})
        return Needs(fit=truth, perturb=self.inner.needs(goal).perturb & truth)

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train the surrogate, or take it from the cache, and fit the inner method."""
        return _Transferred(self._target(context), self.inner.fit(access, train, context))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the surrogate from the cache again."""
        return _Transferred(self._target(context), self.inner.restore(state, context))

    def _target(self, context: Context) -> Target:
        """The surrogate as the inner method's target."""
        architecture = self.surrogate.architecture
        target = ModuleTarget(context.surrogate(self.surrogate), context.num_classes, architecture, architecture)
        return target.to(context.runtime.torch_device)


@dataclass(frozen=True)
class _Transferred:
    surrogate: Target
    inner: Perturber

    def perturb(self, images: Images, access: Access) -> Images:
        granted = access.grants(Capability.TRUE_LABELS)
        truth = access.true_labels if granted else torch.zeros(len(images), dtype=torch.long)
        threat = THREATS["white-box"].with_true_labels() if granted else THREATS["white-box"]
        ledger = QueryLedger(int(access.rows.max()) + 1 if len(images) else 0)
        return self.inner.perturb(images, perturb_access(self.surrogate, threat, ledger, access.rows, truth))

    def state(self) -> dict[str, Tensor]:
        return self.inner.state()

    def history(self) -> Sequence[Mapping[str, float]]:
        return self.inner.history()

    def notes(self) -> Sequence[str]:
        return self.inner.notes()
