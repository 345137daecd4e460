"""Networks by name, at the sizes they take."""

import copy
import importlib
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from advbench.bench import make_target
from advbench.datasets import Dataset
from advbench.errors import InvalidConfig, InvalidWeights, UnknownName
from advbench.progress import SILENT
from advbench.runtime import Runtime
from advbench.targets import (
    Classifier,
    ClassifierSpec,
    FunctionTarget,
    ModuleTarget,
    Target,
    Training,
    build_network,
    epoch_batches,
    fast_form,
    imagenet_normalisation,
    known_architectures,
    make_classifier,
    normaliser,
    restore_batch_norms,
    untrained_classifier,
    write_weights,
)
from advbench.targets.weights import with_versions

PAPERS = ("resnet50", "resnet101", "vgg16", "densenet169")
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
    "swin_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip


def test_every_torchvision_classifier_is_known() -> None:
    assert len(known_architectures()) >= 80
    assert set(PAPERS) <= set(known_architectures())


@pytest.mark.parametrize("architecture", PAPERS)
def test_the_papers_targets_take_small_images_and_any_number_of_classes(architecture: str) -> None:
    network = build_network(architecture, 7, 32).eval()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_one_of_each_family_is_built_and_has_a_fast_form(architecture: str) -> None:
    """The fast form is the same function: logits move by rounding alone."""
    size = 64
    torch.manual_seed(0)
    network = build_network(architecture, 5, size).eval().requires_grad_(False)
    images = torch.rand(2, 3, size, size)
    expected, fast = network(images), fast_form(network)(images)
    assert expected.shape == (2, 5)
    assert torch.allclose(fast, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_one_of_each_family_is_stored_and_loaded(architecture: str) -> None:
    """A file keeps tensors alone, not the versions of their layout."""
    network, other = build_network(architecture, 5, 64).eval(), build_network(architecture, 5, 64).eval()
    stored = {name: value.clone() for name, value in network.state_dict().items()}
    other.load_state_dict(with_versions(stored, other))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network(images), other(images))


@pytest.mark.parametrize(("architecture", "size"), [("inception_v3", 32), ("densenet169", 28), ("maxvit_t", 32)])
def test_a_size_that_does_not_fit_is_refused_with_what_to_do(architecture: str, size: int) -> None:
    with pytest.raises(InvalidConfig, match=f"cannot take {size} px images.*--image-size"):
        build_network(architecture, 10, size)


