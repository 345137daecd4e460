"""The interface that every method shares.

A method is its hyper-parameters. ``fit`` meets the world and returns a ``Perturber``, which moves images; a method with
nothing to learn derives from ``ImageMethod`` and writes ``perturb`` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from advbench.access import Access
from advbench.datasets import LabelledImages
from advbench.errors import InvalidConfig
from advbench.files import digest
from advbench.progress import SILENT, Progress
from advbench.runtime import Runtime
from advbench.targets import Classifier, ClassifierSpec
from advbench.tensors import Images
from advbench.threat import Budget, Needs
from advbench.types import Goal, Norm

__all__ = ["Context", "ImageMethod", "Method", "Perturber", "Setting", "TrainingImages"]


@dataclass(frozen=True)
class Setting:
    """What the experimenter knows before anything runs, from which a method fills in what was left open.

    Args:
        goal: Degrade or enhance.
        budget: How far an image may be moved.
        image_size: Height and width in pixels.
        target_architecture: So that a stand-in for an unknown network is never the target's own architecture.
    """

    goal: Goal
    budget: Budget
    image_size: int
    target_architecture: str


@dataclass(frozen=True)
class TrainingImages:
    """The attacker's own labelled images. Neither part overlaps with the evaluation.

    Rows of the fit phase count through ``fit`` first and ``validation`` after it.

    Args:
        fit: To learn from.
        validation: To choose by.
    """

    fit: LabelledImages
    validation: LabelledImages


@dataclass(frozen=True)
class Context:
    """The circumstances of one run.

    Args:
        goal: Degrade or enhance.
        budget: How far an image may be moved.
        seed: Decides everything random.
        image_size: Height and width in pixels.
        num_classes: Of the dataset.
        runtime: Where to compute.
        progress: Shows what is going on.
        work: A folder for checkpoints that outlives a kill; None where a fit is not to be resumed.
        identity: What is being fitted, as a digest, so that no other fit's checkpoint is resumed.
        train_classifier: Trains a classifier on the attacker's own images, or takes it from the cache.
        is_shared: Whether this is of a part that other fits have as well; ``shared`` says so.
        shared_work: From what a part of a fit hangs on beside target, images and seed, to a folder that other fits of
            the same part have as well, one at a time, and the part's digest.
    """

    goal: Goal
    budget: Budget
    seed: int
    image_size: int
    num_classes: int
    runtime: Runtime = field(default_factory=lambda: Runtime(device="cpu"))
    progress: Progress = SILENT
    work: Path | None = None
    identity: str = ""
    train_classifier: Callable[[ClassifierSpec], Classifier] | None = None
    is_shared: bool = False
    shared_work: Callable[[Mapping[str, Any]], AbstractContextManager[tuple[Path, str]]] | None = None

    def surrogate(self, spec: ClassifierSpec) -> Classifier:
        """Train a classifier on the attacker's own images, or take it from the cache.

        Raises:
            InvalidConfig: This run has no images to train one on.
        """
        if self.train_classifier is None:
            raise InvalidConfig("a surrogate needs images to be trained on: run through the harness")
        return self.train_classifier(spec)

    @contextmanager
    def shared(self, part: Mapping[str, Any]) -> Iterator[Self]:
        """The circumstances for a part that several fits have in common, so that its epochs are gone through once.

        Its checkpoint outlives the fit; a fit that finds it takes over what was asked, and counts it as its own.

        Args:
            part: What it hangs on beside target, images and seed; anything that JSON can hold.
        """
        if self.shared_work is None:
            yield replace(self, identity=digest([self.identity, dict(part)]))
            return
        with self.shared_work(part) as (folder, identity):
            yield replace(self, work=folder, identity=identity, is_shared=True)


class Perturber(Protocol):
    """A fitted method."""

    def perturb(self, images: Images, access: Access) -> Images:
        """Move images towards the goal.

        Args:
            images: float32 in [0, 1], ``(batch, 3, height, width)``.
            access: The door to the target for these samples.

        Returns:
            Perturbed images of the same shape, type and device, within the budget. Without a bound they may leave
            [0, 1]; the harness reports them raw and clipped.
        """

    def state(self) -> dict[str, Tensor]:
        """What was learnt, enough for ``Method.restore``; empty where nothing was."""

    def history(self) -> Sequence[Mapping[str, float]]:
        """Figures by epoch, each a number under its name; empty where there are no epochs.

        All are stored, and these are drawn: ``loss``, ``discriminator_loss``, ``generator_loss``, ``l1`` (mean
        ``|M|`` a pixel), ``wrong_to_right`` and ``right_to_wrong`` (fit images), and the fractions
        ``validation_accuracy``, ``fit_accuracy`` and ``fooling_rate``, over ``epoch``, or the epochs' place from 1
        where that is left out.
        """

    def notes(self) -> Sequence[str]:
        """What a reader of the result must know: warnings, and what stood in for what."""


class Method(BaseModel, ABC):
    """An attack or enhancer: its fields are its hyper-parameters, and the options of ``advbench run``.

    Attributes:
        goals: Which it serves.
        norms: Under which it keeps to a budget.
        returns_failures_clean: Whether what it could not turn comes back as it was, which says nothing of its loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    goals: ClassVar[frozenset[Goal]] = frozenset(Goal)
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    returns_failures_clean: ClassVar[bool] = False

    def resolve(self, setting: Setting) -> Self:  # noqa: ARG002
        """Fill in what was left open, so that the record shows every value that was used.

        Raises:
            InvalidConfig: The parameters do not fit the setting.
        """
        return self

    @abstractmethod
    def needs(self, goal: Goal) -> Needs:
        """Declare what is touched in each phase."""

    @abstractmethod
    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Learn what there is to learn.

        Args:
            access: The door to the target for the attacker's own samples.
            train: Those samples.
            context: Goal, budget, seed and the rest.
        """

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Make the perturber again that ``state`` was taken from."""


@dataclass(frozen=True)
class _Bound:
    """An image method in its context."""

    method: "ImageMethod"
    context: Context

    def perturb(self, images: Images, access: Access) -> Images:
        return self.method.perturb(images, access, self.context)

    def state(self) -> dict[str, Tensor]:
        return {}

    def history(self) -> Sequence[Mapping[str, float]]:
        return ()

    def notes(self) -> Sequence[str]:
        return ()


class ImageMethod(Method):
    """A method that treats each image by itself and learns nothing before."""

    @abstractmethod
    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Move images, as in ``Perturber.perturb``."""

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:  # noqa: ARG002
        """Learn nothing."""
        return _Bound(self, context)

    def restore(self, state: Mapping[str, Any], context: Context) -> Perturber:  # noqa: ARG002
        """Make the perturber again."""
        return _Bound(self, context)
