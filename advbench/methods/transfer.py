"""Transfer: a method run on the attacker's surrogates and applied to a target that is not asked about the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.errors import InvalidConfig
from advbench.files import digest_state
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.methods.imitation import Substitution
from advbench.targets import (
    Classifier,
    ClassifierSpec,
    EnsembleTarget,
    Fusion,
    ModuleTarget,
    Target,
    restore_batch_norms,
    untrained_classifier,
)
from advbench.tensors import Images
from advbench.threat import THREATS, Needs
from advbench.types import Capability, Goal

__all__ = ["Transfer"]


class Transfer(Method):
    """Perturb against surrogates with all access to them, and show the target only the result.

    Liu, Chen, Liu, Song 2016, 'Delving into Transferable Adversarial Examples and Black-box Attacks',
    https://arxiv.org/abs/1611.02770. The surrogates are trained on the attacker's own images, and a method that learns
    is fitted on them too. On these images' true classes, the target is never asked anything, so this fits every threat
    model. On the target's answers, they are substitutes: see ``Imitation`` for the source. The target is asked while
    they learn, and never about an image that is to be perturbed.

    Args:
        inner: The method.
        surrogates: What the attacker trains; several are one ensemble.
        fusion: What of several surrogates is averaged.
        learns: What the surrogates are trained on: the fit images' ``truth``, or the target's ``answers`` to altered
            versions of them, asked for by each surrogate. These are trained in the run's own precision.
    """

    inner: SerializeAsAny[Method]
    surrogates: Annotated[tuple[ClassifierSpec, ...], Field(min_length=1)]
    fusion: Fusion = "logits"
    learns: Literal["truth", "answers"] = "truth"

    def resolve(self, setting: Setting) -> Self:
        """Resolve the inner method, whose target the surrogates are."""
        inner = self.inner.resolve(replace(setting, target_architecture=self._architecture))
        needs = inner.needs(setting.goal)
        if self.learns == "answers" and not all(spec.training.epochs for spec in self.surrogates):
            raise InvalidConfig("surrogates that learn the target's answers need epochs: give --via-epochs at least 1")
        if len(self.surrogates) > 1 and Capability.WEIGHTS in needs.fit | needs.perturb:
            raise InvalidConfig("this method copies its target's weights, and several surrogates are no single network")
        fusion = self.fusion if len(self.surrogates) > 1 else "logits"  # a single one has nothing to fuse
        return self.model_copy(update={"inner": inner, "fusion": fusion, "surrogates": self._apart_from(setting)})

    def _apart_from(self, setting: Setting) -> tuple[ClassifierSpec, ...]:
        """The surrogates; a substitute of the target's architecture never starts from the target's first weights."""
        if self.learns == "truth":
            return self.surrogates
        alike = setting.target_architecture
        return tuple(spec.apart("substitute") if spec.architecture == alike else spec for spec in self.surrogates)

    def needs(self, goal: Goal) -> Needs:
        """What no surrogate can tell: true labels where they are wanted, and the answers that substitutes learn."""
        truth = frozenset({Capability.TRUE_LABELS})
        asked = {Capability.LABELS} if self.learns == "answers" else set()
        return Needs(fit=truth | asked, perturb=self.inner.needs(goal).perturb & truth)

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train the surrogates, or take them from the cache, and fit the inner method on them."""
        if self.learns == "answers":
            substitutes = [self._substitute(spec, access, train, context) for spec in self.surrogates]
            classifiers, remarks = [each for each, _ in substitutes], [remark for _, remark in substitutes]
        else:
            classifiers, remarks = [context.surrogate(spec) for spec in self.surrogates], []
        surrogate = self._target(classifiers, context)
        labels = torch.cat([train.fit.labels, train.validation.labels])
        own = fit_access(surrogate, THREATS["white-box"], QueryLedger(len(labels)), labels)
        alone = replace(context, shared_work=None)  # what fits share is of the target, and this one asks the surrogates
        inner = self.inner.fit(own, train, alone)
        return _Transferred(surrogate, inner, self._kept(classifiers), tuple(remarks))

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Take the surrogates from the cache again, or substitutes from what was stored."""
        if self.learns == "truth":
            surrogate = self._target([context.surrogate(spec) for spec in self.surrogates], context)
            return _Transferred(surrogate, self.inner.restore(state, context), {}, ())
        classifiers = []
        for position, spec in enumerate(self.surrogates):
            # One's own factory alone says how its network is built; of any other, first weights would be overwritten.
            classifier = _untaught(spec if spec.is_own else spec.model_copy(update={"init": "scratch"}), context)
            classifier.load_state_dict(_part(state, _SUBSTITUTE.format(position)))
            classifiers.append(_ready(classifier))
        kept = self._kept(classifiers)
        inner = self.inner.restore({name: value for name, value in state.items() if name not in kept}, context)
        return _Transferred(self._target(classifiers, context), inner, kept, ())

    def _substitute(
        self, spec: ClassifierSpec, access: Access, train: TrainingImages, context: Context
    ) -> tuple[Classifier, str]:
        """Train one on the target's answers, once for all fits that would do it alike, and say how well it went."""
        training = spec.training
        classifier = _untaught(spec, context)
        restore_batch_norms(classifier, train.fit)
        part = {"substitute": spec.model_dump(mode="json"), "start": digest_state(classifier.state_dict())}
        with context.shared(part) as shared:
            substitution = Substitution(
                classifier, training.learning_rate, access, train, shared,
                epochs=training.epochs, batch_size=training.batch_size,
            )  # fmt: skip
            substitution.run()
        agreement = substitution.history[-1]["agreement"]
        return _ready(classifier), (
            f"in the last of {training.epochs} epochs the substitute {spec.architecture} foretold {agreement:.1%} of "
            "what the target said of altered fit images"
        )

    def _kept(self, classifiers: Sequence[Classifier]) -> dict[str, Tensor]:
        """What has to be stored of the surrogates: nothing that the cache can give again."""
        if self.learns == "truth":
            return {}
        return {
            _SUBSTITUTE.format(position) + name: value.cpu().contiguous()
            for position, classifier in enumerate(classifiers)
            for name, value in classifier.state_dict().items()
        }

    @property
    def _architecture(self) -> str:
        return "+".join(spec.architecture for spec in self.surrogates)

    def _target(self, classifiers: Sequence[Classifier], context: Context) -> Target:
        """The surrogates as the inner method's target."""
        dtype = context.runtime.inference_dtype
        members = [
            ModuleTarget(
                classifier, context.num_classes, spec.architecture, spec.architecture, dtype, folds=not spec.is_own
            )
            for classifier, spec in zip(classifiers, self.surrogates, strict=True)
        ]
        target = members[0] if len(members) == 1 else EnsembleTarget(members, self.fusion)
        return target.to(context.runtime.torch_device)


