"""The perturbation generation network as a method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field
from torch import nn

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.files import digest_state
from advbench.methods.base import Context, Perturber, Setting, TrainingImages
from advbench.methods.pgn.base import Backbone, GeneratorMethod, filled
from advbench.methods.pgn.defaults import (
    CRITIC,
    DEGRADE,
    DEGRADE_UNBOUNDED,
    ENHANCE,
    ENHANCE_SHARED,
    PHOTOGRAPHS,
    PHOTOGRAPHS_SCRATCH,
)
from advbench.methods.pgn.lessons import Recipe
from advbench.methods.pgn.networks import Discriminator, put_layer_norms
from advbench.methods.pgn.objectives import OBJECTIVES
from advbench.methods.pgn.training import Fit
from advbench.methods.pgn.warm_up import WarmUp
from advbench.seeding import seeded
from advbench.targets import Classifier, is_own
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["PGN"]


class PGN(GeneratorMethod):
    """Perturbation generation network.

    Yoo, Park, Choi, Yun, Kwak 2018, 'Butterfly Effect: Bidirectional Control of Classification Performance by Small
    Additive Perturbation', https://arxiv.org/abs/1711.09681. A generator makes M for each image; J = I + lambda M is
    shown to the target, of which only the predicted class is used; a discriminator learns from J whether that class met
    the goal, and the generator learns to convince it (Algorithm 1). Images are ``(batch, 3, height, width)`` in [0, 1].

    ``pgn-50`` and ``pgn-101`` name the encoder, and give the discriminator the target's structure (to degrade) or its
    very weights (to enhance); ``pgn-b`` knows neither. The paper does not say which encoder its Proposed-B has: here
    ResNet-50. Where a field is None, the profile that the image size chooses fills it in, and the record shows it.

    Deviations that fields take back, as ``--scale paper`` of the butterfly suites does: under a budget, M is bounded by
    construction and J stays in [0, 1] while training (``valid_pixels``); rates fall (``schedule``), and the generator
    that is kept is a moving average over steps (``averaging``). By default the discriminator is told the true class
    (``label_aware``), remembers past steps (``replay``) and, unless it has the target's weights, is trained whole
    (``train_discriminator``); on photographs it then learns the target's answer rather than the verdict g, and warms up
    alone, and the generator has skips, a frozen encoder and three steps on each batch. Rates and the first scale are
    those of ``defaults.py``.

    Others stay: the epoch is chosen on validation images rather than the last taken; losses are means over the batch,
    and the L1 regulariser a mean over pixels, without which the paper's gammas and curves do not fit together; M is
    added to pixels in [0, 1], also where the paper's ImageNet is normalised first and its gamma weighs more; and
    ``pgn-b`` enhances too, for which the paper shares the target's weights.

    Not to be confused with TransferAttack's ``pgn``, which penalises gradient norms.

    Args:
        variant: The paper's Proposed-50, -101 or -B; the attack's name sets it.
        discriminator: Architecture of the discriminator's backbone, or ``target`` for the target's own. None: the
            variant's; for ``b`` ResNet-18, or ResNet-101 where it starts from ImageNet weights, but never the
            target's own architecture.
        discriminator_weights: A local checkpoint that the discriminator's backbone starts from, or its surrogate.
        objective: ``least-squares`` (section 3.2), ``logistic`` (appendix A.2) or ``wgan-gp``, which the paper has not:
            its five critic steps a step of the generator are on the same images, so that they cost no more queries.
        gamma: Weight of the L1 regulariser. None: 0 under a budget; else the paper's, 3 to degrade, 0.0001 to enhance.
        discriminator_learning_rate: Adam's, for the discriminator.
        discriminator_backbone: First weights of the discriminator's backbone, as ``backbone``. None: those of that,
            but ``scratch`` in the paper profile for one that has not the target's structure: it learns by asking; and
            ``surrogate`` for one with the structure of a target of timm's or one's own, which ImageNet's do not fit.
        train_discriminator: ``head``, its new last layer alone, or ``all`` of it.
        label_aware: Whether the discriminator is told an image's true class; no in the paper. Its last layer then has a
            unit for each class, and starts from that of a backbone that knows these classes.
        discriminator_learns: The ``verdict`` g, as in the paper, or the ``answer``: the class that the target gave, of
            which the verdict is one bit. For a label-aware discriminator alone. None: ``answer`` in the paper profile,
            unless the discriminator shares the target's weights.
        warm_up_epochs: For how many epochs the discriminator alone learns from the target's answers to altered fit
            images before the game begins; 0 in the paper. None: 6 where it learns answers by default. Fits of one
            target that would warm up alike share it, and each counts its queries.
        warm_up_learning_rate: Adam's then, falling to zero along a cosine. None: 1e-3 from scratch, else 1e-4.
        discriminator_steps: Updates of the discriminator for each of the generator; 1 in the paper. 0 leaves it as the
            warm-up made it.
        generator_steps: Updates of the generator on each batch; 1 in the paper. More use what D has learnt for longer,
            and ask the target nothing. None: 3 in the paper profile, unless the discriminator shares the target's
            weights.
        replay: From how many past steps of the epoch one is drawn for the discriminator to learn from again, with the
            answers that the target gave then; 0 in the paper. It costs no queries.
        augment: Whether each step mirrors and shifts its images at random, so that no epoch shows an image as the last
            did; no in the paper. What counts as turned is then told by the target's answers to the images as they are.
    """

    variant: Literal["50", "101", "b"] = "b"
    discriminator: str | None = None
    discriminator_weights: Path | None = None
    objective: Literal["least-squares", "logistic", "wgan-gp"] | None = None
    gamma: float | None = Field(default=None, ge=0)
    discriminator_learning_rate: float | None = Field(default=None, gt=0)
    discriminator_backbone: Backbone | None = None
    train_discriminator: Literal["head", "all"] | None = None
    label_aware: bool | None = None
    discriminator_learns: Literal["verdict", "answer"] | None = None
    warm_up_epochs: int | None = Field(default=None, ge=0)
    warm_up_learning_rate: float | None = Field(default=None, gt=0)
    discriminator_steps: int | None = Field(default=None, ge=0)
    generator_steps: int | None = Field(default=None, ge=1)
    replay: int | None = Field(default=None, ge=0)
    augment: bool = False

    def resolve(self, setting: Setting) -> Self:
        """Choose the profile by image size and the recipe by goal, and fill in every field that is None."""
        shared = self._judges_like_the_target and setting.goal is Goal.ENHANCE
        if shared and (self.discriminator_weights or self.discriminator_backbone):
            raise InvalidConfig(
                "--discriminator target shares the target's weights: leave out --discriminator-weights and "
                "--discriminator-backbone"
            )
        resolved = super().resolve(setting)
        backbone = None if shared else resolved.discriminator_backbone or resolved.backbone
        rate = self.warm_up_learning_rate or (1e-3 if backbone == "scratch" else 1e-4)
        resolved = resolved.model_copy(update={"discriminator_backbone": backbone, "warm_up_learning_rate": rate})
        resolved._check(shared=shared)
        if self._judges_like_the_target and not shared:
            resolved._check_structure(setting.target_architecture)
        return resolved

    def _check(self, *, shared: bool) -> None:
        """Refuse what would learn nothing."""
        answers = self.discriminator_learns == "answer"
        if answers and not self.label_aware:
            raise InvalidConfig(
                "--discriminator-learns answer needs a unit for each class: leave out --no-label-aware, "
                "or choose verdict"
            )
        if self.objective == "wgan-gp" and (answers or self.warm_up_epochs):
            raise InvalidConfig(
                "--objective wgan-gp has a critic, which parts verdicts and foretells nothing: leave out "
                "--discriminator-learns answer and --warm-up-epochs"
            )
        if self.discriminator_steps == 0 and not self.warm_up_epochs and not shared:
            raise InvalidConfig("--discriminator-steps 0 leaves a judge that has learnt nothing: give --warm-up-epochs")

    def _check_structure(self, architecture: str) -> None:
        """Refuse first weights that are not to be had of the target's structure."""
        backbone = self.discriminator_backbone
        unknown = ":" in architecture and backbone == "imagenet" and self.discriminator_weights is None
        if unknown or (is_own(architecture) and backbone != "surrogate"):
            raise InvalidConfig(
                f"--discriminator-backbone {backbone} is not to be had of {architecture}, whose structure the "
                "discriminator has: choose surrogate, which is trained on the attacker's images"
            )

    def _defaults(self, setting: Setting, *, small: bool) -> dict[str, Any]:
        degrade, bounded = setting.goal is Goal.DEGRADE, setting.budget.epsilon is not None
        chosen: dict[str, Any] = {
            "discriminator": "target",
            "discriminator_learns": "verdict",
            "warm_up_epochs": 0,
            "generator_steps": 1,
            "gamma": 0.0 if bounded else 3.0 if degrade else 1e-4,
        }
        if self.variant == "101" and not small:
            chosen["encoder"] = "resnet101"
        if not self._judges_like_the_target:
            begins_with = "scratch" if not small and self.discriminator_weights is None else None
            backbone = self.discriminator_backbone or begins_with
            chosen["discriminator_backbone"] = backbone
            chosen["discriminator"] = _other_than(setting.target_architecture, deep=not small and backbone != "scratch")
        elif degrade and ":" in setting.target_architecture and self.discriminator_weights is None:
            chosen["discriminator_backbone"] = "surrogate"
        critic = CRITIC if self.objective == "wgan-gp" else {}
        return {**chosen, **self._recipe(setting, small=small), **critic}

    def _recipe(self, setting: Setting, *, small: bool) -> Mapping[str, Any]:
        if self._judges_like_the_target and setting.goal is Goal.ENHANCE:
            return ENHANCE_SHARED
        if not small:
            untaught = self.backbone == "scratch" and self.encoder_weights is None
            return PHOTOGRAPHS_SCRATCH if untaught else PHOTOGRAPHS
        if setting.goal is Goal.ENHANCE:
            return ENHANCE
        return DEGRADE_UNBOUNDED if setting.budget.epsilon is None else DEGRADE

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
            generator = self.first_generator(train, context)
            discriminator = Discriminator(
                self._discriminator_backbone(access, train, context),
                classes=context.num_classes if self.label_aware else 0,
                goal=context.goal,
                trained=filled(self.train_discriminator),
            )
        recipe = self.recipe()
        warmth = self._warm_up(discriminator, recipe, access, train, context) if self.warm_up_epochs else []
        fit = Fit(generator, discriminator, recipe, access, train, context)
        fit.run()
        return self._fitted(fit, [self._summary(), *self._origin(), *warmth, *_saturation(fit.history)])

    def _warm_up(
        self, discriminator: Discriminator, recipe: Recipe, access: Access, train: TrainingImages, context: Context
    ) -> list[str]:
        """Warm the discriminator up, once for all fits that would do it alike, and say how well it went."""
        epochs, rate = filled(self.warm_up_epochs), filled(self.warm_up_learning_rate)
        part = {
            "discriminator": repr(discriminator),
            "start": digest_state(discriminator.state_dict()),
            "learns": self.discriminator_learns,
            "verdict": [self.objective, context.goal] if self.discriminator_learns == "verdict" else None,
            "trained": self.train_discriminator,
            "epochs": epochs,
            "rate": rate,
            "batch_size": self.batch_size,
        }
        with context.shared(part) as shared:
            warm_up = WarmUp(discriminator, recipe, epochs, rate, access, train, shared)
            warm_up.run()
        last = warm_up.history[-1]["agreement"]
        return [
            f"in the last of {epochs} warm-up epochs the discriminator foretold {last:.1%} "
            "of what the target said of altered fit images"
        ]

    def recipe(self) -> Recipe:
        """How the two networks are trained, once ``resolve`` has filled everything in."""
        objective = OBJECTIVES[filled(self.objective)]
        return Recipe(
            **self._schedule(),
            betas=objective.betas,
            objective=objective,
            gamma=filled(self.gamma),
            discriminator_learns=filled(self.discriminator_learns),
            discriminator_steps=filled(self.discriminator_steps),
            generator_steps=filled(self.generator_steps),
            replay=filled(self.replay),
            augment=self.augment,
            discriminator_learning_rate=filled(self.discriminator_learning_rate),
        )

    def _discriminator_backbone(self, access: Access, train: TrainingImages, context: Context) -> Classifier:
        if self.discriminator != "target":
            return self._judging_classifier(filled(self.discriminator), train, context)
        if context.goal is Goal.DEGRADE:
            return self._judging_classifier(access.structure, train, context)
        shared = access.module()
        return shared if isinstance(shared, Classifier) else Classifier(shared, nn.Identity())

    def _judging_classifier(self, architecture: str, train: TrainingImages, context: Context) -> Classifier:
        backbone = cast(Backbone, filled(self.discriminator_backbone))
        classifier = self._classifier(architecture, self.discriminator_weights, backbone, train, context)
        if backbone == "scratch" and OBJECTIVES[filled(self.objective)].penalty:
            put_layer_norms(classifier.network)
        return classifier

    def _summary(self) -> str:
        own = self.discriminator_backbone not in (None, self.backbone)
        return (
            f"PGN's {self.profile} profile: encoder {self.encoder}, decoder width {self.decoder_width:g}, "
            f"discriminator {self.discriminator}, backbone {self.backbone}"
            + (f", the discriminator's {self.discriminator_backbone}" if own else "")
        )


def _other_than(architecture: str, *, deep: bool) -> str:
    """The discriminator's architecture for a target of unknown structure: never the target's own."""
    candidates = ("resnet101", "resnet50") if deep else ("resnet18", "resnet34")
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
