"""AutoAttack: parameter-free attacks, each on the images that none before it has fooled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.apgd import APGD
from advbench.methods.apgd_t import APGDT
from advbench.methods.base import Context, Perturber, Setting, TrainingImages
from advbench.methods.fab import FABT
from advbench.methods.fooling import FoolingMethod
from advbench.methods.square import Square
from advbench.tensors import Images, Labels, Rows
from advbench.types import Capability, Goal, Norm

__all__ = ["AutoAttack"]

SUSPICIOUS = 0.002
"""Square fooling more than this share of images after the gradient attacks says that those were hindered."""

Part = FoolingMethod | FABT


class AutoAttack(FoolingMethod):
    """AutoAttack, the customary measure of robust accuracy.

    Croce, Hein 2020, 'Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks', https://arxiv.org/abs/2003.01690. ``standard`` is APGD on the cross-entropy, APGD-T and FAB-T towards
    nine classes each, and Square with 5,000 queries; ``rand``, for targets that answer at random, is APGD on the
    cross-entropy and on the difference of logits ratio, with gradients averaged over 20 passes. An image that a part
    has fooled leaves; one that none fools is returned as it was. Images are ``(batch, 3, height, width)``, epsilon in
    [0, 1] pixel scale.

    Robust accuracy as in the literature is against the true labels (``label`` ``true``, with ``--true-labels``):
    images that are wrong to begin with are left as they are. With ``predicted``, those are attacked as well, and may
    end right by chance.

    Deviations: those of the parts; within FAB-T an image leaves as soon as it is fooled within epsilon, and gives up a
    class that after 20 steps is still over twice as far away.

    Args:
        version: ``standard`` or ``rand``.
        steps: Of APGD, and of FAB-T, for each start or target class.
        targets: Classes that APGD-T and FAB-T try in ``standard``.
        queries: Of Square, in ``standard``.
        eot: Passes that a gradient is averaged over in ``rand``.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses: ClassVar[frozenset[Capability]] = APGD.uses | APGDT.uses | FABT.uses | Square.uses
    returns_failures_clean: ClassVar[bool] = True

    version: Literal["standard", "rand"] = "standard"
    steps: int = Field(default=100, ge=1)
    targets: int = Field(default=9, ge=1)
    queries: int = Field(default=5000, ge=1)
    eot: int = Field(default=20, ge=1)

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget, and that the version has the options that were given."""
        ignored = {"eot"} if self.version == "standard" else {"targets", "queries"}
        if given := sorted(ignored & self.model_fields_set):
            other = "rand" if self.version == "standard" else "standard"
            raise InvalidConfig(f"--{given[0]} is of --version {other}: --version {self.version} would ignore it")
        return super().resolve(setting)

    def parts(self) -> dict[str, Part]:
        """The attacks in their order, under their names."""
        if self.version == "rand":
            return {
                "apgd-ce": APGD(loss="ce", steps=self.steps, eot=self.eot),
                "apgd-dlr": APGD(loss="dlr", steps=self.steps, eot=self.eot),
            }
        return {
            "apgd-ce": APGD(loss="ce", steps=self.steps),
            "apgd-t": APGDT(steps=self.steps, targets=self.targets),
            "fab-t": FABT(steps=self.steps, targets=self.targets),
            "square": Square(queries=self.queries),
        }

    def push(
        self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context,
        tally: Counter[str] | None = None,
    ) -> Images:  # fmt: skip
        """Run part after part, and count in ``tally`` how many images each has fooled."""
        result, left = images.clone(), torch.arange(len(images), device=images.device)
        for name, part in self.parts().items():
            if not len(left):
                break
            own_rows = rows[left.cpu()]
            points = part.push(images[left], labels[left], own_rows, access, context)
            fooled = access.labels(points, own_rows) != labels[left]
            result[left[fooled]] = points[fooled]
            left = left[~fooled]
            if tally is not None:
                tally[name] += int(fooled.sum())
        return result

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:  # noqa: ARG002
        """Learn nothing."""
        return _Tallied(self, context)

    def restore(self, state: Mapping[str, Any], context: Context) -> Perturber:  # noqa: ARG002
        """Make the perturber again."""
        return _Tallied(self, context)


@dataclass(frozen=True)
class _Tallied:
    """AutoAttack in its context, with what each part has done so far."""

    method: AutoAttack
    context: Context
    fooled: Counter[str] = field(default_factory=Counter)

    def perturb(self, images: Images, access: Access) -> Images:
        self.fooled["images"] += len(images)
        return self.method.attack(images, access, self.context, partial(self.method.push, tally=self.fooled))

    def state(self) -> dict[str, Tensor]:
        return {}

    def history(self) -> Sequence[Mapping[str, float]]:
        return ()

    def notes(self) -> Sequence[str]:
        parts = ", then ".join(f"{name} {self.fooled[name]}" for name in self.method.parts())
        notes = [f"images fooled of {self.fooled['images']}: {parts}"]
        if self.fooled["square"] > SUSPICIOUS * self.fooled["images"]:
            notes.append(
                f"the black-box part fooled {self.fooled['square']} images that the gradient attacks could not: the "
                "target may hinder gradients, and be less robust than this says; look at its zero gradients"
            )
        return notes
