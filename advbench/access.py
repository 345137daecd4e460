"""The only door from a method to a target: it gives what the threat model grants, and counts every use of it.

The handle holds no target, only bound calls, and answers are detached, so that a method cannot reach by mistake what it
was not granted. It is no sandbox: code that sets out to break it, through Python's own introspection, can.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advbench.errors import AccessDenied, BudgetSpent, InvalidConfig, InvalidPerturbation
from advbench.targets import JacobianAnswer, PullbackAnswer, Target
from advbench.tensors import Images, Labels, Rows, SampleLoss, SampleLosses, Scores
from advbench.threat import ThreatModel
from advbench.types import Capability

__all__ = ["Access", "GradientAnswer", "QueryLedger", "fit_access", "perturb_access"]


@dataclass
class QueryLedger:
    """How often each sample was asked about in one phase, and how long that has taken since the ledger was opened.

    A forward pass over one image is one query. A gradient comes with its query; several after one pass share it.
    ``sought`` holds the class that each sample is to reach, or -1 where no method has said.

    Args:
        size: Samples in the phase's dataset.
        max_each: The most queries for one sample, or None.
        max_total: The most queries over all samples, or None.
    """

    size: int
    max_each: int | None = None
    max_total: int | None = None
    queries: Tensor = field(init=False)
    gradients: Tensor = field(init=False)
    sought: Labels = field(init=False)
    opened: float = field(init=False, default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.queries = torch.zeros(self.size, dtype=torch.long)
        self.gradients = torch.zeros(self.size, dtype=torch.long)
        self.sought = torch.full((self.size,), -1)

    def charge(self, rows: Rows, *, gradients: int = 0) -> None:
        """Count one query, and so many gradients, for each of ``rows``, before they are made.

        Raises:
            BudgetSpent: It would go over a limit; nothing is counted then.
        """
        after = self.queries.index_add(0, rows, torch.ones_like(rows))
        if self.max_each is not None and bool((after > self.max_each).any()):
            raise BudgetSpent(f"the threat model allows {self.max_each} queries for each image, and they are spent")
        if self.max_total is not None and int(after.sum()) > self.max_total:
            raise BudgetSpent(f"the threat model allows {self.max_total} queries in this phase, and they are spent")
        self.queries = after
        if gradients:
            self.gradients.index_add_(0, rows, torch.full_like(rows, gradients))

    def charge_gradients(self, rows: Rows) -> None:
        """Count one gradient for each of ``rows``, by a pass that was counted before."""
        self.gradients.index_add_(0, rows, torch.ones_like(rows))

    def counts(self) -> Tensor:
        """Queries and gradients of each sample, ``(2, size)``."""
        return torch.stack([self.queries, self.gradients])

    def seconds(self) -> float:
        """Wall time since it was opened, interruptions left out."""
        return time.perf_counter() - self.opened

    def recall(self, counts: Tensor, seconds: float) -> None:
        """Take over what was counted before an interruption; counts, and the time that they took, can only rise.

        Raises:
            BudgetSpent: It goes over a limit, as what another fit asked may.
        """
        self.queries, self.gradients = torch.maximum(self.counts(), counts)
        if self.max_total is not None and int(self.queries.sum()) > self.max_total:
            raise BudgetSpent(f"the threat model allows {self.max_total} queries in this phase, and they are spent")
        self.opened -= max(0.0, seconds - self.seconds())


@dataclass(frozen=True)
class GradientAnswer:
    """A loss's gradient with respect to the images, and the logits that came with it from the same pass."""

    gradient: Images
    scores: Scores


class _Sealed(torch.autograd.Function):
    """Passes scores on and refuses to differentiate them: gradients are asked for, so that they are counted."""

    @staticmethod
    def forward(ctx: object, images: Images, scores: Scores) -> Scores:  # noqa: ARG004
        return scores.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        raise AccessDenied(
            "scores cannot be differentiated: a method that is granted input-gradients calls access.gradient(), "
            "which counts them; any other has to do without"
        )


