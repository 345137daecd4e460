"""What other benchmarks were found to get wrong. Each mistake has a test that fails on an implementation that makes it.

=====================================================  =======================================================
mistake                                                test
=====================================================  =======================================================
DeepFool keeps the last class, not the nearest         tests/oracles/test_minimal.py: classes in any order
DeepFool succeeds at the batch size it was run with    tests/conformance/test_methods.py: batches do not matter
options parsed and not passed on                       tests/cli/test_command.py: every option reaches the method
weights that drift with torchvision                    tests/targets/test_weights.py: weights are pinned by name
images normalised twice                                here
images saved by truncation                             here; tests/oracles/test_linear.py: eight bits are rounded
images resized in one branch and not in another        here
a crash recorded as robustness                         here; conformance: a target that breaks off, or answers NaN
queries attributed to another image                    tests/conformance/test_access.py: each query is counted for
                                                       its sample; conformance: counts of fit and use
resumed with another model's file                      here; tests/methods/test_pgn.py: another fit's checkpoint
a budget that is printed and not enforced              here
no warning of a randomised, softmax or masked target   tests/targets/test_zoo.py: TestWarnings
'black box' that calls backward                        tests/conformance/test_access.py: a cheat is refused
attacked in train mode                                 here; tests/targets/test_zoo.py: eval mode
success that disagrees with re-prediction              here
raw and clipped results confused                       here
examples that die when they are saved                  here
one denominator of two                                 here
0.031 for 8/255                                        here
no seed, no interval                                   here; tests/bench/test_cell.py: each makes another result
=====================================================  =======================================================
"""

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advbench.access import Access
from advbench.bench import RunRequest, run_cell
from advbench.bench.evaluate import clean_answers, evaluate
from advbench.checkpoint import Checkpoint
from advbench.cli.screen import Screen
from advbench.datasets import ArrayPixels, Dataset, DatasetSpec, LabelledImages
from advbench.errors import InvalidPerturbation
from advbench.methods import Context, ImageMethod
from advbench.metrics import to_uint8
from advbench.progress import SILENT
from advbench.registry import ATTACKS, Entry
from advbench.results import CellRecord, ResultStore
from advbench.runtime import Runtime
from advbench.targets import (
    ClassifierSpec,
    FunctionTarget,
    ModuleTarget,
    Normalise,
    Target,
    Training,
    build_network,
    make_classifier,
)
from advbench.tensors import Images, Rows
from advbench.threat import Budget, Needs, parse_epsilon
from advbench.types import Goal, Status

CPU = Runtime(device="cpu")
UNBOUNDED = Budget()


def images_of(pixels: Tensor, labels: list[int]) -> LabelledImages:
    array = (pixels * 255).round().to(torch.uint8)
    ids = tuple(str(number) for number in range(len(array)))
    return LabelledImages(ArrayPixels(array), torch.arange(len(array)), torch.tensor(labels), ids)


class Brightness(nn.Module):
    """Class 1 where the mean pixel is over a half, else 0, which makes every prediction plain; also out of [0, 1]."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.others = classes - 2

    def forward(self, images: Images) -> Tensor:
        margin = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-margin, margin] + [torch.full_like(margin, -9.0)] * self.others, dim=1)


BRIGHTNESS = ModuleTarget(Brightness(), 2)


def measured(perturb: Callable[[Images, Rows], Images], target: Target = BRIGHTNESS, **changes: Any) -> Any:
    """Columns of the harness's own evaluation, on four grey images of which the last is labelled wrongly."""
    images = images_of(torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1).expand(4, 3, 8, 8), [0, 0, 1, 0])
    given: dict[str, Any] = {"budget": UNBOUNDED, "goal": Goal.DEGRADE, "batch_size": 3, "seed": 0} | changes
    answers = clean_answers(target, images, given["batch_size"])
    return evaluate(target, images, perturb, clean_answers=answers, **given).samples.to_pydict()


class Several(Brightness):
    """Gives more than logits."""

    def forward(self, images: Images) -> Any:
        return super().forward(images), images


