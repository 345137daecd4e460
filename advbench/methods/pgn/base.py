"""What every method with a generator shares: its networks, their first weights, and how it is applied."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.methods.pgn.networks import STRIDE, Generator, encoder_of
from advbench.methods.pgn.trainer import GeneratorFit, perturbed_images
from advbench.targets import (
    Classifier,
    ClassifierSpec,
    Normalisation,
    Training,
    build_network,
    imagenet_normalisation,
    imagenet_state,
    load_into,
    normaliser,
    read_state,
    restore_batch_norms,
)
from advbench.tensors import Images

__all__ = ["Backbone", "FittedGenerator", "GeneratorMethod", "filled"]

T = TypeVar("T")

Backbone: TypeAlias = Literal["imagenet", "surrogate", "scratch"]

SMALL_BELOW = 64
"""Images with shorter sides get the small profile."""

PAPER_SIZE = 224
"""Height and width of the paper's images."""


class GeneratorMethod(Method):
    """A method that trains PGN's generator. Where a field is None, ``resolve`` fills it in, and the record shows it.

    Args:
        profile: ``paper`` (224 pixels, ResNet-50 or -101, the full decoder) or ``small`` (ResNet-18, a quarter of the
            decoder). None: small below 64 pixels. The fields below override it one by one.
        encoder: Architecture of the generator's encoder. None: ResNet-50 (``pgn-101``: ResNet-101), or ResNet-18 in
            the small profile.
        backbone: First weights of encoder and discriminator: ``imagenet``, ``scratch``, or ``surrogate``, classifiers
            that the attacker trains on the same images. None: ``imagenet``, or ``surrogate`` in the small profile.
        surrogate_epochs: How long a surrogate is trained.
        surrogate_learning_rate: Adam's for it; what starts from weights wants less, 1e-4 without batch norm.
        encoder_weights: A local checkpoint that the encoder starts from, or its surrogate's training.
        backbone_normalisation: What local checkpoints expect: ``none``, ``imagenet`` or ``half``.
        decoder_width: Scales the decoder's channels. None: 1, or 1/4 in the small profile.
        generator_size: The side, in pixels, to which the generator scales smaller images for itself; M comes back in
            the image's own size. None: 224, to which the paper scales all images, or as they are in the small profile.
        train_generator: ``all`` of it, or the ``decoder`` alone around a frozen encoder: half of a step's work or less.
            None: as the method's recipe has it. The weights of an encoder that is a surrogate stay fixed either way;
            under ``all`` its batch norms adapt.
        skips: Whether each doubling in the decoder sees the encoder's map of that size too, as in a U-Net; the paper's
            does not. None: as the method's recipe has it.
        strength: PGN's lambda, a factor on M, of at most 1 under a budget; on the command line ``--lambda``.
        epochs: At most.
        batch_size: Images a step. None: as the method's recipe has it, 64 or 16.
        learning_rate: Adam's, for the generator.
        initial_scale: Multiplies the generator's last layer at the start.
        schedule: Of the rates over the epochs: ``constant``, or ``cosine`` to zero.
        averaging: Decay of the moving average of the generator over steps; 0 takes the generator itself.
        patience: Stop after so many epochs without a better validation accuracy.
        valid_pixels: Whether perturbed images are kept in [0, 1]. None: under a budget.
    """

    profile: Literal["paper", "small"] | None = None
    encoder: str | None = None
    backbone: Backbone | None = None
    surrogate_epochs: int = Field(default=20, ge=1)
    surrogate_learning_rate: float = Field(default=5e-4, gt=0)
    encoder_weights: Path | None = None
    backbone_normalisation: Normalisation = "imagenet"
    decoder_width: float | None = Field(default=None, gt=0, le=2)
    generator_size: int | None = Field(default=None, ge=STRIDE, le=1024)
    train_generator: Literal["all", "decoder"] | None = None
    skips: bool | None = None
    strength: float = Field(default=1.0, alias="lambda", gt=0)
    epochs: int = Field(default=20, ge=1)
    batch_size: int | None = Field(default=None, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    initial_scale: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    averaging: float = Field(default=0.98, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    valid_pixels: bool | None = None

    def resolve(self, setting: Setting) -> Self:
        """Choose the profile by image size, and fill in every field that is None."""
        by_size = "small" if setting.image_size < SMALL_BELOW else "paper"
        small = (self.profile or by_size) == "small"
        chosen: dict[str, Any] = {
            "profile": by_size,
            "encoder": "resnet18" if small else "resnet50",
            "backbone": "surrogate" if small else "imagenet",
            "decoder_width": 0.25 if small else 1.0,
            "generator_size": None if small else PAPER_SIZE,
            "train_generator": "all",
            "skips": False,
            "batch_size": 64,
            "valid_pixels": setting.budget.epsilon is not None,
        }
        if setting.budget.epsilon is not None and self.strength > 1:
            raise InvalidConfig(f"--lambda {self.strength:g} would take M beyond the budget that bounds it: at most 1")
        given = {name: value for name, value in self if value is not None}
        return self.model_copy(update=chosen | self._defaults(setting, small=small) | given)

    @abstractmethod
    def _defaults(self, setting: Setting, *, small: bool) -> dict[str, Any]:
        """Values of this method's own fields for a setting, and of the shared ones where they differ."""

    def _schedule(self) -> dict[str, Any]:
        """The part of ``Schedule`` that all methods share, once ``resolve`` has filled everything in."""
        return {
            "strength": self.strength,
            "epochs": self.epochs,
            "batch_size": filled(self.batch_size),
            "learning_rate": filled(self.learning_rate),
            "cosine": self.schedule == "cosine",
            "averaging": self.averaging,
            "patience": self.patience,
            "valid_pixels": filled(self.valid_pixels),
        }

    def first_generator(self, train: TrainingImages, context: Context) -> Generator:
        """The generator before training, around an encoder with its first weights."""
        encoder = self._classifier(filled(self.encoder), self.encoder_weights, filled(self.backbone), train, context)
        return self._generator(encoder, context)

    def _generator(self, encoder: Classifier, context: Context) -> Generator:
        return Generator(
            encoder_of(encoder), filled(self.decoder_width), context.budget, filled(self.initial_scale),
            size=self.generator_size, trained=filled(self.train_generator), skips=filled(self.skips),
        )  # fmt: skip

    def _fitted(self, fit: GeneratorFit, remarks: Sequence[str]) -> Perturber:
        """Take the best epoch's generator."""
        fit.average.load_state_dict(fit.best)
        return FittedGenerator(self, fit.average, tuple(fit.history), tuple(remarks), fit.best_epoch)

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Rebuild the generator around its learnt weights."""
        network = build_network(filled(self.encoder), context.num_classes, context.image_size)
        normalisation = self._normalisation(filled(self.encoder), self.encoder_weights, filled(self.backbone))
        generator = self._generator(Classifier(network, normaliser(normalisation)), context)
        generator.load_state_dict(dict(state))
        generator.eval().requires_grad_(False).to(context.runtime.torch_device)
        generator.to(memory_format=torch.channels_last)  # as it was fitted: another format rounds otherwise
        return FittedGenerator(self, generator, (), (), 0)

    def _classifier(
        self, architecture: str, weights: Path | None, backbone: Backbone, train: TrainingImages, context: Context
    ) -> Classifier:
        """A classifier whose body serves as a backbone, with weights of its own."""
        if backbone == "surrogate":
            return context.surrogate(self.surrogate_spec(architecture, weights, context.seed))
        network = build_network(architecture, context.num_classes, context.image_size)
        if weights is not None:
            load_into(network, read_state(weights), source=str(weights))
        elif backbone == "imagenet":
            load_into(network, imagenet_state(architecture), source="the ImageNet weights")
        classifier = Classifier(network, normaliser(self._normalisation(architecture, weights, backbone)))
        restore_batch_norms(classifier, train.fit)
        return classifier

    def surrogate_spec(self, architecture: str, weights: Path | None, seed: int) -> ClassifierSpec:
        """What the attacker trains, from local weights where they are given."""
        return ClassifierSpec(
            architecture=architecture,
            init="scratch" if weights is None else str(weights),
            normalisation=self._normalisation(architecture, weights, "surrogate"),
            training=Training(seed=seed, epochs=self.surrogate_epochs, learning_rate=self.surrogate_learning_rate),
        )

    def _normalisation(self, architecture: str, weights: Path | None, backbone: Backbone) -> Normalisation:
        if weights is not None:
            return self.backbone_normalisation
        return imagenet_normalisation(architecture) if backbone == "imagenet" else "none"

    def _origin(self) -> list[str]:
        """What stood in for ImageNet weights, where something did."""
        if self.backbone != "surrogate":
            return []
        return [
            "no ImageNet weights as they are: what starts from a surrogate starts from a classifier that the attacker "
            "trained on the same fit images"
        ]


@dataclass(frozen=True)
class FittedGenerator:
    """A generator, ready to use."""

    method: GeneratorMethod
    generator: Generator
    epochs: tuple[Mapping[str, float], ...]
    remarks: tuple[str, ...]
    best_epoch: int

    def perturb(self, images: Images, access: Access) -> Images:  # noqa: ARG002
        """Add M; the target is not asked."""
        device = next(self.generator.parameters()).device
        with torch.no_grad():
            perturbation = self.generator(images.to(device)).to(images.device)
        valid = bool(self.method.valid_pixels)
        return perturbed_images(images, perturbation, self.method.strength, valid_pixels=valid)

    def state(self) -> dict[str, Tensor]:
        """The generator's weights."""
        return {name: value.cpu().contiguous() for name, value in self.generator.state_dict().items()}

    def history(self) -> Sequence[Mapping[str, float]]:
        """Losses, L1, turned samples and accuracies by epoch."""
        return self.epochs

    def notes(self) -> Sequence[str]:
        """What a reader should know."""
        return self.remarks


def filled(value: T | None) -> T:
    """A field that ``resolve`` has filled in."""
    assert value is not None, "resolve() comes before fit()"
    return value
