"""Classifiers made from a specification: built, given weights, trained where asked, and kept for next time."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advbench.checkpoint import Checkpoint
from advbench.datasets import Dataset, LabelledImages
from advbench.errors import InvalidConfig
from advbench.files import digest, digest_state, writing_folder
from advbench.kept import kept_folder
from advbench.progress import Progress
from advbench.runtime import Precision, Runtime
from advbench.seeding import derive_seed, seeded
from advbench.targets.base import Classifier, Target
from advbench.targets.fast import restore_batch_norms
from advbench.targets.weights import imagenet_state, load_into, read_state, with_versions
from advbench.targets.zoo import (
    Normalisation,
    build_network,
    check_takes,
    is_own,
    normaliser,
    own_digest,
    own_factory,
)

__all__ = ["ClassifierSpec", "Training", "epoch_batches", "make_classifier", "untrained_classifier"]

SUBSET_SEED = 0
RECIPE = 1
"""Raise when training changes, so that no classifier of an older recipe is taken for a new one."""

REDRAWN = "redrawn"
"""First weights of a network of one's own that are not those that its factory gives it, which may be a target's."""


class Training(BaseModel):
    """How a classifier is trained; the defaults are the paper's for its vanilla targets (section 4.1).

    The paper names the rate and the number of epochs; Adam and the batch size are our reading.

    Args:
        epochs: Passes over the images; 0 takes the weights as they are.
        images: How many images of the fit part it sees, balanced over the classes; None for all.
        learning_rate: Adam's, fixed.
        batch_size: Images a step.
        precision: Of the forward and backward passes.
        seed: Of the fresh weights, the order and the dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=20, ge=0)
    images: int | None = Field(default=None, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    batch_size: int = Field(default=64, ge=2)
    precision: Precision = "32-true"
    seed: int = 0


class ClassifierSpec(BaseModel):
    """Everything that decides a classifier's weights.

    Args:
        architecture: A torchvision name, ``timm:NAME`` or ``module:factory``.
        init: ``scratch`` (the paper's case A; of one's own factory, what it gives), ``imagenet`` (case B), a local
            checkpoint, or ``redrawn``: what one's own factory gives, with all weights drawn anew.
        normalisation: Put inside the classifier.
        training: How it is trained from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    init: str = "scratch"
    normalisation: Normalisation = "none"
    training: Training = Training()

    @property
    def is_own(self) -> bool:
        """Whether it comes from one's own factory."""
        return is_own(self.architecture)

    def apart(self, purpose: str) -> Self:
        """The same for an attacker who knows a target's architecture alone: it has none of the target's weights."""
        own = self.training.model_copy(update={"seed": derive_seed(self.training.seed, purpose)})
        init = REDRAWN if self.is_own and self.init == "scratch" else self.init
        return self.model_copy(update={"training": own, "init": init})


def epoch_batches(count: int, batch_size: int, generator: torch.Generator, processes: int = 1) -> Sequence[Tensor]:
    """Shuffle ``count`` positions into batches.

    A last batch that would leave one of the processes that share it with less than two, too few for batch norm, joins
    its neighbour.
    """
    batches = list(torch.randperm(count, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) < 2 * processes:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def make_classifier(
    spec: ClassifierSpec, dataset: Dataset, runtime: Runtime, progress: Progress, *, role: str = "target"
) -> Classifier | Target:
    """Make a classifier, or take it from the cache: the same specification and images are never trained twice.

    Args:
        spec: What to make.
        dataset: Trained on its fit part; only as many classes as it has.
        runtime: Where to train.
        progress: Shows the training.
        role: ``target`` or ``surrogate``, for messages.

    Raises:
        InvalidConfig: The architecture does not fit the images.
        InvalidWeights: The initial weights are missing or do not fit.
    """
    classes = len(dataset.classes)
    classifier, has_head = untrained_classifier(spec, classes, dataset.image_size)
    if isinstance(classifier, Target):
        return classifier
    if spec.training.epochs:
        _train_once(classifier, spec, dataset, runtime, progress, role)
    elif spec.is_own and has_head:
        return classifier
    elif not has_head:
        raise InvalidConfig(
            f"{spec.architecture} with --init {spec.init} has no head for {classes} classes and 0 epochs to train "
            "one: give it epochs, or a checkpoint of a classifier for these classes"
        )
    # One memory format, trained here or cached: another would round differently, and results would not be equal.
    return classifier.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def untrained_classifier(spec: ClassifierSpec, classes: int, image_size: int) -> tuple[Classifier | Target, bool]:
    """Give a classifier its first weights, and say whether they include a head for these classes.

    What one's own factory makes is a target if it is no torch module.

    Raises:
        InvalidConfig: The architecture does not fit the images.
        InvalidWeights: The initial weights are missing or do not fit.
    """
    if spec.is_own:
        with seeded(spec.training.seed, "classifier", "init"):
            own = own_factory(spec.architecture, classes)
            has_head = _initialise_own(own, spec, image_size)
        if isinstance(own, Target) and spec.training.epochs:
            raise InvalidConfig(
                f"{spec.architecture} gives a finished target, which is not trained here: give it 0 epochs, or let it "
                "give the torch module itself"
            )
        if isinstance(own, Target) or not spec.training.epochs:
            return own, has_head
        network = own.network
    else:
        with seeded(spec.training.seed, "classifier", "init"):
            network = build_network(spec.architecture, classes, image_size)
        has_head = _initialise(network, spec)
    return Classifier(network, normaliser(spec.normalisation)), has_head


def _initialise_own(own: Classifier | Target, spec: ClassifierSpec, image_size: int) -> bool:
    """Load the initial weights where there are any; say whether there is a head."""
    if isinstance(own, Classifier):
        check_takes(own.network, spec.architecture, image_size)
        if spec.init == REDRAWN:
            _redraw(own.network, spec.architecture)
            return True
    if spec.init == "scratch":
        return True
    if isinstance(own, Target) or spec.init == "imagenet":
        what = "no torch module" if isinstance(own, Target) else "no torchvision architecture"
        raise InvalidConfig(f"{spec.architecture} is {what}: --init {spec.init} cannot be loaded into it; leave it out")
    return load_into(own.network, read_state(Path(spec.init)), source=spec.init)


def _redraw(network: nn.Module, architecture: str) -> None:
    """Draw all weights anew from torch's global generator."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif any(value is not None for value in module._parameters.values()):
            raise InvalidConfig(
                f"{architecture} cannot stand in for a target that it makes itself: its {type(module).__name__} has "
                "parameters that would be the target's own; give it a method reset_parameters(), which draws them anew"
            )


def _initialise(network: nn.Module, spec: ClassifierSpec) -> bool:
    """Load the initial weights; say whether the head came with them."""
    if spec.init == "scratch":
        return False
    if spec.init == "imagenet":
        return load_into(network, imagenet_state(spec.architecture), source="the ImageNet weights")
    return load_into(network, read_state(Path(spec.init)), source=spec.init)


def _train_once(
    classifier: Classifier, spec: ClassifierSpec, dataset: Dataset, runtime: Runtime, progress: Progress, role: str
) -> None:
    images = dataset.fit.first(spec.training.images, seed=SUBSET_SEED, what="the number of training images")
    identity = {
        "recipe": RECIPE,
        "spec": spec.model_dump(mode="json"),
        "start": digest_state(classifier.state_dict()),
        "images": images.digest,
        "image_size": dataset.image_size,
        **({"source": own_digest(spec.architecture, classifier.network)} if spec.is_own else {}),
    }
    key = digest(identity)
    device = runtime.torch_device  # starts the other processes of a shared run, which wait for the folder as well
    with kept_folder(f"classifiers/{spec.architecture.replace(':', '-')}-{key}") as (folder, work):
        weights = folder / "weights.safetensors"
        if not weights.exists():
            checkpoint = Checkpoint(work / "training.ckpt", key)
            started = time.perf_counter()
            _train(classifier, images, spec, device, progress, checkpoint, role)
            seconds = time.perf_counter() - started
            with writing_folder(folder) as staging:
                # Copies: a module that stands in a network under two names has each tensor twice.
                state = {name: value.contiguous().clone() for name, value in classifier.network.state_dict().items()}
                save_file(state, staging / weights.name)
                (staging / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
            progress.say(f"trained {role} {spec.architecture} in {seconds:.0f} s; kept in {folder}")
        classifier.network.load_state_dict(with_versions(load_file(weights), classifier.network))
    classifier.cpu()


def _train(
    classifier: Classifier,
    images: LabelledImages,
    spec: ClassifierSpec,
    device: torch.device,
    progress: Progress,
    checkpoint: Checkpoint,
    role: str,
) -> None:
    training = spec.training
    classifier.to(device).to(memory_format=torch.channels_last)
    restore_batch_norms(classifier, images)
    classifier.train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=training.learning_rate, fused=True)
    autocast = _autocast(device, training.precision)
    first_epoch = _resume(checkpoint.load(progress.say), classifier, optimizer)
    name = f"training {role} {spec.architecture} on {len(images)} images"
    with progress.task(name, total=training.epochs) as task:
        task.advance(first_epoch)
        for epoch in range(first_epoch, training.epochs):
            with seeded(training.seed, "classifier", epoch) as generator:
                for batch in epoch_batches(len(images), training.batch_size, generator):
                    inputs = images.images(batch).to(device, memory_format=torch.channels_last)
                    labels = images.labels[batch].to(device)
                    optimizer.zero_grad(set_to_none=True)
                    with autocast:
                        scores = classifier(inputs)
                    loss = F.cross_entropy(scores.float(), labels)
                    loss.backward()
                    optimizer.step()
            checkpoint.save({"epoch": epoch + 1, "model": classifier.state_dict(), "optimizer": optimizer.state_dict()})
            task.advance(loss=loss.item())


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "32-true")


def _resume(state: dict[str, Any] | None, classifier: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if state is None:
        return 0
    classifier.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    epoch: int = state["epoch"]
    return epoch
