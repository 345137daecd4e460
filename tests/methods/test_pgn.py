"""PGN: the networks are the paper's, a step is Algorithm 1, and a killed fit ends in the same numbers."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch.amp.grad_scaler import GradScaler

from advbench.access import Access, QueryLedger, fit_access
from advbench.bench import build_method
from advbench.checkpoint import Checkpoint
from advbench.datasets import Dataset
from advbench.errors import FitDiverged, InvalidConfig
from advbench.files import digest, digest_state
from advbench.methods import Context, Setting, TrainingImages
from advbench.methods.imitation import altered
from advbench.methods.pgn import (
    DECODER_CHANNELS,
    OBJECTIVES,
    PGN,
    Discriminator,
    Fit,
    Generator,
    LeastSquares,
    Lesson,
    Logistic,
    WarmUp,
    Wasserstein,
    goal_met,
    gradient_penalty,
)
from advbench.methods.pgn.networks import FirstDoubling, encoder_of, put_layer_norms
from advbench.runtime import Runtime
from advbench.targets import Classifier, ModuleTarget, build_network
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal, Norm

UNBOUNDED = Budget()


def classifier(architecture: str = "resnet18", classes: int = 10) -> Classifier:
    return Classifier(build_network(architecture, classes, 64), torch.nn.Identity())


def generator(
    budget: Budget = UNBOUNDED, width: float = 1 / 32, architecture: str = "resnet18", *, skips: bool = False
) -> Generator:
    torch.manual_seed(0)
    return Generator(encoder_of(classifier(architecture)), width, budget, 1.0, skips=skips)


def doublings(network: Generator) -> list[torch.nn.ConvTranspose2d]:
    layers = [layer for layer in network.decoder if isinstance(layer, torch.nn.ConvTranspose2d)]
    return [layer for layer in layers if layer.stride == (2, 2)]


class TestFirstDoubling:
    @pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_it_is_a_transposed_convolution(self, size: tuple[int, int], memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        own = FirstDoubling(6, 4, 4, 2, padding=1, bias=False).to(memory_format=memory_format)
        maps = torch.randn(2, 6, *size).to(memory_format=memory_format).requires_grad_()
        found, expected = own(maps), F.conv_transpose2d(maps, own.weight, stride=2, padding=1)
        weights = torch.randn_like(expected)
        assert found.shape == (2, 4, 2 * size[0], 2 * size[1])
        assert own(maps[:0]).shape == found[:0].shape
        assert torch.allclose(found, expected, atol=1e-5)
        pairs = [torch.autograd.grad((result * weights).sum(), (maps, own.weight)) for result in (found, expected)]
        for mine, theirs in zip(*pairs, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)


class TestGenerator:
    def test_the_papers_decoder(self) -> None:
        """Section 3.4: 13 transposed convolutions, five of stride 2, with these channels; about 98 million weights."""
        with torch.device("meta"):
            network = build_network_meta()
        layers = [layer for layer in network.decoder if isinstance(layer, torch.nn.ConvTranspose2d)]
        assert [layer.in_channels for layer in layers] == [2048, *DECODER_CHANNELS[:-1]]
        assert [layer.out_channels for layer in layers] == [
            2048, 1024, 512, 512, 256, 256, 256, 128, 128, 128, 64, 64, 3,
        ]  # fmt: skip
        assert [layer.kernel_size[0] for layer in layers] == [4, 3, 3] * 4 + [4]
        assert [layer.stride[0] for layer in layers] == [2, 1, 1] * 4 + [2]
        assert sum(parameter.numel() for parameter in network.decoder.parameters()) / 1e6 == pytest.approx(98, abs=1)

    @pytest.mark.parametrize("size", [28, 32, 33, 63, 64, 96, 100])
    @pytest.mark.parametrize("architecture", ["resnet18", "vgg11", "squeezenet1_1", "densenet121", "mobilenet_v2"])
    def test_its_output_has_the_images_size(self, architecture: str, size: int) -> None:
        images = torch.rand(2, 3, size, size)
        assert generator(architecture=architecture).eval()(images).shape == images.shape

    @pytest.mark.parametrize("skips", [False, True])
    def test_rectangles_too(self, skips: bool) -> None:
        assert generator(skips=skips).eval()(torch.rand(1, 3, 40, 70)).shape == (1, 3, 40, 70)

    @pytest.mark.parametrize("size", [33, 64])
    @pytest.mark.parametrize("architecture", ["resnet18", "vgg11", "squeezenet1_1", "densenet121", "mobilenet_v2"])
    def test_skips_fit_every_encoder(self, architecture: str, size: int) -> None:
        """Each doubling but the first has the encoder's map of that size among its inputs, and learns from it."""
        plain, skipping = (generator(architecture=architecture, skips=skips) for skips in (False, True))
        assert skipping(torch.rand(2, 3, size, size)).shape == (2, 3, size, size)
        maps = skipping._maps(torch.rand(2, 3, 64, 64))
        assert {16, 8, 4} <= maps.keys()
        first, *added = [
            wide.in_channels - narrow.in_channels
            for wide, narrow in zip(doublings(skipping), doublings(plain), strict=True)
        ]
        strides = (16, 8, 4, 2)
        assert first == 0
        assert added == [maps[stride].shape[1] if stride in maps else 0 for stride in strides]
        assert all(maps[stride].shape[-1] == 64 // stride for stride in strides if stride in maps)

    def test_skips_show_the_decoder_what_the_last_map_hides(self) -> None:
        network = generator(architecture="resnet18", skips=True).eval()
        seen: list[torch.Tensor] = []
        last = doublings(network)[-1]
        last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network(images := torch.rand(2, 3, 64, 64))
        body = network.encoder[1:4] if isinstance(network.encoder, torch.nn.Sequential) else None
        assert body is not None  # conv1, bn1, relu: the encoder's last map of stride 2
        with torch.no_grad():
            expected = body(images)
        assert torch.allclose(seen[0][:, -expected.shape[1] :], expected, atol=1e-6)

    @settings(deadline=None, max_examples=20)
    @given(st.floats(1e-3, 1.0), st.floats(0.01, 1e4))
    def test_budgets_are_kept_by_construction(self, epsilon: float, scale: float) -> None:
        images = torch.rand(3, 3, 32, 32)
        for norm, order in ((Norm.LINF, float("inf")), (Norm.L2, 2.0)):
            bounded = generator(Budget(norm=norm, epsilon=epsilon)).eval()
            with torch.no_grad():
                bounded.decoder[-1].weight.mul_(scale)  # type: ignore[operator]
                sizes = bounded(images).flatten(1).norm(p=order, dim=1)
            assert (sizes <= epsilon * (1 + 1e-5)).all()

    @pytest.mark.parametrize("size", [95, 107, 223])
    def test_a_larger_size_is_met_to_the_pixel(self, size: int) -> None:
        larger = Generator(generator().encoder, 1 / 32, UNBOUNDED, 1.0, size=224).eval()
        assert larger._scaled(torch.rand(1, 3, size, size)).shape[-2:] == (224, 224)

    @pytest.mark.parametrize("size", [32, 64, 100])
    def test_a_larger_size_is_its_own_affair(self, size: int) -> None:
        """The encoder sees larger images, the decoder works at that size, and M fits the image within the budget."""
        own = generator(Budget(epsilon=0.1))
        larger = Generator(own.encoder, 1 / 32, Budget(epsilon=0.1), 50.0, size=128).eval()
        larger.decoder.load_state_dict(own.decoder.state_dict())
        seen: list[torch.Size] = []
        larger.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        images = torch.rand(2, 3, size, size)
        moved = larger(images)
        assert seen == [(2, 3, 128, 128)]
        assert moved.shape == images.shape
        assert moved.abs().max() <= 0.1

    def test_a_size_that_the_image_already_has_changes_nothing(self) -> None:
        own = generator()
        same = Generator(own.encoder, 1 / 32, UNBOUNDED, 1.0, size=64).eval()
        same.decoder.load_state_dict(own.decoder.state_dict())
        images = torch.rand(2, 3, 64, 64)
        assert torch.equal(same(images), own.eval()(images))

    def test_a_frozen_encoder_neither_learns_nor_drifts(self) -> None:
        frozen = Generator(encoder_of(classifier()), 1 / 32, UNBOUNDED, 1.0, trained="decoder").train()
        before = copy.deepcopy(frozen.encoder.state_dict())
        frozen(torch.rand(4, 3, 64, 64)).mean().backward()
        assert all(parameter.grad is None for parameter in frozen.encoder.parameters())
        assert all(parameter.grad is not None for parameter in frozen.decoder.parameters())
        assert all(torch.equal(value, frozen.encoder.state_dict()[name]) for name, value in before.items())

    def test_a_network_without_a_feature_map_is_refused(self) -> None:
        with pytest.raises(InvalidConfig, match="cannot serve as an encoder|no feature map"):
            encoder_of(classifier("vit_b_16"))


def build_network_meta() -> Generator:
    """The paper's generator without its numbers, so that it costs nothing."""

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            import torchvision

            self.body = torch.nn.Sequential(*list(torchvision.models.resnet50().children())[:-2])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.body(images)
            return features

    return Generator(Encoder(), 1.0, UNBOUNDED, 1.0)


class TestDiscriminator:
    @pytest.mark.parametrize("architecture", ["resnet18", "vgg11", "densenet121", "mobilenet_v2", "squeezenet1_1"])
    def test_it_has_one_unit_and_a_frozen_backbone(self, architecture: str) -> None:
        judge = Discriminator(classifier(architecture), classes=0, goal=Goal.DEGRADE, trained="head")
        images, labels = torch.rand(3, 3, 64, 64), torch.tensor([0, 1, 2])
        assert judge(images, labels).shape == (3,)
        assert torch.equal(judge(images, labels), judge(images, labels.flip(0))), "it must not see the label"
        trained = [name for name, parameter in judge.named_parameters() if parameter.requires_grad]
        assert trained == ["head.weight", "head.bias"]
        assert not any(module.training for module in judge.modules())

    @pytest.mark.parametrize("goal", Goal)
    def test_a_label_aware_one_starts_as_the_classifier_it_is_made_of(self, goal: Goal) -> None:
        network = classifier().eval()
        images, labels = torch.rand(4, 3, 64, 64), torch.tensor([3, 1, 4, 1])
        expected = network(images).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        judge = Discriminator(network, classes=10, goal=goal, trained="all")
        judged = judge(images, labels).sigmoid()
        assert torch.allclose(judged, expected if goal is Goal.ENHANCE else 1 - expected, atol=1e-5)
        assert all(parameter.requires_grad for parameter in judge.parameters())


class TestObjectives:
    LOGITS = torch.tensor([-2.0, 0.0, 3.0])
    G = torch.tensor([1.0, 0.0, 1.0])

    def test_the_target_variable(self) -> None:
        predicted, labels = torch.tensor([1, 2, 3]), torch.tensor([1, 0, 3])
        assert goal_met(predicted, labels, Goal.ENHANCE).tolist() == [1, 0, 1]  # equation 4
        assert goal_met(predicted, labels, Goal.DEGRADE).tolist() == [0, 1, 0]  # equation 10

    def test_least_squares_is_equations_7_and_8(self) -> None:
        judged = self.LOGITS.sigmoid()
        expected = 0.5 * ((judged[0] - 1) ** 2 + judged[1] ** 2 + (judged[2] - 1) ** 2) / 3
        assert torch.allclose(LeastSquares().discriminator(self.LOGITS, self.G), expected)
        assert torch.allclose(LeastSquares().generator(self.LOGITS), 0.5 * ((judged - 1) ** 2).mean())

    def test_logistic_is_equations_25_and_26(self) -> None:
        judged = self.LOGITS.sigmoid()
        expected = -0.5 * (judged[0].log() + (1 - judged[1]).log() + judged[2].log()) / 3
        assert torch.allclose(Logistic().discriminator(self.LOGITS, self.G), expected)
        assert torch.allclose(Logistic().generator(self.LOGITS), -0.5 * judged.log().mean())

    def test_wgan_gp_is_algorithm_1(self) -> None:
        """Gulrajani et al. 2017, line 7 without the penalty, and line 12."""
        expected = self.LOGITS[1] - (self.LOGITS[0] + self.LOGITS[2]) / 2
        assert torch.allclose(Wasserstein().discriminator(self.LOGITS, self.G), expected)
        assert torch.allclose(Wasserstein().generator(self.LOGITS), -self.LOGITS.mean())
        assert (Wasserstein.penalty, Wasserstein.betas) == (10, (0, 0.9))

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_wgan_gp_has_no_distance_where_all_verdicts_are_one(self, value: float) -> None:
        """Else a critic could lower its loss for ever by its bias, which no penalty holds."""
        assert Wasserstein().discriminator(self.LOGITS, torch.full((3,), value)) == 0

    @pytest.mark.parametrize("name", ["least-squares", "logistic"])
    def test_an_optimal_discriminator_is_the_share_of_met_goals(self, name: str) -> None:
        """Propositions 1 and 3: for samples it cannot tell apart, the best D is p(g = 1)."""
        g = (torch.arange(1000) < 300).float()
        logit = torch.zeros((), requires_grad=True)
        for _ in range(400):
            (gradient,) = torch.autograd.grad(OBJECTIVES[name].discriminator(logit.expand(1000), g), logit)
            logit = (logit - 10 * gradient).detach().requires_grad_()
        assert logit.sigmoid().item() == pytest.approx(0.3, abs=1e-3)

    def test_only_the_logistic_generator_keeps_its_gradient_where_d_is_near_zero(self) -> None:
        gradients = {}
        for name, objective in OBJECTIVES.items():
            logit = torch.tensor([-8.0], requires_grad=True)
            gradients[name] = torch.autograd.grad(objective.generator(logit), logit)[0].abs().item()
        assert gradients["least-squares"] < 1e-3 < 0.4 < gradients["logistic"]


class TestGradientPenalty:
    """A critic that is linear has one gradient everywhere; a quadratic one tells where it was asked."""

    @pytest.mark.parametrize("g", [(1, 0, 1, 0), (1, 1, 1, 1), (0, 0, 0, 0)])
    def test_of_a_linear_critic_it_is_the_distance_of_its_weights_from_unit_length(self, g: tuple[int, ...]) -> None:
        judge = Discriminator(classifier(), classes=0, goal=Goal.DEGRADE, trained="head")
        lesson = Lesson(torch.rand(4, 512), torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long))
        expected = (judge.head.weight.norm() - 1).square()
        assert torch.allclose(gradient_penalty(judge, lesson, torch.tensor(g).float()), expected, atol=1e-6)

    def test_features_of_another_precision_serve_as_well(self) -> None:
        judge = Discriminator(classifier(), classes=0, goal=Goal.DEGRADE, trained="head")
        labels = torch.zeros(4, dtype=torch.long)
        lesson = Lesson(torch.rand(4, 512).bfloat16(), labels, labels)
        expected = (judge.head.weight.norm() - 1).square()
        assert torch.allclose(gradient_penalty(judge, lesson, torch.eye(4)[0]), expected, atol=1e-6)

    def test_a_fresh_critic_normalises_each_image_by_itself(self) -> None:
        """Layer norm, as the paper has it: images an arbitrary contrast apart give features of one size."""
        fresh = classifier()
        put_layer_norms(fresh.network)
        assert not [layer for layer in fresh.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        critic = Discriminator(fresh, classes=0, goal=Goal.DEGRADE, trained="all")
        images = torch.rand(4, 3, 32, 32)
        features = critic.features(images)
        assert torch.allclose(features[:1], critic.features(images[:1]), atol=1e-5)
        assert torch.allclose(features, critic.features(100 * images), rtol=1e-2, atol=1e-2)

    def test_it_is_asked_for_between_the_two_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All that met the goal lie at 0, all others at 4: the points between lie on the way, and not at its ends."""
        judge = Discriminator(classifier(), classes=0, goal=Goal.DEGRADE, trained="all")
        seen: list[torch.Tensor] = []

        def features(images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach())
            return images.flatten(1)[:, :512]

        monkeypatch.setattr(judge, "features", features)
        g = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        images = (4 * (1 - g))[:, None, None, None].expand(6, 3, 32, 32)
        labels = torch.zeros(6, dtype=torch.long)
        penalty = gradient_penalty(judge, Lesson(images, labels, labels), g)
        (between,) = seen
        assert ((between > 0) & (between < 4)).all()
        assert torch.allclose(between, between[:, :1, :1, :1].expand_as(between)), "a sample has one share"
        assert torch.autograd.grad(penalty, judge.head.weight)[0].abs().sum() > 0, "the critic cannot learn from it"


class Setup:
    """A small fit on real digits."""

    def __init__(self, digits: Dataset, target: ModuleTarget, goal: Goal = Goal.DEGRADE, **options: Any) -> None:
        self.target = target
        budget = Budget(epsilon=0.3)
        chosen: dict[str, Any] = {"backbone": "scratch", "epochs": 3, "decoder_width": 0.02, "batch_size": 32} | options
        setting = Setting(goal, budget, 32, target.architecture)
        self.method = build_method("pgn-b", chosen).resolve(setting)
        self.train = TrainingImages(digits.fit.first(96, seed=1, what=""), digits.validation.first(30, seed=1, what=""))
        self.context = Context(goal, budget, 0, 32, 10, runtime=Runtime(device="cpu"), identity="test")
        self.labels = torch.cat([self.train.fit.labels, self.train.validation.labels])
        self.ledger = QueryLedger(len(self.labels))

    def access(self) -> Any:
        self.ledger = QueryLedger(len(self.labels))
        return fit_access(self.target, THREATS["black-box-labels"], self.ledger, self.labels)

    def fit(self, work: Path | None = None) -> Any:
        return self.method.fit(self.access(), self.train, replace(self.context, work=work))


class TestStep:
    """Algorithm 1, line by line, against a plain transcription."""

    @pytest.mark.parametrize("trained", ["head", "all"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_a_step_is_algorithm_1(self, trained: str, objective: str, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(
            digits, target, objective=objective, train_discriminator=trained, schedule="constant", gamma=0.5,
            discriminator_steps=1, replay=0,
        )  # fmt: skip
        method = setup.method
        assert isinstance(method, PGN)
        torch.manual_seed(0)
        networks = (
            generator(Budget(epsilon=0.3)),
            Discriminator(classifier(), classes=0, goal=Goal.DEGRADE, trained=trained),
        )
        g_network, d_network = copy.deepcopy(networks)
        fit = Fit(*networks, method.recipe(), setup.access(), setup.train, setup.context)
        fit._set_rates(0)
        rows = torch.arange(16)
        images, labels = setup.train.fit.images(rows), setup.train.fit.labels[rows]
        fit.generator.train()
        torch.manual_seed(1)  # for the points where the gradient penalty is asked for
        figures = fit.step(images, labels, rows)

        g_network.train()
        learnt = [parameter for parameter in d_network.parameters() if parameter.requires_grad]
        g_rate, d_rate = method.learning_rate or 0, method.discriminator_learning_rate or 0
        losses = OBJECTIVES[objective]
        g_optimizer = torch.optim.Adam(g_network.parameters(), lr=g_rate, betas=losses.betas)
        d_optimizer = torch.optim.Adam(learnt, lr=d_rate, betas=losses.betas)
        m = g_network(images)  # lines 5 to 10
        j = (images + m).clamp(0, 1)
        r = target.labels(j)
        g = goal_met(r, labels, Goal.DEGRADE)
        discriminator_loss = losses.discriminator(d_network(j.detach(), labels), g)
        if losses.penalty:
            torch.manual_seed(1)
            seen = d_network.features(j).detach() if trained == "head" else j.detach()
            discriminator_loss = discriminator_loss + 10 * gradient_penalty(d_network, Lesson(seen, labels, r), g)
        discriminator_loss.backward()
        d_optimizer.step()
        # Adam's first step is the rate times the gradient's sign, which rounding decides where it is near zero; so
        # the optimizers' states are compared, which hold a share of the gradients, the steps by their size, and the
        # generator is judged by the very discriminator that the fit had then.
        for own, other in zip(fit.judged, learnt, strict=True):
            assert (own - other).abs().max() < 2.01 * d_rate
        d_network.load_state_dict(fit.discriminator.state_dict())
        l1 = m.abs().mean()  # lines 11 to 13
        generator_loss = losses.generator(d_network(j, labels))
        (generator_loss + 0.5 * l1).backward()
        g_optimizer.step()

        assert torch.equal(figures.answers, r)
        assert figures.discriminator_loss is not None
        assert figures.discriminator_loss.item() == pytest.approx(discriminator_loss.item(), rel=1e-4)
        assert figures.generator_loss.item() == pytest.approx(generator_loss.item(), rel=1e-4)
        assert figures.l1.item() == pytest.approx(l1.item(), rel=1e-4)
        for own, other in zip(fit.generator.parameters(), g_network.parameters(), strict=True):
            assert (own - other).abs().max() < 2.01 * g_rate
        # Through the decoder's batch norms over 16 images, rounding grows to 0.4% of the generator's gradient.
        for optimizers, mine, theirs, rounding in (
            ((fit.discriminator_optimizer, d_optimizer), fit.judged, learnt, 1e-3),
            ((fit.generator_optimizer, g_optimizer), fit.generator.parameters(), g_network.parameters(), 2e-2),
        ):
            pairs = list(zip(mine, theirs, strict=True))
            found, expected = (
                torch.cat([optimizer.state[pair[side]]["exp_avg"].double().flatten() for pair in pairs])
                for side, optimizer in enumerate(optimizers)
            )
            assert F.cosine_similarity(found, expected, dim=0) > 0.999
            assert found.norm() == pytest.approx(expected.norm().item(), rel=rounding)

    def test_more_steps_of_the_generator_ask_nothing_more(self, digits: Dataset, target: ModuleTarget) -> None:
        """The first is Algorithm 1's; the others start from where it ends, and leave D as it is."""
        judged, moved, rows = [], [], torch.arange(16)
        for steps in (1, 3):
            setup = Setup(digits, target, generator_steps=steps, discriminator_backbone="scratch")
            method = setup.method
            assert isinstance(method, PGN)
            torch.manual_seed(0)
            judge = Discriminator(classifier(), classes=10, goal=Goal.DEGRADE, trained="all")
            fit = Fit(
                generator(Budget(epsilon=0.3)), judge, method.recipe(), setup.access(), setup.train, setup.context
            )
            fit.generator.train()
            fit.step(setup.train.fit.images(rows), setup.train.fit.labels[rows], rows)
            assert setup.ledger.queries.sum() == 16
            assert fit.steps == steps
            judged.append(digest_state(fit.discriminator.state_dict()))
            moved.append(torch.cat([p.detach().flatten() for p in fit.generator.parameters()]))
        assert judged[0] == judged[1]
        assert not torch.equal(*moved)

    def test_a_frozen_encoder_sees_a_batch_once(self, digits: Dataset, target: ModuleTarget) -> None:
        """However many steps the generator takes on it, and they end in the same numbers."""
        learnt, passes, rows = [], [], torch.arange(16)
        for is_known_to_be_frozen in (True, False):
            setup = Setup(digits, target, generator_steps=3, discriminator_backbone="scratch")
            method = setup.method
            assert isinstance(method, PGN)
            torch.manual_seed(0)
            judge = Discriminator(classifier(), classes=10, goal=Goal.DEGRADE, trained="all")
            own = Generator(encoder_of(classifier()), 1 / 32, Budget(epsilon=0.3), 1.0, trained="decoder", skips=True)
            fit = Fit(own, judge, method.recipe(), setup.access(), setup.train, setup.context)
            fit.generator.train()
            own.is_encoder_frozen = is_known_to_be_frozen
            seen: list[int] = []
            next(iter(own.encoder.children())).register_forward_hook(lambda *_, seen=seen: seen.append(1))
            fit.step(setup.train.fit.images(rows), setup.train.fit.labels[rows], rows)
            passes.append(len(seen))
            learnt.append(digest_state(own.state_dict()))
        assert passes == [1, 3]
        assert learnt[0] == learnt[1]

    @pytest.mark.parametrize("steps", [1, 3])
    def test_the_rates_fall_to_nothing_by_the_last_batch(
        self, steps: int, digits: Dataset, target: ModuleTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares: list[float] = []
        plain = Fit._set_rates

        def watched(fit: Fit, done: float) -> None:
            plain(fit, done)
            shares.append(fit.generator_optimizer.param_groups[0]["lr"] / fit.schedule.learning_rate)

        monkeypatch.setattr(Fit, "_set_rates", watched)
        Setup(digits, target, generator_steps=steps, epochs=2).fit()
        assert shares == pytest.approx([(1 + math.cos(math.pi * done / 6)) / 2 for done in range(6)])

    @pytest.mark.parametrize("augment", [False, True])
    def test_fit_images_are_mirrored_and_shifted_where_asked(
        self, augment: bool, digits: Dataset, target: ModuleTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the steps of the game, each time otherwise; not where the target says what it makes of I itself."""
        options: dict[str, Any] = {"augment": augment, "lambda": 1e-9}  # M is nothing: what is asked about is I
        setup = Setup(digits, target, **options)
        own = torch.cat([part.images(torch.arange(len(part))) for part in (setup.train.fit, setup.train.validation)])
        ask, steps = Access.labels, []

        def watched(access: Access, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            if setup.ledger.queries[rows].max() and rows.max() < 96:  # the first question is about I itself
                steps.append((own[rows], images))
            else:
                torch.testing.assert_close(images, own[rows])
            return ask(access, images, rows)

        monkeypatch.setattr(Access, "labels", watched)
        setup.fit()
        assert len(steps) == 9
        moved = {self._movement(images, seen) for images, seen in steps}
        assert all(len(mirrored) == 32 for mirrored, _ in moved), "a step saw something else than a moved fit image"
        assert (moved == {((False,) * 32, (0, 0))}) is not augment
        assert len(moved) == (9 if augment else 1), "two steps moved their images alike"

    @staticmethod
    def _movement(images: torch.Tensor, seen: torch.Tensor) -> tuple[tuple[bool, ...], tuple[int, int]]:
        """Which images of a batch are mirrored, and by how many pixels all are shifted, to be what was seen."""
        reach = range(-4, 5)
        for shift in ((down, right) for down in reach for right in reach):
            versions = torch.stack([images, images.flip(3)]).roll(shift, (3, 4))
            is_version = (versions - seen).abs().flatten(2).amax(dim=2) < 1e-6
            if is_version.any(dim=0).all():
                return tuple((~is_version[0]).tolist()), shift
        return (), (0, 0)

    def test_what_fitting_asks_is_counted(self, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(digits, target, epochs=2)
        setup.fit()
        # Each fit image once clean and once an epoch; each validation image once an epoch.
        assert setup.ledger.queries[:96].tolist() == [3] * 96
        assert setup.ledger.queries[96:].tolist() == [2] * 30
        assert setup.ledger.gradients.sum() == 0


class TestWarmUp:
    OPTIONS: Mapping[str, Any] = {"label_aware": True, "discriminator_learns": "answer", "warm_up_epochs": 2}

    @pytest.mark.parametrize("learns", ["answer", "verdict"])
    def test_the_discriminator_comes_to_foretell_the_target(
        self, learns: str, digits: Dataset, target: ModuleTarget
    ) -> None:
        setup = Setup(digits, target)
        torch.manual_seed(0)
        judge = Discriminator(classifier(), classes=10, goal=Goal.DEGRADE, trained="all")
        method = setup.method.model_copy(update={"discriminator_learns": learns})
        assert isinstance(method, PGN)
        warm_up = WarmUp(judge, method.recipe(), 8, 1e-3, setup.access(), setup.train, setup.context)
        warm_up.run()
        first, *_, last = warm_up.history
        assert last["loss"] < 0.8 * first["loss"]
        assert last["agreement"] > first["agreement"] + 0.15
        assert not judge.training
        validation = setup.train.validation.images(torch.arange(30))
        with torch.no_grad():
            guessed = judge.scores(judge.features(validation)).argmax(dim=1)
        if learns == "answer":
            assert (guessed == target.labels(validation)).float().mean() > 0.3  # 0.1 is chance

    def test_it_asks_once_an_epoch_and_never_for_a_gradient(self, digits: Dataset, target: ModuleTarget) -> None:
        setup = Setup(digits, target, epochs=1, **self.OPTIONS)
        fitted = setup.fit()
        # Each fit image once in each epoch of the warm-up, once clean and once in the game's only epoch.
        assert setup.ledger.queries[:96].tolist() == [4] * 96
        assert setup.ledger.queries[96:].tolist() == [1] * 30
        assert setup.ledger.gradients.sum() == 0
        assert any("2 warm-up epochs" in note for note in fitted.notes())

    def test_fits_of_one_target_share_it(
        self, digits: Dataset, target: ModuleTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A fit that finds it asks the target nothing anew, counts it all the same, and ends in the same numbers."""
        setup = Setup(digits, target, epochs=1, **self.OPTIONS)
        alone = setup.fit()
        counted = setup.ledger.queries
        parts: list[Mapping[str, Any]] = []

        @contextmanager
        def shared_work(part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
            parts.append(part)
            folder = tmp_path / digest(dict(part))
            folder.mkdir(exist_ok=True)
            yield folder, digest(dict(part))

        setup.context = replace(setup.context, shared_work=shared_work)
        answer, asked = ModuleTarget.scores, [0, 0]
        for turn in range(2):

            def counting(self: ModuleTarget, images: torch.Tensor, turn: int = turn, **options: Any) -> torch.Tensor:
                asked[turn] += len(images)
                return answer(self, images, **options)

            monkeypatch.setattr(ModuleTarget, "scores", counting)
            shared = setup.fit()
            assert shared.history() == alone.history()
            assert shared.notes() == alone.notes()
            assert all(torch.equal(value, shared.state()[name]) for name, value in alone.state().items())
            assert torch.equal(setup.ledger.queries, counted)
        assert asked[0] - asked[1] == 2 * 96, "the second fit warmed up anew"
        assert parts[0] == parts[1]

    @pytest.mark.parametrize(
        ("option", "differs"),
        [({"warm_up_epochs": 1}, True), ({"warm_up_learning_rate": 1e-4}, True), ({"batch_size": 16}, True),
         ({"discriminator_learns": "verdict"}, True), ({"epochs": 2}, False), ({"learning_rate": 0.1}, False)],
    )  # fmt: skip
    def test_only_what_it_hangs_on_tells_warm_ups_apart(
        self, option: dict[str, Any], differs: bool, digits: Dataset, target: ModuleTarget
    ) -> None:
        parts = []

        def shared_work(part: Mapping[str, Any]) -> NoReturn:
            parts.append(digest(dict(part)))
            raise KeyboardInterrupt

        for options in ({}, option):
            setup = Setup(digits, target, **{"epochs": 1, **self.OPTIONS, **options})
            setup.context = replace(setup.context, shared_work=shared_work)
            with pytest.raises(KeyboardInterrupt):
                setup.fit()
        assert (parts[0] != parts[1]) is differs

    def test_a_discriminator_that_is_left_alone_stays_as_the_warm_up_made_it(
        self, digits: Dataset, target: ModuleTarget
    ) -> None:
        setup = Setup(digits, target, epochs=1, discriminator_steps=0, **self.OPTIONS)
        assert isinstance(setup.method, PGN)
        judge = Discriminator(classifier(), classes=10, goal=Goal.DEGRADE, trained="all")
        before = copy.deepcopy(judge.state_dict())
        fit = Fit(
            generator(Budget(epsilon=0.3)), judge, setup.method.recipe(), setup.access(), setup.train, setup.context
        )
        fit.run()
        assert all(torch.equal(value, judge.state_dict()[name]) for name, value in before.items())
        assert fit.history[0].keys().isdisjoint({"discriminator_loss"}), "it has no loss of its own, not one of 0"

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 10_000), st.integers(8, 40), st.integers(1, 5))
    def test_altered_images_are_other_valid_images(self, seed: int, size: int, count: int) -> None:
        torch.manual_seed(seed)
        images = torch.rand(count, 3, size, size)
        changed = altered(images)
        assert changed.shape == images.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert not torch.equal(changed, images)


class TestFit:
    def test_the_best_epoch_on_validation_images_is_kept(self, digits: Dataset, target: ModuleTarget) -> None:
        fitted = Setup(digits, target, epochs=4).fit()
        accuracies = [epoch["validation_accuracy"] for epoch in fitted.history()]
        assert accuracies[fitted.best_epoch - 1] == min(accuracies)

    def test_patience_stops_early(self, digits: Dataset, target: ModuleTarget) -> None:
        # Nothing is learnt at such a rate, and a tie counts as better, so only a worse epoch can end the patience.
        fitted = Setup(digits, target, epochs=30, patience=1, learning_rate=1e-2, initial_scale=4).fit()
        assert len(fitted.history()) <= 30
        assert len(fitted.history()) - fitted.best_epoch <= 1

    @pytest.mark.parametrize(
        ("goal", "options"),
        [
            (Goal.ENHANCE, {}),
            (Goal.DEGRADE, {**TestWarmUp.OPTIONS, "warm_up_epochs": 1, "augment": True}),
        ],
    )
    def test_killed_after_any_epoch_it_ends_in_the_same_numbers(
        self, goal: Goal, options: dict[str, Any], digits: Dataset, target: ModuleTarget, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        setup = Setup(digits, target, goal, **options)
        whole = setup.fit()
        asked = setup.ledger.queries
        save = Checkpoint.save

        def save_and_die(self: Checkpoint, state: dict[str, Any]) -> NoReturn:
            save(self, {**state, "seconds": 1000.0})
            raise KeyboardInterrupt

        resumed, kills = None, 0
        monkeypatch.setattr(Checkpoint, "save", save_and_die)
        while resumed is None:
            try:
                resumed = setup.fit(tmp_path)
            except KeyboardInterrupt:
                kills += 1
        assert kills >= 2
        assert torch.equal(setup.ledger.queries, asked), "what was asked before the kill was forgotten"
        assert 1000 < setup.ledger.seconds() < 1300, "what was done before took no time"
        assert resumed.history() == whole.history()
        assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())

    def test_with_a_loss_scale_too_and_whatever_was_fitted_before(
        self, digits: Dataset, target: ModuleTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """--precision 16-mixed scales its losses, by less while gradients overflow, by more while they do not.

        Here on a CPU, which has no such precision, in bfloat16 and by more than float16 would need.
        """
        monkeypatch.setattr(torch.amp, "GradScaler", partial(GradScaler, init_scale=2.0**127, growth_interval=6))
        plugin = MixedPrecision("bf16-mixed", "cpu")
        fabric = Fabric(accelerator="cpu", plugins=plugin)
        plugin.scaler = torch.amp.GradScaler("cpu")
        monkeypatch.setattr("advbench.runtime._launched", lambda _: fabric)
        skipped: list[bool] = []
        update = GradScaler.update

        def watched(self: GradScaler) -> None:
            before = self.get_scale()
            update(self)
            skipped.append(self.get_scale() < before)

        monkeypatch.setattr(GradScaler, "update", watched)
        # G's loss, the third of each step, is not finite if scaled by so much; by an eighth as much it is.
        setup = Setup(digits, target, gamma=12.0, initial_scale=4.0, learning_rate=1e-6)
        whole = setup.fit()
        assert [step for step, is_skipped in enumerate(skipped, 1) if is_skipped] == [3, 6, 9, 18, 27]
        assert setup.fit().history() == whole.history()

        finished = Fit._finish_epoch

        def die_in_the_last(self: Fit, task: Any, figures: dict[str, float]) -> None:
            if figures["epoch"] == 3:
                raise KeyboardInterrupt
            finished(self, task, figures)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Fit, "_finish_epoch", die_in_the_last)
            setup.fit(tmp_path)
        resumed = setup.fit(tmp_path)
        assert resumed.history() == whole.history()
        assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())

    def test_another_fits_checkpoint_is_not_resumed(
        self, digits: Dataset, target: ModuleTarget, tmp_path: Path
    ) -> None:
        setup = Setup(digits, target, epochs=1)
        setup.fit(tmp_path)
        setup.context = replace(setup.context, identity="another")
        setup.fit(tmp_path)
        assert setup.ledger.queries.sum() > 0, "it resumed what was another fit's"

    @pytest.mark.parametrize(
        ("objective", "normalised"), [("wgan-gp", torch.nn.GroupNorm), ("logistic", torch.nn.BatchNorm2d)]
    )
    def test_a_critic_from_scratch_alone_has_layer_norms(
        self,
        objective: str,
        normalised: type,
        digits: Dataset,
        target: ModuleTarget,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        kinds: set[type] = set()
        run = Fit.run

        def watched(fit: Fit) -> None:
            kinds.update(type(layer) for layer in fit.discriminator.modules())
            run(fit)

        monkeypatch.setattr(Fit, "run", watched)
        Setup(digits, target, objective=objective, epochs=1).fit()
        assert kinds & {torch.nn.GroupNorm, torch.nn.BatchNorm2d} == {normalised}

    def test_losses_that_are_not_finite_end_the_fit(
        self, digits: Dataset, target: ModuleTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(OBJECTIVES, "logistic", _Broken())
        with pytest.raises(FitDiverged, match="epoch 1: try a lower --learning-rate"):
            Setup(digits, target).fit()

    def test_a_discriminator_that_sees_one_verdict_only_is_warned_of(self, digits: Dataset) -> None:
        class Stubborn(torch.nn.Module):
            """Right or wrong, always class 0: no perturbation changes it."""

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return F.one_hot(torch.zeros(len(images), dtype=torch.long), 10).to(images.dtype)

        setup = Setup(digits, ModuleTarget(Stubborn(), 10), epochs=2)
        zeros = setup.train.fit.labels == 0
        only = setup.train.fit.subset(zeros.nonzero()[:, 0])
        setup.train = TrainingImages(only, setup.train.validation)
        setup.labels = torch.cat([only.labels, setup.train.validation.labels])
        assert any("saturated" in note and "--target-images" in note for note in setup.fit().notes())


class _Broken(Logistic):
    def generator(self, logits: torch.Tensor) -> torch.Tensor:
        return super().generator(logits) * torch.nan


class TestResolution:
    def resolved(self, attack: str, goal: Goal, size: int, architecture: str = "densenet169", **options: Any) -> PGN:
        method = build_method(attack, options)
        found = method.resolve(Setting(goal, UNBOUNDED, size, architecture))
        assert isinstance(found, PGN)
        return found

    def test_the_small_profile(self) -> None:
        small = self.resolved("pgn-101", Goal.DEGRADE, 32)
        assert (small.encoder, small.decoder_width, small.backbone) == ("resnet18", 0.25, "surrogate")

    def test_the_paper_profile(self) -> None:
        assert self.resolved("pgn-50", Goal.DEGRADE, 224).encoder == "resnet50"
        assert self.resolved("pgn-101", Goal.DEGRADE, 224).encoder == "resnet101"
        paper = self.resolved("pgn-b", Goal.DEGRADE, 224)
        assert (paper.discriminator, paper.decoder_width, paper.backbone) == ("resnet18", 1.0, "imagenet")
        assert (paper.discriminator_backbone, paper.discriminator_learns, paper.warm_up_epochs) == (
            "scratch",
            "answer",
            6,
        )
        theirs = self.resolved("pgn-b", Goal.DEGRADE, 224, discriminator_backbone="imagenet")
        assert (theirs.discriminator, theirs.discriminator_backbone) == ("resnet101", "imagenet")
        known = self.resolved("pgn-50", Goal.DEGRADE, 224)
        assert (known.discriminator, known.discriminator_backbone) == ("target", "imagenet")
        assert paper.gamma == 3
        assert paper.generator_size == 224
        assert self.resolved("pgn-50", Goal.ENHANCE, 224).gamma == 1e-4

    def test_the_generator_keeps_up_on_photographs(self) -> None:
        """Where the discriminator learns answers; the paper's own game, and small images, are as they were."""

        def recipe(attack: str, goal: Goal, size: int, **options: Any) -> tuple[object, ...]:
            found = self.resolved(attack, goal, size, **options)
            return found.train_generator, found.skips, found.batch_size, found.generator_steps

        for goal in Goal:
            assert recipe("pgn-b", goal, 96) == ("decoder", True, 16, 3)
            assert recipe("pgn-b", goal, 32) == ("all", False, 64, 1)
        assert recipe("pgn-50", Goal.ENHANCE, 96) == ("all", False, 64, 1)
        assert recipe("pgn-b", Goal.DEGRADE, 96, skips=False, batch_size=64) == ("decoder", False, 64, 3)
        assert recipe("pgn-b", Goal.DEGRADE, 96, backbone="scratch") == ("all", True, 16, 3)
        taught = {"backbone": "scratch", "encoder_weights": "some.safetensors"}
        assert recipe("pgn-b", Goal.DEGRADE, 96, **taught) == ("decoder", True, 16, 3)

    def test_an_unknown_structure_is_never_the_targets_own(self) -> None:
        for size, architecture in ((32, "resnet18"), (224, "resnet101")):
            assert self.resolved("pgn-b", Goal.DEGRADE, size, architecture).discriminator != architecture

    def test_an_encoder_that_is_asked_for_is_taken(self) -> None:
        """Also where it is the one that the variant would have at another size."""
        assert self.resolved("pgn-50", Goal.DEGRADE, 32, encoder="resnet50").encoder == "resnet50"
        assert self.resolved("pgn-b", Goal.DEGRADE, 224, profile="small").encoder == "resnet18"

    def test_an_answer_needs_a_unit_for_each_class(self) -> None:
        with pytest.raises(InvalidConfig, match="needs a unit for each class"):
            self.resolved("pgn-b", Goal.DEGRADE, 96, discriminator_learns="answer", label_aware=False)

    def test_a_critic_parts_verdicts(self) -> None:
        critic = self.resolved("pgn-b", Goal.DEGRADE, 224, objective="wgan-gp")
        assert (critic.discriminator_steps, critic.discriminator_learns, critic.warm_up_epochs) == (5, "verdict", 0)
        assert critic.generator_steps == 1
        assert (
            self.resolved("pgn-b", Goal.DEGRADE, 32, objective="wgan-gp", discriminator_steps=2).discriminator_steps
            == 2
        )
        for option in ({"discriminator_learns": "answer"}, {"warm_up_epochs": 3}):
            with pytest.raises(InvalidConfig, match="parts verdicts and foretells nothing"):
                self.resolved("pgn-b", Goal.DEGRADE, 224, objective="wgan-gp", **option)

    @pytest.mark.parametrize(
        "option", [{"discriminator_weights": "some.safetensors"}, {"discriminator_backbone": "scratch"}]
    )
    def test_weights_that_would_not_be_used_are_refused(self, option: dict[str, Any]) -> None:
        with pytest.raises(InvalidConfig, match="shares the target's weights"):
            self.resolved("pgn-50", Goal.ENHANCE, 32, **option)

    @pytest.mark.parametrize("architecture", ["own:network", "timm:resnet18"])
    def test_a_structure_without_imagenet_weights_is_learnt_from_the_attackers_images(self, architecture: str) -> None:
        assert self.resolved("pgn-50", Goal.DEGRADE, 96, architecture).discriminator_backbone == "surrogate"
        with pytest.raises(InvalidConfig, match=f"imagenet is not to be had of {architecture}.*choose surrogate"):
            self.resolved("pgn-50", Goal.DEGRADE, 96, architecture, discriminator_backbone="imagenet")

    def test_a_network_of_ones_own_is_not_built_anew_as_a_judge(self) -> None:
        assert self.resolved("pgn-50", Goal.DEGRADE, 96, "timm:resnet18", discriminator_backbone="scratch")
        with pytest.raises(InvalidConfig, match="scratch is not to be had of own:network"):
            self.resolved("pgn-50", Goal.DEGRADE, 96, "own:network", discriminator_backbone="scratch")

    def test_a_judge_that_would_learn_nothing_is_refused(self) -> None:
        with pytest.raises(InvalidConfig, match="give --warm-up-epochs"):
            self.resolved("pgn-b", Goal.DEGRADE, 32, discriminator_steps=0)
        assert self.resolved("pgn-50", Goal.ENHANCE, 32, discriminator_steps=0).discriminator_steps == 0

    def test_a_perturbation_is_not_scaled_out_of_its_budget(self) -> None:
        bounded = Setting(Goal.DEGRADE, Budget(epsilon=0.1), 32, "resnet18")
        assert build_method("pgn-b", {"lambda": 0.5}).resolve(bounded)
        with pytest.raises(InvalidConfig, match="--lambda 1.5 would take M beyond the budget"):
            build_method("pgn-b", {"lambda": 1.5}).resolve(bounded)
        assert build_method("pgn-b", {"lambda": 1.5}).resolve(Setting(Goal.DEGRADE, UNBOUNDED, 32, "resnet18"))

    def test_what_starts_from_weights_is_warmed_up_gently(self) -> None:
        assert self.resolved("pgn-b", Goal.DEGRADE, 224).warm_up_learning_rate == 1e-3
        assert self.resolved("pgn-50", Goal.DEGRADE, 224).warm_up_learning_rate == 1e-4
        local = self.resolved("pgn-b", Goal.DEGRADE, 224, discriminator_weights="some.safetensors")
        assert (local.discriminator_backbone, local.warm_up_learning_rate) == ("imagenet", 1e-4)

    def test_options_override_the_profile(self) -> None:
        chosen = self.resolved("pgn-b", Goal.ENHANCE, 32, encoder="mobilenet_v2", gamma=1.0, objective="logistic")
        assert (chosen.encoder, chosen.gamma, chosen.objective) == ("mobilenet_v2", 1.0, "logistic")

    def test_every_field_is_filled_in(self) -> None:
        for attack in ("pgn-50", "pgn-101", "pgn-b"):
            for goal in Goal:
                for size in (32, 96, 224):
                    left = {name for name, value in self.resolved(attack, goal, size) if value is None}
                    none = {"encoder_weights", "discriminator_weights", "patience"}
                    none |= {"generator_size"} if size == 32 else set()
                    none |= {"discriminator_backbone"} if attack != "pgn-b" and goal is Goal.ENHANCE else set()
                    assert left <= none

    def test_what_each_case_of_the_discriminator_needs(self) -> None:
        def needs(attack: str, goal: Goal) -> frozenset[Capability]:
            return build_method(attack, {}).needs(goal).fit - {Capability.LABELS, Capability.TRUE_LABELS}

        assert needs("pgn-b", Goal.DEGRADE) == needs("pgn-b", Goal.ENHANCE) == frozenset()
        assert needs("pgn-50", Goal.DEGRADE) == {Capability.STRUCTURE}
        assert needs("pgn-101", Goal.ENHANCE) == {Capability.WEIGHTS}