@pytest.mark.parametrize("architecture", ["googlenet", "resnet18"])
def test_imagenet_weights_see_what_torchvision_shows_them(architecture: str) -> None:
    """GoogLeNet's were ported from elsewhere: torchvision undoes the usual normalisation inside of the network."""
    inside = {"aux_logits": False, "init_weights": False, "transform_input": True} if "google" in architecture else {}
    theirs = torchvision.models.get_model(architecture, weights=None, num_classes=5, **inside).eval()
    own = build_network(architecture, 5, 64).eval()
    own.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    expected = theirs(normaliser("imagenet")(images))
    found = Classifier(own, normaliser(imagenet_normalisation(architecture)))(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_no_process_is_left_with_less_than_two_images(processes: int) -> None:
    for count in range(2 * processes, 70):
        batches = epoch_batches(count, 16, torch.Generator().manual_seed(0), processes)
        assert sorted(torch.cat(list(batches)).tolist()) == list(range(count))
        assert all(len(batch[rank::processes]) >= 2 for batch in batches for rank in range(processes))


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'densenet169'"):
        build_network("densnet169", 10, 32)


def test_timm_is_asked_for_where_it_is_missing() -> None:
    if "timm" in sys.modules:
        pytest.skip("timm is installed here")
    with pytest.raises((InvalidConfig, UnknownName)):
        build_network("timm:no_such_network", 10, 32)


class TestBatchNormsThatWereFolded:
    """Normalised by a batch's own statistics, as in training, a network that was stored folded is another function."""

    def test_they_get_statistics_again_and_the_network_stays_the_function_it_was(
        self, target: ModuleTarget, digits: Dataset
    ) -> None:
        images = digits.evaluation.images(slice(0, 64))
        whole, folded = target.module(), target.module()
        expected = whole(images)
        for kept, layer in _norms(folded):
            _fold(kept, layer)
        assert torch.allclose(folded(images), expected, atol=1e-3)
        assert not torch.allclose(copy.deepcopy(folded).train()(images), expected, atol=1)
        restore_batch_norms(folded, digits.fit)
        assert torch.allclose(folded(images), expected, atol=1e-3)
        assert (folded.train()(images).argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.8

    def test_others_are_left_alone(self, target: ModuleTarget, digits: Dataset) -> None:
        for network in (target.module(), build_network("resnet18", 10, 32), build_network("mobilenet_v2", 10, 32)):
            before = copy.deepcopy(network.state_dict())
            restore_batch_norms(network, digits.fit)
            assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def _norms(network: torch.nn.Module) -> list[tuple[torch.nn.Conv2d, torch.nn.BatchNorm2d]]:
    """A ResNet's convolutions with the batch norms that follow them."""
    layers = list(network.modules())
    pairs = itertools.pairwise(layers)
    found = []
    for layer, following in pairs:
        if isinstance(layer, torch.nn.Conv2d) and isinstance(following, torch.nn.BatchNorm2d):
            found.append((layer, following))
    return found


def _fold(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        convolution.weight.mul_(scale.view(-1, 1, 1, 1) * (1 + norm.eps) ** 0.5)
        norm.bias.sub_(norm.running_mean * scale)
        norm.weight.fill_(1)
        norm.running_mean.zero_()
        norm.running_var.fill_(1)


class TestFastForm:
    def test_a_trained_networks_logits_and_labels_stay(self, target: ModuleTarget, digits: Dataset) -> None:
        images = digits.evaluation.images()
        drift = (target.scores(images, fast=True) - target.scores(images)).abs().max()
        assert drift < 1e-4
        assert torch.equal(target.labels(images, fast=True), target.labels(images))

    def test_a_convolution_that_is_used_twice_is_not_folded(self) -> None:
        class Twice(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shared = torch.nn.Conv2d(3, 3, 3, padding=1)
                self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(3) for _ in range(2))

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                for norm in self.norms:
                    images = norm(self.shared(images))
                return images.mean((2, 3))

        torch.manual_seed(0)
        network = Twice().eval().requires_grad_(False)
        for name, statistics in network.named_buffers():
            if name.endswith(("mean", "var")):
                statistics.uniform_(0.5, 2)
        images = torch.rand(4, 3, 8, 8)
        torch.testing.assert_close(fast_form(network)(images), network(images))

    def test_what_nobody_knows_keeps_its_randomness_and_its_own_gradients(self) -> None:
        """Torch.fx would draw a shift once for all passes, and go back through a rounding as if it were one."""

        class StraightThrough(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
                return images.round()

            @staticmethod
            def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
                return gradients[0]

        class Defended(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                shifted = images.roll(random.randrange(4), 3)
                rounded: torch.Tensor = StraightThrough.apply(shifted)
                return rounded[:, :, 0, 0]

        target, images = ModuleTarget(Defended(), 3), torch.rand(2, 3, 4, 4)
        answers = [target.jacobian(images, lambda scores, part: scores[:, :1], 1) for _ in range(20)]
        assert all(answer.gradients.abs().sum() == 2 for answer in answers)
        assert len({answer.gradients.argmax().item() for answer in answers}) > 1
        assert len({target.pullback(images).scores.sum().item() for _ in range(20)}) > 1

    def test_half_precision_gives_float32_answers(self, digits: Dataset) -> None:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))

        class Half(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = copy.deepcopy(network).bfloat16()

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                scores: torch.Tensor = self.network(images.bfloat16())
                return scores

        target, images = ModuleTarget(Half(), 10), digits.evaluation.images(slice(0, 8))
        answer = target.jacobian(images, lambda scores, part: scores[:, :1], 1)
        assert {answer.scores.dtype, answer.losses.dtype, answer.gradients.dtype} == {torch.float32}
        assert target.pullback(images).scores.dtype is torch.float32
        assert target.fingerprint != ModuleTarget(copy.deepcopy(network), 10).fingerprint

    def test_a_target_that_writes_to_its_images_writes_to_its_own(self) -> None:
        class Writing(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return images.mul_(255).round_().mean((2, 3))

        images = torch.rand(4, 3, 8, 8)
        written = Writing()
        targets = (ModuleTarget(written, 3), FunctionTarget(written, 3, outputs="scores"))
        for target, layout in itertools.product(targets, (torch.contiguous_format, torch.channels_last)):
            given = images.clone(memory_format=layout)
            first = target.scores(given)
            assert torch.equal(given, images)
            assert torch.equal(target.scores(given), first)

    def test_gradients_stay(self, target: ModuleTarget, digits: Dataset) -> None:
        images = digits.evaluation.images(slice(0, 16))
        module = target.module().requires_grad_(False)
        inputs = images.clone().requires_grad_()
        (expected,) = torch.autograd.grad(module(inputs).logsumexp(1).sum(), inputs)
        found = target.jacobian(images, lambda scores, part: scores.logsumexp(1)[:, None], 1).gradients[:, 0]
        # A unit that sits on its kink may fall on either side; all else differs by rounding.
        assert ((found - expected).abs() > 1e-3 * expected.abs().max()).float().mean() < 0.01
        assert (found.sign() == expected.sign()).float().mean() > 0.995

    def test_bfloat16_moves_few_labels_and_serves_fitting_alone(self, target: ModuleTarget, digits: Dataset) -> None:
        images = digits.evaluation.images()
        half = ModuleTarget(target.module(), 10, fast_dtype=torch.bfloat16)
        assert (half.labels(images, fast=True) == half.labels(images)).float().mean() > 0.9
        assert torch.equal(half.scores(images), target.scores(images))
        everything = half.jacobian(images[:4], lambda scores, part: scores[:, :1], 1)
        assert everything.gradients.dtype is torch.float32

    def test_large_batches_are_answered_in_parts(self, target: ModuleTarget, digits: Dataset) -> None:
        images = digits.fit.images(slice(0, 1100))
        parts = torch.cat([target.scores(part) for part in images.split(100)])
        assert torch.allclose(target.scores(images), parts, atol=1e-4)
        labels = torch.arange(1100) % 10
        whole = target.jacobian(images, lambda scores, part: scores.gather(1, labels[part, None]), 1)
        tail = target.jacobian(images[1000:], lambda scores, part: scores.gather(1, labels[1000:][part, None]), 1)
        assert torch.allclose(whole.gradients[1000:], tail.gradients, atol=1e-5)


class TestIdentity:
    def test_eval_mode_and_frozen_parameters(self) -> None:
        network = build_network("resnet18", 10, 32).train()
        ModuleTarget(network, 10)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_the_fingerprint_follows_the_weights(self) -> None:
        network = build_network("squeezenet1_1", 10, 64)
        before = ModuleTarget(network, 10).fingerprint
        assert ModuleTarget(network, 10).fingerprint == before
        with torch.no_grad():
            next(network.parameters()).view(-1)[0] += 1e-3
        assert ModuleTarget(network, 10).fingerprint != before


class TestTraining:
    QUICK = Training(epochs=1, images=64)

    def make(self, digits: Dataset, **changes: object) -> torch.nn.Module:
        spec = ClassifierSpec(architecture="resnet18", training=self.QUICK.model_copy(update=changes))
        made = make_classifier(spec, digits, Runtime(device="cpu"), SILENT)
        assert isinstance(made, torch.nn.Module)
        return made

    def test_a_classifier_is_trained_once_and_taken_from_the_cache_then(
        self, digits: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.make(digits, seed=11)

        def forbidden(*_: object) -> None:
            raise AssertionError("trained twice")

        monkeypatch.setattr("advbench.targets.training._train", forbidden)
        again = self.make(digits, seed=11)
        images = digits.evaluation.images(slice(0, 8))
        assert torch.equal(first(images), again(images))
        assert not list((home / "work").glob("*/*")), "the checkpoint of a finished training was left behind"

    def test_seed_images_and_epochs_are_part_of_the_identity(self, digits: Dataset, home: Path) -> None:
        before = len(list((home / "classifiers").iterdir()))
        for changes in ({"seed": 12}, {"seed": 12, "images": 80}, {"seed": 12, "epochs": 2}):
            self.make(digits, **changes)
        assert len(list((home / "classifiers").iterdir())) == before + 3

    def test_a_killed_training_resumes_to_the_same_weights(
        self, digits: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from advbench.checkpoint import Checkpoint

        whole = self.make(digits, seed=13, epochs=3)
        save, calls = Checkpoint.save, []

        def save_and_die(self: Checkpoint, state: dict[str, object]) -> None:
            save(self, state)
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

        import shutil

        from advbench.files import home

        for folder in (home() / "classifiers").glob("resnet18-*"):
            if '"seed": 13' in (folder / "spec.json").read_text():
                shutil.rmtree(folder)
        monkeypatch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            self.make(digits, seed=13, epochs=3)
        monkeypatch.setattr(Checkpoint, "save", save)
        resumed = self.make(digits, seed=13, epochs=3)
        images = digits.evaluation.images(slice(0, 8))
        assert torch.equal(whole(images), resumed(images))

    @pytest.fixture
    def own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClassifierSpec]:
        """Write a module of one's own, and say what is to be made of it."""
        monkeypatch.syspath_prepend(str(tmp_path))

        def own(body: str, epochs: int = 0, **options: Any) -> ClassifierSpec:
            (tmp_path / "changing.py").write_text(
                "import torch\n"
                "class Shared(torch.nn.Module):\n"
                "    def __init__(self, classes):\n"
                "        super().__init__()\n"
                "        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))\n"
                "        self.head = self.body[1]\n"
                f"    def forward(self, images):\n        return self.body({body})\n"
            )
            sys.modules.pop("changing", None)
            importlib.invalidate_caches()
            return ClassifierSpec(
                architecture="changing:Shared", training=Training(epochs=epochs, images=60), **options
            )

        return own

    def test_a_factorys_weights_are_its_seeds_and_its_code_counts(
        self, digits: Dataset, own: Callable[..., ClassifierSpec]
    ) -> None:
        def fingerprint(body: str, epochs: int, seed: int = 0) -> str:
            spec = own(body, epochs)
            spec = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": seed})})
            return make_target(spec, digits, Runtime(device="cpu"), SILENT).fingerprint

        for epochs in (0, 1):
            plain = fingerprint("images", epochs)
            assert fingerprint("images", epochs) == plain, "it began with other weights"
            assert fingerprint("images", epochs, seed=1) != plain
            assert fingerprint("(-images)", epochs) != plain, "its weights alone were looked at"

    def test_what_was_trained_in_other_code_is_not_taken(
        self, digits: Dataset, own: Callable[..., ClassifierSpec], home: Path
    ) -> None:
        before = set((home / "classifiers").glob("changing-*"))
        images, scores = digits.evaluation.images(slice(0, 20)), []
        for body in ("2 * images", "1 - 2 * images", "2 * images"):
            target = make_target(own(body, 1), digits, Runtime(device="cpu"), SILENT)
            scores.append(target.scores(images))
        assert len(set((home / "classifiers").glob("changing-*")) - before) == 2
        assert torch.equal(scores[0], scores[2])
        assert not torch.allclose(scores[0], scores[1])

    def test_a_factory_starts_from_a_file(
        self, digits: Dataset, own: Callable[..., ClassifierSpec], tmp_path: Path
    ) -> None:
        trained = make_target(own("images", 1), digits, Runtime(device="cpu"), SILENT)
        write_weights(trained, tmp_path / "own.safetensors")
        again = make_target(
            own("images", init=str(tmp_path / "own.safetensors")), digits, Runtime(device="cpu"), SILENT
        )
        images = digits.evaluation.images(slice(0, 20))
        torch.testing.assert_close(again.scores(images), trained.scores(images))
        with pytest.raises(InvalidWeights, match="no checkpoint"):
            make_target(own("images", init="nowhere.pth"), digits, Runtime(device="cpu"), SILENT)
        with pytest.raises(InvalidConfig, match="no torchvision architecture"):
            make_target(own("images", init="imagenet"), digits, Runtime(device="cpu"), SILENT)

    @pytest.mark.parametrize(
        ("body", "epochs", "said"),
        [
            ("module", 0, None),
            ("api", 0, None),
            ("api", 1, "gives a finished target, which is not trained here: give it 0 epochs"),
            ("wrong", 0, "returned int: expected a torch.nn.Module or an advbench Target"),
            ("missing", 0, "cannot import target 'own_factories:missing'"),
            ("broken", 0, "could not be made for 10 classes: KeyError: 'weights'"),
            ("of_none", 0, "could not be made for 10 classes: TypeError"),
            ("not_callable", 0, "a function target needs a function of images, got int"),
            ("other_size", 0, "cannot take 32 px images"),
            ("five_classes", 0, "knows 5 classes, and the dataset has 10"),
        ],
    )
    def test_own_factories(
        self, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, epochs: int, said: str | None
    ) -> None:
        (tmp_path / "own_factories.py").write_text(
            "import torch\nfrom advbench.targets import FunctionTarget\n"
            "def module(classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))\n"
            "def api(classes):\n    return FunctionTarget(lambda x: x.mean((1, 2, 3)) * 0, classes)\n"
            "def wrong(classes):\n    return 3\n"
            "def broken(classes):\n    return {}['weights']\n"
            "def of_none():\n    return torch.nn.Flatten()\n"
            "def not_callable(classes):\n    return FunctionTarget(3, classes)\n"
            "def other_size(classes):\n"
            "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(588, classes))\n"
            "def five_classes(classes):\n    return FunctionTarget(lambda x: x.mean((1, 2, 3)) * 0, 5)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        spec = ClassifierSpec(architecture=f"own_factories:{body}", training=Training(epochs=epochs))

        def make() -> object:
            return make_target(spec, digits, Runtime(device="cpu"), SILENT)

        if said is None:
            assert isinstance(make(), Target)
        else:
            with pytest.raises(InvalidConfig, match=said):
                make()

    def test_who_knows_the_architecture_alone_gets_none_of_a_factorys_weights(
        self, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "with_weights.py").write_text(
            "import torch\n"
            "def net(classes):\n"
            "    last = torch.nn.Linear(3072, classes), torch.nn.BatchNorm1d(classes)\n"
            "    network = torch.nn.Sequential(torch.nn.Flatten(), *last)\n"
            "    for value in network.state_dict().values():\n        value.fill_(7)\n"
            "    return network\n"
            "class Bare(torch.nn.Module):\n"
            "    def __init__(self, classes):\n"
            "        super().__init__()\n"
            "        self.weight = torch.nn.Parameter(torch.ones(3072, classes))\n"
            "    def forward(self, images):\n        return images.flatten(1) @ self.weight\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        spec = ClassifierSpec(architecture="with_weights:net", training=Training(epochs=0))
        target, _ = untrained_classifier(spec, 10, 32)
        known, _ = untrained_classifier(spec.apart("surrogate"), 10, 32)
        again, _ = untrained_classifier(spec.apart("surrogate"), 10, 32)
        assert isinstance(target, Classifier)
        assert isinstance(known, Classifier)
        assert isinstance(again, Classifier)
        own, drawn, twice = (each.network.state_dict() for each in (target, known, again))
        assert all((value == 7).all() for value in own.values())
        assert not any((value == 7).all() for value in drawn.values())
        assert all(torch.equal(drawn[name], twice[name]) for name in drawn)
        bare = ClassifierSpec(architecture="with_weights:Bare", training=Training(epochs=0))
        with pytest.raises(InvalidConfig, match="its Bare has parameters that would be the target's own"):
            untrained_classifier(bare.apart("surrogate"), 10, 32)