_SUBSTITUTE = "substitute-{}."
"""Before the names of a substitute's weights among what is stored."""


def _untaught(spec: ClassifierSpec, context: Context) -> Classifier:
    made, _ = untrained_classifier(spec, context.num_classes, context.image_size)
    if not isinstance(made, Classifier):
        raise InvalidConfig(f"a substitute must be a torch module, and {spec.architecture} gives none")
    return made


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _ready(classifier: Classifier) -> Classifier:
    return classifier.cpu().eval().requires_grad_(False).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class _Transferred:
    surrogate: Target
    inner: Perturber
    substitutes: Mapping[str, Tensor]
    remarks: tuple[str, ...]

    def perturb(self, images: Images, access: Access) -> Images:
        granted = access.grants(Capability.TRUE_LABELS)
        truth = access.true_labels if granted else torch.zeros(len(images), dtype=torch.long)
        threat = THREATS["white-box"].with_true_labels() if granted else THREATS["white-box"]
        ledger = QueryLedger(int(access.rows.max()) + 1 if len(images) else 0)
        perturbed = self.inner.perturb(images, perturb_access(self.surrogate, threat, ledger, access.rows, truth))
        access.seek(ledger.sought[access.rows])
        return perturbed

    def state(self) -> dict[str, Tensor]:
        return {**self.substitutes, **self.inner.state()}

    def history(self) -> Sequence[Mapping[str, float]]:
        return self.inner.history()

    def notes(self) -> Sequence[str]:
        return [*self.remarks, *self.inner.notes()]
