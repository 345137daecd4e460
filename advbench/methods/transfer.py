"""Transfer: a method run on the attacker's surrogates and applied to a target that it never asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.targets import ClassifierSpec, EnsembleTarget, Fusion, ModuleTarget, Target
from advbench.tensors import Images
from advbench.threat import THREATS, Needs
from advbench.types import Capability, Goal

__all__ = ["Transfer"]


class Transfer(Method):
    """Perturb against surrogates with all access to them, and show the target only the result.

    Liu, Chen, Liu, Song 2016, 'Delving into Transferable Adversarial Examples and Black-box Attacks',
    https://arxiv.org/abs/1611.02770. The surrogates are trained on the attacker's own images, and a method that learns
    is fitted on them too. The target is never asked anything, so this fits every threat model.

    Args:
        inner: The method.
        surrogates: What the attacker trains; several are one ensemble.
        fusion: What of several surrogates is averaged.
    """

    inner: SerializeAsAny[Method]
    surrogates: Annotated[tuple[ClassifierSpec, ...], Field(min_length=1)]
    fusion: Fusion = "logits"

    def resolve(self, setting: Setting) -> Self:
        """Resolve the inner method, whose target the surrogates are."""
        inner = self.inner.resolve(replace(setting, target_architecture=self._architecture))
        needs = inner.needs(setting.goal)
        if len(self.surrogates) > 1 and Capability.WEIGHTS in needs.fit | needs.perturb:
            raise InvalidConfig("this method copies its target's weights, and several surrogates are no single network")
        fusion = self.fusion if len(self.surrogates) > 1 else "logits"  # a single one has nothing to fuse
        return self.model_copy(update={"inner": inner, "fusion": fusion})

    def needs(self, goal: Goal) -> Needs:
        """Of the target, only what no surrogate can tell: the true labels, where the inner method wants them."""
        truth = frozenset({Capability.TRUE_LABELS})
        return Needs(fit=truth, perturb=self.inner.needs(goal).perturb & truth)

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:  # noqa: ARG002
        """Train the surrogates, or take them from the cache, and fit the inner method on them."""
        surrogate = self._target(context)
        labels = torch.cat([train.fit.labels, train.validation.labels])
        own = fit_access(surrogate, THREATS["white-box"], QueryLedger(len(labels)), labels)
        alone = replace(context, shared_work=None)  # what fits share is of the target, and this one asks the surrogates
        return _Transferred(surrogate, self.inner.fit(own, train, alone))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the surrogates from the cache again."""
        return _Transferred(self._target(context), self.inner.restore(state, context))

    @property
    def _architecture(self) -> str:
        return "+".join(spec.architecture for spec in self.surrogates)

    def _target(self, context: Context) -> Target:
        """The surrogates as the inner method's target."""
        members = [self._member(spec, context) for spec in self.surrogates]
        target = members[0] if len(members) == 1 else EnsembleTarget(members, self.fusion)
        return target.to(context.runtime.torch_device)

    def _member(self, spec: ClassifierSpec, context: Context) -> ModuleTarget:
        classifier, name = context.surrogate(spec), spec.architecture
        return ModuleTarget(classifier, context.num_classes, name, name, context.runtime.inference_dtype)


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
