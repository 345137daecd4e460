"""Enhancers that stand beside PGN: what they return, on targets where that is plain."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advbench.access import Access, QueryLedger, fit_access, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset
from advbench.errors import FitDiverged, InvalidConfig
from advbench.methods import Context, Setting, TrainingImages
from advbench.methods.prompt import Prompt
from advbench.runtime import Runtime
from advbench.targets import FunctionTarget, ModuleTarget, Target
from advbench.tensors import Images
from advbench.threat import THREATS, Budget, threat_model
from advbench.types import Goal, Norm

CPU = Runtime(device="cpu")
UNBOUNDED = Budget()


def perturb(name: str, images: Images, target: Target, goal: Goal, budget: Budget, **options: Any) -> Images:
    method = build_method(name, options)
    context = Context(goal, budget, 0, images.shape[-1], target.num_classes, runtime=CPU)
    return method.restore({}, context).perturb(images, door(target, len(images), method.needs(goal)))


def door(target: Target, count: int, needs: Any) -> Access:
    rows = torch.arange(count)
    return perturb_access(target, threat_model(None, needs), QueryLedger(count), rows, rows)


@pytest.fixture
def images(digits: Dataset) -> Images:
    return digits.evaluation.images(slice(0, 20))


class TestJPEG:
    def test_it_is_what_a_jpeg_file_gives_back(self, images: Images, target: ModuleTarget) -> None:
        found = perturb("jpeg", images, target, Goal.ENHANCE, UNBOUNDED, quality=40)
        for image, again in zip(images, found, strict=True):
            file = BytesIO()
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
            with Image.open(file) as read:
                pixels = torch.frombuffer(bytearray(read.tobytes()), dtype=torch.uint8).view(32, 32, 3)
            assert torch.allclose(again, pixels.permute(2, 0, 1).float() / 255, atol=1e-6)

    def test_a_lower_quality_is_further_away(self, images: Images, target: ModuleTarget) -> None:
        found = [perturb("jpeg", images, target, Goal.ENHANCE, UNBOUNDED, quality=q) for q in (95, 75, 30, 5)]
        distances = [(one - images).norm().item() for one in found]
        assert distances == sorted(distances)
        assert distances[0] > 0


class TestTestTimeAugmentation:
    @pytest.mark.parametrize("budget", [UNBOUNDED, Budget(epsilon=0.3), Budget(norm=Norm.L2, epsilon=2.0)])
    def test_the_version_that_is_taken_is_the_surest(
        self, budget: Budget, images: Images, target: ModuleTarget
    ) -> None:
        """For the class of the averaged scores, to enhance, and the least sure to degrade."""
        for goal in Goal:
            answers: list[Tensor] = []

            def answer(asked: Images, answers: list[Tensor] = answers) -> Tensor:
                answers.append(target.scores(asked))
                return answers[-1]

            found = perturb("tta", images, FunctionTarget(answer, 10, outputs="scores"), goal, budget, versions=5)
            shares = torch.stack(answers).softmax(dim=2)
            averaged = shares.mean(dim=0).argmax(dim=1)
            supports = shares[:, torch.arange(20), averaged]
            reached = target.scores(found).softmax(dim=1)[torch.arange(20), averaged]
            expected = supports.amax(dim=0) if goal is Goal.ENHANCE else supports.amin(dim=0)
            assert torch.allclose(reached, expected, atol=1e-4)
            assert (supports[0] != expected).any()

    def test_each_version_is_one_query_and_one_version_alone_is_the_image(
        self, images: Images, target: ModuleTarget
    ) -> None:
        method = build_method("tta", {"versions": 7})
        ledger = QueryLedger(20)
        access = perturb_access(target, THREATS["black-box-scores"], ledger, torch.arange(20), torch.arange(20))
        method.restore({}, Context(Goal.ENHANCE, UNBOUNDED, 0, 32, 10)).perturb(images, access)
        assert ledger.queries.tolist() == [7] * 20
        assert torch.equal(perturb("tta", images, target, Goal.ENHANCE, UNBOUNDED, versions=1), images)

    def test_votes_need_labels_alone_and_a_tie_goes_to_the_image_itself(self, images: Images) -> None:
        calls: list[int] = []

        def answer(asked: Images) -> Tensor:
            calls.append(len(asked))
            return torch.full((len(asked),), 3 if len(calls) % 2 else 2)

        target = FunctionTarget(answer, 10)
        for goal, moved in ((Goal.ENHANCE, False), (Goal.DEGRADE, True)):
            calls.clear()
            found = perturb("tta", images, target, goal, UNBOUNDED, by="labels", versions=4)
            assert (not torch.equal(found, images)) is moved
        assert len(calls) == 4

    def test_moves_are_as_large_as_asked(self, target: ModuleTarget) -> None:
        """A bright dot stays within the shift, and a flip mirrors it."""
        dot = torch.zeros(1, 3, 33, 33)
        dot[..., 16, 4] = 1
        found = []

        def answer(asked: Images) -> Tensor:
            found.append(asked)
            return torch.zeros(len(asked))

        perturb("tta", dot, FunctionTarget(answer, 10), Goal.ENHANCE, UNBOUNDED, by="labels", versions=30,
                shift=0.09, scale=0.0, flip=True)  # fmt: skip
        places = torch.cat(found)[:, 0].flatten(1).argmax(dim=1)
        rows, columns = places // 33, places % 33
        mirrored = columns > 16
        assert 5 < mirrored.sum() < 25
        assert ((rows - 16).abs() <= 3).all()
        assert ((torch.where(mirrored, 32 - columns, columns) - 4).abs() <= 3).all()
        assert len(set(places.tolist())) > 10


class TestPrompt:
    def fitted(
        self, digits: Dataset, target: ModuleTarget, goal: Goal, budget: Budget, **options: Any
    ) -> tuple[Any, QueryLedger]:
        method = build_method("prompt", {"epochs": 3, "learning_rate": 0.05, **options})
        method = method.resolve(Setting(goal, budget, digits.image_size, "resnet18"))
        train = TrainingImages(digits.fit.first(120, seed=1, what=""), digits.validation.first(40, seed=1, what=""))
        labels = torch.cat([train.fit.labels, train.validation.labels])
        ledger = QueryLedger(len(labels))
        access = fit_access(target, THREATS["white-box"], ledger, labels)
        return method.fit(access, train, Context(goal, budget, 0, digits.image_size, 10, runtime=CPU)), ledger

    @pytest.fixture
    def linear(self, digits: Dataset) -> ModuleTarget:
        """Knows digits a little, and says 0 too often."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
            optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
            for _ in range(5):
                loss = nn.functional.cross_entropy(module(digits.fit.images()), digits.fit.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        module.get_parameter("1.bias").data[0] += 2
        return ModuleTarget(module, 10)

    @pytest.mark.parametrize("goal", Goal)
    @pytest.mark.parametrize("budget", [Budget(epsilon=0.3), UNBOUNDED])
    def test_the_loss_moves_towards_the_goal_on_images_it_never_saw(
        self, goal: Goal, budget: Budget, digits: Dataset, linear: ModuleTarget
    ) -> None:
        fitted, _ = self.fitted(digits, linear, goal, budget, shape="full")
        images, labels = digits.evaluation.images(), digits.evaluation.labels
        access = door(linear, len(images), Prompt().needs(goal).model_copy(update={"fit": frozenset()}))
        losses = [
            nn.functional.cross_entropy(linear.scores(which), labels).item()
            for which in (images, fitted.perturb(images, access))
        ]
        assert (losses[1] < losses[0]) is (goal is Goal.ENHANCE)

    def test_a_frame_leaves_the_inside_and_is_the_papers_by_default(
        self, digits: Dataset, linear: ModuleTarget
    ) -> None:
        fitted, ledger = self.fitted(digits, linear, Goal.ENHANCE, Budget(epsilon=0.3))
        pattern = fitted.state()["perturbation"]
        assert pattern.shape == (1, 3, 32, 32)
        assert (pattern[..., 4:-4, 4:-4] == 0).all()
        assert (pattern[..., :4] != 0).any()
        assert pattern.abs().max() <= 0.3
        assert ledger.queries.tolist() == [3] * 160
        assert ledger.gradients.tolist() == [3] * 120 + [0] * 40
        large = Prompt().resolve(Setting(Goal.ENHANCE, UNBOUNDED, 224, "resnet18"))
        assert isinstance(large, Prompt)
        assert large.width == 30

    def test_the_epoch_is_chosen_on_validation_images(self, digits: Dataset, linear: ModuleTarget) -> None:
        fitted, _ = self.fitted(digits, linear, Goal.DEGRADE, Budget(epsilon=0.3), epochs=4)
        accuracies = [epoch["validation_accuracy"] for epoch in fitted.history()]
        validation = digits.validation.first(40, seed=1, what="")
        kept = linear.labels((validation.images() + fitted.state()["perturbation"]).clamp(0, 1)) == validation.labels
        assert kept.float().mean().item() == pytest.approx(min(accuracies))

    def test_scores_that_are_not_finite_end_the_fit(self, digits: Dataset) -> None:
        broken = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        nn.init.constant_(broken.get_parameter("1.bias"), torch.nan)
        with pytest.raises(FitDiverged, match="no longer finite in epoch 1"):
            self.fitted(digits, ModuleTarget(broken, 10), Goal.ENHANCE, Budget(epsilon=0.3))

    @pytest.mark.parametrize(
        ("options", "words"), [({"width": 16}, "covers all of 32"), ({"shape": "full", "width": 3}, "has no frame")]
    )
    def test_frames_that_are_none_are_refused(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidConfig, match=words):
            build_method("prompt", options).resolve(Setting(Goal.ENHANCE, UNBOUNDED, 32, "resnet18"))


@pytest.mark.parametrize("goal", Goal)
def test_amicable_aid_is_the_attack_with_its_sign_reversed(
    goal: Goal, linear_target: Callable[..., ModuleTarget]
) -> None:
    """FGSM to enhance steps exactly where FGSM to degrade does not."""
    target = linear_target()
    images = torch.full((4, 3, 4, 4), 0.5)
    there, back = (perturb("fgsm", images, target, way, Budget(epsilon=0.1)) for way in Goal)
    assert torch.allclose(there - images, images - back)
