"""The perturbation generation network as a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Method, Perturber, Setting, TrainingImages
from advbench.methods.pgn.defaults import DEGRADE, DEGRADE_UNBOUNDED, ENHANCE, ENHANCE_SHARED
from advbench.methods.pgn.networks import Discriminator, Generator, encoder_of
from advbench.methods.pgn.objectives import OBJECTIVES
from advbench.methods.pgn.training import Fit, Recipe, perturbed_images
from advbench.seeding import seeded
from advbench.targets import (
    Classifier,
    ClassifierSpec,
    Normalisation,
    Training,
    build_network,
    imagenet_state,
    load_into,
    normaliser,
    read_state,
)
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["PGN", "FittedPGN"]

T = TypeVar("T")

SMALL_BELOW = 64
"""Images with shorter sides get the small profile."""


class PGN(Method):
    """Perturbation generation network.

    Yoo, Park, Choi, Yun, Kwak 2018, 'Butterfly Effect: Bidirectional Control of Classification Performance by Small
    Additive Perturbation', https://arxiv.org/abs/1711.09681. A generator makes M for each image; J = I + lambda M is
    shown to the target, of which only the predicted class is used; a discriminator learns from J whether that class met
    the goal, and the generator learns to convince it (Algorithm 1). Images are ``(batch, 3, height, width)`` in [0, 1].

    ``pgn-50`` and ``pgn-101`` name the encoder, and give the discriminator the target's structure (to degrade) or its
    very weights (to enhance); ``pgn-b`` knows neither. The paper does not say which encoder its Proposed-B has: here
    ResNet-50. Where a field is None, the profile that the image size chooses fills it in, and the record shows it.

    Deviations, each with the field that takes it back: under a budget, M is bounded by construction and J stays in
    [0, 1] while training (``valid_pixels``); the epoch is chosen on validation images rather than the last taken; the
    generator that is kept is a moving average over steps (``averaging``). Losses are means over the batch, and the L1
    regulariser a mean over pixels, without which the paper's gammas and curves do not fit together.

    Not to be confused with TransferAttack's ``pgn``, which penalises gradient norms.

    Args:
        variant: The paper's Proposed-50, -101 or -B; the attack's name sets it.
        profile: ``paper`` (224 pixels, ResNet-50 or -101, the full decoder) or ``small`` (ResNet-18, a quarter of the
            decoder). None: small below 64 pixels. The fields below override it one by one.
        encoder: Architecture of the generator's encoder. None: the variant's, or ResNet-18 in the small profile.
        discriminator: Architecture of the discriminator's backbone, or ``target`` for the target's own. None: the
            variant's; for ``b`` ResNet-101, or ResNet-18 in the small profile, but never the target's own architecture.
        backbone: First weights of both: ``imagenet``, ``scratch``, or ``surrogate``, classifiers that the attacker
            trains on the same images. None: ``imagenet``, or ``surrogate`` in the small profile.
        surrogate_epochs: How long a surrogate is trained.
        encoder_weights: A local checkpoint that the encoder starts from, or its surrogate's training.
        discriminator_weights: The same for the discriminator's backbone.
        backbone_normalisation: What local checkpoints expect: ``none``, ``imagenet`` or ``half``.
        decoder_width: Scales the decoder's channels. None: 1, or 1/4 in the small profile.
        objective: ``least-squares`` (section 3.2) or ``logistic`` (appendix A.2).
        gamma: Weight of the L1 regulariser. None: 0 under a budget; else the paper's, 3 to degrade, 0.0001 to enhance.
        strength: The paper's lambda, on the command line ``--lambda``.
        epochs: At most.
        batch_size: Images a step.
        learning_rate: Adam's, for the generator.
        discriminator_learning_rate: Adam's, for the discriminator.
        train_discriminator: ``head``, its new last layer alone, or ``all`` of it.
        label_aware: Whether the discriminator is told an image's true class; no in the paper. Its last layer then has a
            unit for each class, and starts from that of a backbone that knows these classes.
        discriminator_steps: Updates of the discriminator for each of the generator; 1 in the paper.
        replay: From how many past steps of the epoch one is drawn for the discriminator to learn from again, with the
            answers that the target gave then; 0 in the paper. It costs no queries.
        initial_scale: Multiplies the generator's last layer at the start.
        schedule: Of both rates over the epochs: ``constant``, as in the paper, or ``cosine`` to zero.
        averaging: Decay of the moving average of the generator over steps; 0 takes the generator itself.
        patience: Stop after so many epochs without a better validation accuracy.
        valid_pixels: Whether J is kept in [0, 1] while training. None: under a budget.
    """

    variant: Literal["50", "101", "b"] = "b"
    profile: Literal["paper", "small"] | None = None
    encoder: str | None = None
    discriminator: str | None = None
    backbone: Literal["imagenet", "surrogate", "scratch"] | None = None
    surrogate_epochs: int = Field(default=20, ge=1)
    encoder_weights: Path | None = None
    discriminator_weights: Path | None = None
    backbone_normalisation: Normalisation = "imagenet"
    decoder_width: float | None = Field(default=None, gt=0, le=2)
    objective: Literal["least-squares", "logistic"] | None = None
    gamma: float | None = Field(default=None, ge=0)
    strength: float = Field(default=1.0, alias="lambda", gt=0)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    discriminator_learning_rate: float | None = Field(default=None, gt=0)
    train_discriminator: Literal["head", "all"] | None = None
    label_aware: bool | None = None
    discriminator_steps: int | None = Field(default=None, ge=1)
    replay: int | None = Field(default=None, ge=0)
    initial_scale: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    averaging: float = Field(default=0.98, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    valid_pixels: bool | None = None

    def resolve(self, setting: Setting) -> Self:
        """Choose the profile by image size and the recipe by goal, and fill in every field that is None."""
        architecture = setting.target_architecture
        if self._judges_like_the_target and setting.goal is Goal.ENHANCE and self.discriminator_weights is not None:
            raise InvalidConfig("--discriminator target shares the target's weights: leave out --discriminator-weights")
        by_size = "small" if setting.image_size < SMALL_BELOW else "paper"
        small = (self.profile or by_size) == "small"
        bounded = setting.budget.epsilon is not None
        degrade = setting.goal is Goal.DEGRADE
        chosen: dict[str, Any] = {
            "profile": by_size,
            "encoder": "resnet18" if small else "resnet101" if self.variant == "101" else "resnet50",
            "discriminator": "target" if self._judges_like_the_target else _other_than(architecture, small=small),
            "backbone": "surrogate" if small else "imagenet",
            "decoder_width": 0.25 if small else 1.0,
            "gamma": 0.0 if bounded else 3.0 if degrade else 1e-4,
            "valid_pixels": bounded,
        }
        if degrade:
            chosen |= DEGRADE if bounded else DEGRADE_UNBOUNDED
        else:
            chosen |= ENHANCE_SHARED if self._judges_like_the_target else ENHANCE
        given = {name: value for name, value in self if value is not None}
        return self.model_copy(update=chosen | given)

    @property
    def _judges_like_the_target(self) -> bool:
        """Whether the discriminator has the target's structure (to degrade) or its weights (to enhance)."""
        return self.discriminator == "target" if self.discriminator else self.variant != "b"

    def needs(self, goal: Goal) -> Needs:
        """Labels and the attacker's own true labels; the structure or weights where the discriminator is the target."""
        needed = {Capability.LABELS, Capability.TRUE_LABELS}
        if self._judges_like_the_target:
            needed.add(Capability.STRUCTURE if goal is Goal.DEGRADE else Capability.WEIGHTS)
        return Needs(fit=frozenset(needed))

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train generator and discriminator by Algorithm 1.

        Raises:
            FitDiverged: The losses are no longer finite.
            InvalidWeights: The backbone's weights are missing or do not fit.
        """
        with seeded(context.seed, "pgn", "init"):
            generator = self._generator(self._classifier(self.encoder, self.encoder_weights, context), context)
            discriminator = Discriminator(
                self._discriminator_backbone(access, context),
                classes=context.num_classes if self.label_aware else 0,
                goal=context.goal,
                trained=_set(self.train_discriminator),
            )
        fit = Fit(generator, discriminator, self.recipe(), access, train, context)
        fit.run()
        fit.average.load_state_dict(fit.best)
        notes = [*self._notes(), *_saturation(fit.history)]
        return FittedPGN(self, fit.average, tuple(fit.history), tuple(notes), fit.best_epoch)

    def restore(self, state: Mapping[str, Tensor], context: Context) -> Perturber:
        """Rebuild the generator around its learnt weights."""
        network = build_network(_set(self.encoder), context.num_classes, context.image_size)
        generator = self._generator(Classifier(network, normaliser(self._normalisation(self.encoder_weights))), context)
        generator.load_state_dict(dict(state))
        generator.eval().requires_grad_(False).to(context.runtime.torch_device)
        return FittedPGN(self, generator, (), (), 0)

    def recipe(self) -> Recipe:
        """How the two networks are trained, once ``resolve`` has filled everything in."""
        return Recipe(
            objective=OBJECTIVES[_set(self.objective)],
            gamma=_set(self.gamma),
            strength=self.strength,
            epochs=self.epochs,
            batch_size=self.batch_size,
            discriminator_steps=_set(self.discriminator_steps),
            replay=_set(self.replay),
            learning_rate=_set(self.learning_rate),
            discriminator_learning_rate=_set(self.discriminator_learning_rate),
            cosine=self.schedule == "cosine",
            averaging=self.averaging,
            patience=self.patience,
            valid_pixels=_set(self.valid_pixels),
        )

    def _generator(self, encoder: Classifier, context: Context) -> Generator:
        return Generator(encoder_of(encoder), _set(self.decoder_width), context.budget, _set(self.initial_scale))

    def _discriminator_backbone(self, access: Access, context: Context) -> Classifier:
        if self.discriminator != "target":
            return self._classifier(self.discriminator, self.discriminator_weights, context)
        if context.goal is Goal.DEGRADE:
            return self._classifier(access.structure, self.discriminator_weights, context)
        shared = access.module()
        return shared if isinstance(shared, Classifier) else Classifier(shared, nn.Identity())

    def _classifier(self, architecture: str | None, weights: Path | None, context: Context) -> Classifier:
        """A classifier whose body serves as a backbone, with weights of its own."""
        name = _set(architecture)
        if self.backbone == "surrogate":
            return context.surrogate(self.surrogate_spec(name, weights, context.seed))
        network = build_network(name, context.num_classes, context.image_size)
        if weights is not None:
            load_into(network, read_state(weights), source=str(weights))
        elif self.backbone == "imagenet":
            load_into(network, imagenet_state(name), source="the ImageNet weights")
        return Classifier(network, normaliser(self._normalisation(weights)))

    def surrogate_spec(self, architecture: str, weights: Path | None, seed: int) -> ClassifierSpec:
        """What the attacker trains, from local weights where they are given."""
        return ClassifierSpec(
            architecture=architecture,
            init="scratch" if weights is None else str(weights),
            normalisation=self._normalisation(weights),
            training=Training(seed=seed, epochs=self.surrogate_epochs),
        )

    def _normalisation(self, weights: Path | None) -> Normalisation:
        if weights is not None:
            return self.backbone_normalisation
        return "imagenet" if self.backbone == "imagenet" else "none"

    def _notes(self) -> list[str]:
        chosen = (
            f"PGN's {self.profile} profile: encoder {self.encoder}, decoder width {self.decoder_width:g}, "
            f"discriminator {self.discriminator}, backbone {self.backbone}"
        )
        if self.backbone != "surrogate":
            return [chosen]
        return [
            chosen,
            "no ImageNet weights as they are: encoder and discriminator start from surrogates that the attacker "
            "trained on the same fit images",
        ]


@dataclass(frozen=True)
class FittedPGN:
    """A generator, ready to use."""

    method: PGN
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


def _other_than(architecture: str, *, small: bool) -> str:
    """The discriminator's architecture for a target of unknown structure: never the target's own."""
    candidates = ("resnet18", "mobilenet_v2") if small else ("resnet101", "resnet50")
    return next(candidate for candidate in candidates if candidate != architecture)


def _saturation(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Warn where g hardly ever changed, so that nothing could be learnt."""
    accuracy = [epoch["fit_accuracy"] for epoch in history]
    validation = [epoch["validation_accuracy"] for epoch in history]
    constant = min(accuracy) > 0.97 or max(accuracy) < 0.03
    if not constant or max(validation) - min(validation) > 0.05:
        return []
    return [
        "the discriminator saturated: the target gave the same verdict on over 97% of the fit images in every epoch, "
        "and nothing was learnt; try --objective logistic, a larger --epsilon or --initial-scale, or a target that "
        "still errs on these images (--target-images)"
    ]


def _set(value: T | None) -> T:
    """A field that ``resolve`` has filled in."""
    assert value is not None, "PGN.resolve() comes before fit()"
    return value