class Cheat(ImageMethod):
    """A method that misbehaves in the way that a test chooses."""

    act: ClassVar[Callable[[Images], Images]]

    def needs(self, goal: Goal) -> Needs:
        return Needs()

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        return type(self).act(images)


@pytest.fixture
def cheat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., CellRecord]:
    """Run a method that does what it is told, through the whole harness, on a classifier that is not trained."""
    entries = {**ATTACKS.entries, "cheat": Entry("peers_mistakes:Cheat", "misbehaves")}
    monkeypatch.setitem(ATTACKS.__dict__, "entries", entries)
    module = ModuleType("peers_mistakes")
    module.Cheat = Cheat  # type: ignore[attr-defined]
    module.brightness = Brightness  # type: ignore[attr-defined]
    module.nan = lambda classes: FunctionTarget(  # type: ignore[attr-defined]
        lambda images: torch.full((len(images), classes), torch.nan), classes, outputs="scores"
    )
    module.unknown = lambda classes: FunctionTarget(  # type: ignore[attr-defined]
        lambda images: torch.full((len(images),), -1), classes
    )
    module.nothing = lambda classes: FunctionTarget(lambda images: None, classes)  # type: ignore[attr-defined,arg-type,return-value]
    module.several = lambda classes: Several(classes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peers_mistakes", module)

    def run(act: Callable[[Images], Images], target: str = "brightness", **changes: Any) -> CellRecord:
        monkeypatch.setattr(Cheat, "act", staticmethod(act), raising=False)
        asked: dict[str, Any] = {
            "attack": "cheat",
            "target": ClassifierSpec(architecture=f"peers_mistakes:{target}", training=Training(epochs=0)),
            "dataset": DatasetSpec(limit=10),
            "runtime": CPU,
            "results": tmp_path,
        }
        outcome = run_cell(RunRequest(**(asked | changes)), SILENT)
        assert outcome is not None
        return outcome.record

    return run


class TestWeightsAndPixels:
    def test_images_are_normalised_once(self, digits: Dataset) -> None:
        spec = ClassifierSpec(architecture="squeezenet1_1", normalisation="imagenet", training=Training(epochs=1))
        few = digits.fit.first(20, seed=0, what="images")
        made = make_classifier(spec, Dataset("few", digits.classes, 32, few, few, few), CPU, SILENT)
        assert isinstance(made, nn.Module)
        assert sum(isinstance(module, Normalise) for module in made.modules()) == 1
        seen: list[Tensor] = []
        made.get_submodule("network").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        images = digits.evaluation.images(torch.arange(3))
        ModuleTarget(made, 10).scores(images)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        assert torch.allclose(seen[-1], (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), atol=1e-6)

    @pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
    def test_the_inceptions_do_not_normalise_by_themselves(self, architecture: str) -> None:
        """Torchvision's do, where they are given its weights."""
        assert not build_network(architecture, 10, 96).transform_input

    def test_the_8_bit_version_is_what_a_png_file_holds(self) -> None:
        images = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
        rounded = to_uint8(images)
        for image, expected in zip((rounded * 255).round().byte(), rounded, strict=True):
            file = BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="PNG")
            with Image.open(file) as read:
                again = torch.frombuffer(bytearray(read.convert("RGB").tobytes()), dtype=torch.uint8).view(9, 7, 3)
            assert torch.equal(again.permute(2, 0, 1).float() / 255, expected)
        assert (rounded - images.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6, "cut, and not rounded"
        assert abs((rounded - images.clamp(0, 1)).mean()) < 2e-4

    def test_every_version_is_scored_at_the_size_that_was_perturbed(self) -> None:
        sizes: set[torch.Size] = set()

        class Spy(Brightness):
            def forward(self, images: Images) -> Tensor:
                sizes.add(images.shape[1:])
                return super().forward(images)

        measured(lambda images, rows: images, ModuleTarget(Spy(), 2))
        assert sizes == {torch.Size([3, 8, 8])}
        with pytest.raises(InvalidPerturbation, match="expected images of shape"):
            measured(lambda images, rows: images[..., :4, :4])


class TestFailures:
    def test_a_method_that_crashes_has_no_robustness_to_show(self, cheat: Callable[..., CellRecord]) -> None:
        def crash(images: Images) -> Images:
            raise ZeroDivisionError("no step")

        record = cheat(crash)
        assert (record.status, record.metrics, record.files) == (Status.FAILED, None, {})
        assert record.reason == "ZeroDivisionError: no step"

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("nan", "10 of 10 clean images with scores that are NaN"),
            ("unknown", "no class"),
            ("nothing", "returned NoneType: expected a tensor of labels"),
            ("several", "gave tuple: expected its logits alone"),
        ],
    )
    def test_an_answer_that_names_no_class_is_neither_right_nor_wrong(
        self, target: str, words: str, cheat: Callable[..., CellRecord]
    ) -> None:
        """The largest of NaNs is the first class, which a tenth of the digits belong to."""
        record = cheat(lambda images: images, target)
        assert (record.status, record.metrics, record.clean_accuracy) == (Status.FAILED, None, None)
        assert words in (record.reason or "")

    def test_no_images_at_all_are_refused(self, cheat: Callable[..., CellRecord]) -> None:
        record = cheat(lambda images: None)
        assert (record.status, record.metrics) == (Status.FAILED, None)
        assert "expected a tensor of perturbed images, got NoneType" in (record.reason or "")

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_pixels_that_are_no_numbers_are_refused(self, value: float, cheat: Callable[..., CellRecord]) -> None:
        record = cheat(lambda images: images * value)
        assert (record.status, record.metrics) == (Status.FAILED, None)
        assert "NaN or infinite pixels" in (record.reason or "")

    def test_a_budget_is_enforced_on_every_image(self, cheat: Callable[..., CellRecord]) -> None:
        def one_too_far(images: Images) -> Images:
            images[-1, 0, 0, 0] += 0.1002
            return images

        record = cheat(one_too_far, budget=Budget(epsilon=0.1))
        assert (record.status, record.metrics) == (Status.FAILED, None)
        assert "over epsilon 0.1" in (record.reason or "")

    def test_a_checkpoint_is_resumed_by_the_very_fit_that_wrote_it(
        self, tmp_path: Path, cheat: Callable[..., CellRecord]
    ) -> None:
        """A fit's identity is its result's key, which hangs on target, data, budget, options and seed alike."""
        Checkpoint(tmp_path / "fit.ckpt", "one").save({"epoch": 3})
        assert Checkpoint(tmp_path / "fit.ckpt", "another").load(SILENT.say) is None
        assert Checkpoint(tmp_path / "fit.ckpt", "one").load(SILENT.say) == {"epoch": 3}
        sound = cheat(lambda images: images)
        assert cheat(lambda images: images, "nan").key != sound.key

    @pytest.mark.parametrize("left", [0, 100, -1, None])
    def test_a_broken_checkpoint_is_named_and_counts_as_none(
        self, left: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "fit.ckpt"
        checkpoint = Checkpoint(path, "one")
        checkpoint.save({"epoch": 3})
        path.write_bytes(b"something else" if left is None else path.read_bytes()[:left])
        assert checkpoint.load(Screen().say) is None
        assert f"cannot read {path}, so this starts again" in capsys.readouterr().err
        checkpoint.save({"epoch": 1})
        assert checkpoint.load(SILENT.say) == {"epoch": 1}


class TestMeasures:
    def test_the_target_is_in_eval_mode_whatever_its_maker_left(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(192), nn.Linear(192, 2)).train()
        target = ModuleTarget(network, 2)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        first, second = (measured(lambda images, rows: images, target) for _ in range(2))
        assert first == second
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not target.module().training
        target.module().train()
        assert not network.training

    def test_success_is_predicted_again_and_never_claimed(
        self, tmp_path: Path, cheat: Callable[..., CellRecord]
    ) -> None:
        """A method has no way to say that it succeeded: what is stored is what the target says of what is stored."""
        record = cheat(lambda images: 1 - images)
        store = ResultStore(tmp_path)
        perturbed = store.tensors(record, "perturbed")["perturbed"]
        stored = store.samples(record)["raw_prediction"].to_pylist()
        assert stored == Brightness(10)(perturbed).argmax(dim=1).tolist()
        assert record.metrics is not None
        labels = store.samples(record)["label"].to_pylist()
        hits = sum(predicted == label for predicted, label in zip(stored, labels, strict=True))
        assert record.metrics.raw_accuracy == hits / len(labels)

    def test_raw_and_clipped_are_kept_apart(self) -> None:
        """Half of each image far below 0: dark as it is, and bright again once it is clipped."""

        def far(images: Images, rows: Rows) -> Images:
            moved = torch.ones_like(images)
            moved[..., :3] = -5
            return moved

        found = measured(far)
        assert found["raw_prediction"] == [0] * 4
        assert found["valid_prediction"] == [1] * 4

    def test_what_dies_in_8_bits_is_seen_to_die(self) -> None:
        images = images_of(torch.full((2, 3, 8, 8), 127 / 255), [0, 0])
        budget = Budget(epsilon=0.45 / 255)

        class Edge(Brightness):
            """Turns just above 127 of 255."""

            def forward(self, images: Images) -> Tensor:
                return super().forward(images + 0.5 - 127.2 / 255)

        target = ModuleTarget(Edge(), 2)
        found = evaluate(
            target, images, lambda clean, rows: clean + 0.45 / 255,
            budget=budget, goal=Goal.DEGRADE, batch_size=2, seed=0, clean_answers=clean_answers(target, images, 2),
        ).samples.to_pydict()  # fmt: skip
        assert found["clean_prediction"] == [0, 0]
        assert found["valid_prediction"] == [1, 1]
        assert found["uint8_prediction"] == [0, 0]

    def test_both_denominators_and_every_interval_are_there(
        self, tmp_path: Path, cheat: Callable[..., CellRecord]
    ) -> None:
        def half(images: Images) -> Images:
            images[::2] = 1
            return images

        record = cheat(half)
        metrics = record.metrics
        assert metrics is not None
        samples = pq.read_table(tmp_path / record.key / "samples.parquet").to_pydict()
        rows = list(zip(samples["label"], samples["clean_prediction"], samples["valid_prediction"], strict=True))
        right = [row for row in rows if row[0] == row[1]]
        assert 0 < len(right) < len(rows)
        assert metrics.fooling_rate == sum(before != after for _, before, after in rows) / len(rows)
        assert metrics.fooling_rate_of_correct == sum(truth != after for truth, _, after in right) / len(right)
        assert metrics.fooling_rate != metrics.fooling_rate_of_correct
        for name in ("clean_accuracy", "raw_accuracy", "valid_accuracy", "uint8_accuracy", "fooling_rate"):
            low, high = getattr(metrics, f"{name}_interval")
            assert 0 <= low <= getattr(metrics, name) <= high <= 1
            assert low < high
        assert metrics.fooling_rate_of_correct_interval is not None

    def test_a_fraction_is_the_fraction(self, cheat: Callable[..., CellRecord]) -> None:
        assert parse_epsilon("8/255") == 8 / 255 != parse_epsilon("0.031")
        exact, rounded = (
            cheat(lambda images: images, budget=Budget(epsilon=parse_epsilon(text))) for text in ("8/255", "0.031")
        )
        assert exact.spec.budget.epsilon == 8 / 255
        assert CellRecord.model_validate_json(exact.model_dump_json()).spec.budget.epsilon == 8 / 255
        assert exact.key != rounded.key

    def test_the_seed_is_part_of_the_result(self, cheat: Callable[..., CellRecord]) -> None:
        first, second = (cheat(lambda images: images, seed=seed) for seed in (0, 1))
        assert (first.spec.seed, second.spec.seed) == (0, 1)
        assert first.key != second.key