class Access:
    """What one method may do with one target for the samples at hand.

    Made by ``fit_access`` and ``perturb_access``; methods receive it and never make one.
    """

    __slots__ = ("_ask", "_granted", "_recall", "_seconds", "_sought", "_spent", "_threat_name", "num_classes", "rows")

    num_classes: int
    """How many classes the target knows."""
    rows: Rows
    """The samples at hand, as positions in the phase's dataset."""

    def __init__(
        self, target: Target, threat_name: str, granted: frozenset[Capability], ledger: QueryLedger, rows: Rows,
        true_labels: Labels, *, fast: bool,
    ) -> None:  # fmt: skip
        self.num_classes, self.rows = target.num_classes, rows
        self._granted, self._threat_name = granted, threat_name
        self._spent, self._seconds, self._recall = ledger.counts, ledger.seconds, ledger.recall
        self._sought = ledger.sought

        def labels(images: Images, charged: Rows) -> Labels:
            ledger.charge(charged)
            return target.labels(images, fast=fast)

        def scores(images: Images, charged: Rows) -> Scores:
            ledger.charge(charged)
            answer = target.scores(images, fast=fast)
            return _Sealed.apply(images, answer) if images.requires_grad else answer

        def pullback(images: Images, charged: Rows) -> PullbackAnswer:
            answer = target.pullback(images)

            def pull(cotangent: Tensor) -> Images:
                ledger.charge_gradients(charged)
                return answer.pull(cotangent)

            return PullbackAnswer(answer.scores, pull)

        def gradients(
            images: Images, charged: Rows, losses: SampleLosses | None, count: int
        ) -> JacobianAnswer | PullbackAnswer:
            ledger.charge(charged, gradients=count)
            return pullback(images, charged) if losses is None else target.jacobian(images, losses, count)

        calls: dict[Capability, Callable[..., object]] = {
            Capability.LABELS: labels,
            Capability.SCORES: scores,
            Capability.INPUT_GRADIENTS: gradients,
            Capability.STRUCTURE: lambda: target.architecture,
            Capability.WEIGHTS: target.module,
            Capability.TRUE_LABELS: lambda: true_labels.clone(),
        }
        self._ask = {capability: call for capability, call in calls.items() if capability in granted}

    def labels(self, images: Images, rows: Rows | None = None) -> Labels:
        """Ask for the predicted classes. One query an image.

        Args:
            images: ``(batch, 3, height, width)``.
            rows: Which samples the queries are for; by default one image for each sample at hand, in order.

        Raises:
            AccessDenied: Not granted.
            BudgetSpent: The queries are used up.
        """
        return self._call(Capability.LABELS, images, self._charged(images, rows))  # type: ignore[return-value]

    def scores(self, images: Images, rows: Rows | None = None) -> Scores:
        """Ask for the logits, which cannot be differentiated. One query an image."""
        return self._call(Capability.SCORES, images, self._charged(images, rows))  # type: ignore[return-value]

    def gradient(self, images: Images, loss: SampleLoss, rows: Rows | None = None) -> GradientAnswer:
        """Ask for the gradient of ``loss`` with respect to each image, with its logits. One query and one gradient."""
        answer = self.jacobian(images, lambda scores, part: loss(scores, part).unsqueeze(1), 1, rows)
        return GradientAnswer(answer.gradients.squeeze(1), answer.scores)

    def jacobian(self, images: Images, losses: SampleLosses, count: int, rows: Rows | None = None) -> JacobianAnswer:
        """Ask for the gradients of ``count`` losses a sample, all after one forward pass.

        One query and ``count`` gradients an image; ``losses`` is given the logits, so it may choose among classes.
        """
        return self._call(  # type: ignore[return-value]
            Capability.INPUT_GRADIENTS, images, self._charged(images, rows), losses, count
        )

    def pullback(self, images: Images, rows: Rows | None = None) -> PullbackAnswer:
        """Ask for the logits, with a way back through the same pass. One query an image, and one gradient a pull.

        For code that sees the logits before it knows its loss. It holds the pass in memory until it is dropped, so a
        method that knows its loss beforehand calls ``gradient``, which works in chunks.
        """
        return self._call(  # type: ignore[return-value]
            Capability.INPUT_GRADIENTS, images, self._charged(images, rows), None, 0
        )

    @property
    def structure(self) -> str:
        """The name of the target's architecture."""
        return self._call(Capability.STRUCTURE)  # type: ignore[return-value]

    def module(self) -> nn.Module:
        """A copy of the target's module. What is done with the copy is not a query: it is the attacker's own."""
        return self._call(Capability.WEIGHTS)  # type: ignore[return-value]

    @property
    def true_labels(self) -> Labels:
        """The correct classes of the samples at hand."""
        return self._call(Capability.TRUE_LABELS)  # type: ignore[return-value]

    def seek(self, classes: Labels) -> None:
        """Say which class each of the samples at hand is to reach, so that the harness counts how many do.

        Args:
            classes: ``(batch,)``; -1 for none.

        Raises:
            InvalidPerturbation: There are no such classes, or not one for each sample.
        """
        if classes.shape != self.rows.shape or bool(((classes < -1) | (classes >= self.num_classes)).any()):
            raise InvalidPerturbation(
                f"expected the class that each of {len(self.rows)} samples is to reach, from -1 for none to "
                f"{self.num_classes - 1}, got {classes.tolist()}"
            )
        self._sought[self.rows] = classes.cpu()

    def spent(self) -> Tensor:
        """Queries and gradients of this phase so far, ``(2, samples)``: what a checkpoint of a fit holds of them."""
        return self._spent()

    def seconds(self) -> float:
        """Wall time of this phase so far, interruptions left out."""
        return self._seconds()

    def recall(self, spent: Tensor, seconds: float) -> None:
        """Count what an interrupted fit had asked, and how long it took, before it was resumed: both can only rise.

        Raises:
            BudgetSpent: It goes over a limit.
        """
        self._recall(spent, seconds)

    def at(self, positions: Tensor) -> "Access":
        """The same door for some of the samples at hand: the same grants, counted in the same place.

        Args:
            positions: Of those samples among ``rows``.
        """
        part = object.__new__(Access)
        for name in self.__slots__:
            setattr(part, name, getattr(self, name))
        part.rows = self.rows[positions]
        if Capability.TRUE_LABELS in self._ask:
            truth = self.true_labels[positions]
            part._ask = {**self._ask, Capability.TRUE_LABELS: lambda: truth.clone()}
        return part

    def grants(self, capability: Capability) -> bool:
        """Whether a capability is granted."""
        return capability in self._granted

    def __getattr__(self, name: str) -> object:
        raise AccessDenied(f"an access handle has no '{name}': a method sees of the target only what it is granted")

    def _call(self, capability: Capability, *arguments: object) -> object:
        if capability not in self._ask:
            raise AccessDenied(f"threat model '{self._threat_name}' does not grant {capability} in this phase")
        return self._ask[capability](*arguments)

    def _charged(self, images: Images, rows: Rows | None) -> Rows:
        charged = self.rows if rows is None else rows
        if len(charged) != len(images):
            raise InvalidConfig(
                f"{len(images)} images were asked about for {len(charged)} samples: "
                "pass rows= with the sample that each image belongs to"
            )
        return charged


def fit_access(target: Target, threat: ThreatModel, ledger: QueryLedger, true_labels: Labels) -> Access:
    """Open the door for fitting: all of the attacker's samples at once, answers at the fitting precision.

    Args:
        target: To be reached.
        threat: What is granted.
        ledger: Of the fit phase; its size is the number of ``true_labels``.
        true_labels: Of the attacker's own images.
    """
    granted = threat.fit & target.offers
    return Access(target, threat.name, granted, ledger, torch.arange(ledger.size), true_labels, fast=True)


def perturb_access(target: Target, threat: ThreatModel, ledger: QueryLedger, rows: Rows, true_labels: Labels) -> Access:
    """Open the door for one batch of evaluation samples, answered in float32 by the target as it is."""
    granted = threat.perturb & target.offers
    return Access(target, threat.name, granted, ledger, rows, true_labels, fast=False)
