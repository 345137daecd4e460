"""Universal adversarial perturbations out of an inner attack."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BeforeValidator, Field

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.adapters.base import Adapter
from advbench.methods.base import Context, ImageMethod, Setting, TrainingImages
from advbench.methods.build import build_method
from advbench.methods.geometry import project
from advbench.methods.gradient import MinimalMethod
from advbench.methods.universal import UniversalFit, UniversalMethod
from advbench.progress import Task
from advbench.tensors import Images, Labels, Rows
from advbench.threat import Budget, Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["UAP"]

LEAN: Mapping[str, dict[str, Any]] = {"deepfool": {"overshoot": 0.02, "max_steps": 10, "candidates": 3}}
"""Inner attacks by their names, with options that save most of their gradients: what one of them finds for an image is
soon moved on by the others."""


def _options(given: object) -> object:
    """Read ``steps=5,random_start=false`` as the command line gives it."""
    if not isinstance(given, str):
        return given
    pairs = [pair.partition("=") for pair in given.split(",") if pair]
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}


class UAP(UniversalMethod):
    """Universal adversarial perturbation.

    Moosavi-Dezfooli, Fawzi, Fawzi, Frossard 2017, 'Universal adversarial perturbations',
    https://arxiv.org/abs/1610.08401, algorithm 1: go through the images; where v does not fool the target yet, an inner
    attack finds the shortest r that takes x + v over the boundary, and v becomes the projection of v + r onto the ball;
    end when v fools a share of 1 - delta of the images. Fooled is what is no longer of the class predicted for x.
    Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: images are visited in batches, and the sum of a batch's r is added at once: with ``batch_size`` 1 it is
    the paper's sequential order. x + v is kept in [0, 1] for the target and the inner attack, and r is measured from
    there, so that v does not lose what one image clips. There is a last epoch, and of all epochs the best on validation
    images is kept.

    Args:
        inner: The name of the inner attack, one that treats each image by itself.
        inner_options: Its options, as ``name=value,name=value``. Left out, a DeepFool overshoots by 0.02, as in the
            paper, and is a lean one: at most 10 steps towards the two likeliest other classes.
        delta: The share of fit images that need not be fooled.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2, Norm.LINF})

    inner: str = "deepfool"
    inner_options: Annotated[dict[str, Any], BeforeValidator(_options)] = Field(default_factory=dict)
    delta: float = Field(default=0.2, ge=0, lt=1)

    def resolve(self, setting: Setting) -> Self:
        """Check the inner attack, and fill in its options."""
        super().resolve(setting)
        inner = self.inner_attack().resolve(setting)
        options = inner.model_dump(mode="json", by_alias=True)
        return self.model_copy(update={"inner_options": options})

    def inner_attack(self) -> ImageMethod:
        """Make the inner attack.

        Raises:
            InvalidConfig: It does not treat each image by itself, or does not degrade.
        """
        inner = build_method(self.inner, LEAN.get(self.inner, {}) | self.inner_options)
        if not isinstance(inner, ImageMethod) or Goal.DEGRADE not in inner.goals:
            raise InvalidConfig(f"--inner of uap is an attack on single images, such as deepfool; {self.inner} is not")
        return inner

    def needs(self, goal: Goal) -> Needs:
        """Labels, and in fitting what the inner attack needs."""
        return Needs(fit=self.inner_attack().needs(goal).perturb | {Capability.LABELS, Capability.TRUE_LABELS})

    def _start(self, access: Access, train: TrainingImages, context: Context) -> UniversalFit:
        return _UAPFit(self, access, train, context)


class _UAPFit(UniversalFit):
    name = "uap"

    def __init__(self, method: UAP, access: Access, train: TrainingImages, context: Context) -> None:
        super().__init__(method, access, train, context)
        self.method, self.inner = method, method.inner_attack()
        self.clean: Labels | None = None

    def _begin(self) -> None:
        self.clean = self._answers_to(lambda images: images)

    def _is_over(self) -> bool:
        reached = bool(self.history) and self.history[-1]["fooling_rate"] >= 1 - self.method.delta
        return reached or super()._is_over()

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        assert self.clean is not None
        for batch in torch.randperm(len(self.train.fit), generator=generator).split(self.batch_size):
            self._visit(self._share(batch), self.clean)
            task.advance()
        fooled = (self._answers_to(self._perturbed) != self.clean).float().mean()
        return {"fooling_rate": float(fooled)}

    def _visit(self, rows: Rows, clean: Labels) -> None:
        """Lines 5 to 8 of algorithm 1, for a batch at once."""
        moved = self._perturbed(self._images(rows))
        unfooled = self.access.labels(moved, rows=rows).cpu() == clean[rows]
        total = torch.zeros_like(self.v)
        if unfooled.any():
            moved, rows = moved[unfooled], rows[unfooled]
            total = (self._inner(moved, rows, clean[rows]) - moved).sum(dim=0, keepdim=True)
        total = self._sum_over_processes(total).to(self.v.device)
        self.v = project(self.v + total, self.budget.norm, self.budget.epsilon or 0.0)

    def _inner(self, images: Images, rows: Rows, labels: Labels) -> Images:
        access = self.access.at(rows)
        # The shortest perturbation from here: only v as a whole is held to the budget.
        context = replace(self.context, budget=Budget(norm=self.budget.norm))
        if isinstance(self.inner, Adapter) and not self.inner.peer.bounded:
            return self.inner.perturb(images, access, context)
        if not isinstance(self.inner, MinimalMethod):
            return self.inner.perturb(images, access, self.context)
        return self.inner.shortest(images, labels.to(images.device), access, context)

    def _answers_to(self, change: Callable[[Images], Images]) -> Labels:
        """The classes of all fit images after ``change``; each process asks about its share."""
        rows = self._share(torch.arange(len(self.train.fit)))
        answers = torch.zeros(len(self.train.fit), dtype=torch.long)
        for part in rows.split(256):
            answers[part] = self.access.labels(change(self._images(part)), rows=part).cpu()
        return self._sum_over_processes(answers)

    def _extra_state(self) -> dict[str, Any]:
        return {**super()._extra_state(), "clean": self.clean}
