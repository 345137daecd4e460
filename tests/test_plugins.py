"""What other packages add: a mistake in it is told in one line, before anything is spent."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from advbench.cli import main
from advbench.datasets import Dataset, DatasetSpec, load_dataset
from advbench.errors import InvalidConfig, InvalidData
from advbench.methods import build_method
from advbench.methods.adapters import OPTIONS
from advbench.registry import ATTACKS, DATASETS
from advbench.report.plots.curves import convergence
from advbench.results import CellRecord, ResultStore

METHOD = """
from advbench.methods import ImageMethod, Method
from advbench.threat import Needs
from advbench.types import Goal

class Still(ImageMethod):
    def needs(self, goal):
        return Needs()

    def perturb(self, images, access, context):
        return images
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module, of which nothing is left afterwards."""

    def installed(source: str, group: str, **points: str) -> None:
        folder = tmp_path / "site"
        information = folder / "their_plugin-1.0.dist-info"
        information.mkdir(parents=True)
        (folder / "their_plugin.py").write_text(source)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (information / "entry_points.txt").write_text("\n".join([f"[advbench.{group}]", *lines, ""]))
        registry = {"attacks": ATTACKS, "datasets": DATASETS}[group]
        assert registry.entries  # known, so that the names without this package come back
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(vars(registry), "entries")

    yield installed
    sys.modules.pop("their_plugin", None)


class TestEntryPoints:
    @pytest.mark.parametrize(
        ("location", "words"),
        [
            ("no_such_module:Still", "cannot import no_such_module:Still: ModuleNotFoundError: No module named"),
            ("their_plugin:Stil", "cannot import their_plugin:Stil: AttributeError: module 'their_plugin' has no"),
            ("their_plugin", "cannot import their_plugin: AttributeError"),
            ("their_plugin:function", "their_plugin:function is of type function, expected a subclass of advbench's M"),
            ("their_plugin:Goal", "their_plugin:Goal is the class Goal, expected a subclass of advbench's Method"),
            ("their_plugin:Half", "their_plugin:Half lacks the method `needs`, which every"),
            ("their_plugin:Method", "their_plugin:Method lacks the method `fit`, the method `needs`, the method"),
        ],
    )
    def test_what_is_no_method_is_refused_and_the_others_work(
        self, location: str, words: str, install: Install
    ) -> None:
        half = "\nclass Half(ImageMethod):\n    def perturb(self, images, access, context):\n        return images\n"
        install(f"{METHOD}{half}\ndef function():\n    pass\n", "attacks", broken=location, still="their_plugin:Still")
        with pytest.raises(InvalidConfig, match=f"attack 'broken' of package their-plugin: {words}"):
            ATTACKS.load("broken")
        assert ATTACKS.load("still").__name__ == "Still"
        listed = CliRunner().invoke(main, ["list", "attacks"])
        assert {"broken", "still", "fgsm"} <= {line.split()[0] for line in listed.stdout.splitlines()}
        described = CliRunner().invoke(main, ["describe", "broken"])
        assert described.exit_code == 2
        assert described.stderr.startswith("error: attack 'broken' of package their-plugin: ")

    def test_a_module_that_raises_is_named(self, install: Install) -> None:
        install("raise RuntimeError('no licence')", "attacks", broken="their_plugin:Still")
        with pytest.raises(InvalidConfig, match="cannot import their_plugin:Still: RuntimeError: no licence; mend"):
            ATTACKS.load("broken")

    def test_a_class_within_a_class_is_found(self, install: Install) -> None:
        install(f"{METHOD}\nclass Outer:\n    Inner = Still\n", "attacks", inner="their_plugin:Outer.Inner")
        assert ATTACKS.load("inner").__name__ == "Still"

    @pytest.mark.parametrize(
        ("field", "name"),
        [
            ("seed: int = 3", "seed"),
            ("fit_images: int = 3", "fit_images"),
            ("free: int = Field(default=3, alias='max-queries')", "max-queries"),
        ],
    )
    def test_a_field_that_the_command_would_hide_is_refused(self, field: str, name: str, install: Install) -> None:
        install(f"from pydantic import Field\n{METHOD}\n    {field}\n", "attacks", hidden="their_plugin:Still")
        words = f"their_plugin:Still has the field '{name}', which cannot be given, as 'advbench run' has an option"
        with pytest.raises(InvalidConfig, match=f"attack 'hidden' of package their-plugin: {words}"):
            ATTACKS.load("hidden")

    def test_every_option_of_the_command_is_known(self) -> None:
        taken = {option for parameter in main.commands["run"].params for option in parameter.opts}
        assert {f"--{name.replace('_', '-')}" for name in OPTIONS} == {*taken, "--help"}

    def test_what_the_bases_have_is_no_such_field(self, install: Install) -> None:
        install("from advbench.methods.fgsm import FGSM", "attacks", mine="their_plugin:FGSM")
        assert "label" in ATTACKS.load("mine").model_fields

    def test_a_field_with_a_free_alias_is_given_by_it(self, install: Install) -> None:
        field = "limit: int = Field(default=3, alias='most')"
        install(f"from pydantic import Field\n{METHOD}\n    {field}\n", "attacks", renamed="their_plugin:Still")
        assert dict(build_method("renamed", {"most": "7"})) == {"limit": 7}

    @pytest.mark.parametrize(
        ("location", "words"),
        [
            ("their_plugin:missing", "cannot import their_plugin:missing: AttributeError"),
            ("their_plugin:number", "their_plugin:number is of type int, expected a function from a DatasetSpec to a"),
        ],
    )
    def test_what_is_no_loader_is_refused(self, location: str, words: str, install: Install) -> None:
        install("number = 3", "datasets", broken=location)
        with pytest.raises(InvalidConfig, match=f"dataset 'broken' of package their-plugin: {words}"):
            DATASETS.load("broken")


DATASET = """
import dataclasses
import torch
from advbench.datasets import ArrayPixels, Dataset, LabelledImages, divide
from advbench.errors import InvalidData

def given(spec, pixels=None, labels=None, classes=("dark", "bright")):
    size = spec.image_size or 8
    drawn = torch.randint(0, 256, (60, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = drawn if pixels is None else pixels(drawn)
    labels = torch.arange(60) % 2 if labels is None else labels(torch.arange(60) % 2)
    ids = tuple(map(str, range(60)))
    part = lambda start, end: LabelledImages(
        ArrayPixels(pixels), torch.arange(start, end), labels[start:end], ids[start:end]
    )
    return Dataset(spec.name, classes, size, part(0, 30), part(30, 40), part(40, 60))

def raising(error):
    raise error
"""


class TestDatasets:
    def load(self, install: Install, loader: str, **asked: Any) -> Dataset:
        install(f"{DATASET}\nload = lambda spec: {loader}\n", "datasets", theirs="their_plugin:load")
        return load_dataset(DatasetSpec(name="theirs", **asked))

    def test_what_is_in_order_is_taken(self, install: Install) -> None:
        loaded = self.load(install, "given(spec)", image_size=16, limit=10)
        assert loaded.evaluation.images().shape == (10, 3, 16, 16)

    @pytest.mark.parametrize(
        ("loader", "words"),
        [
            ("None", ": expected its loader to return a Dataset, got NoneType"),
            ("given(spec).fit", ": expected its loader to return a Dataset, got LabelledImages"),
            ("Dataset('a', ('b', 'c'), 8, None, None, None)", ", fit part: expected LabelledImages .*, got NoneType"),
            (
                "dataclasses.replace(given(spec), validation=given(spec).fit.subset(torch.arange(0)))",
                ", validation part: expected LabelledImages with at least one image, got none",
            ),
            ("given(spec, labels=lambda own: own.float())", r"labels as .* int64 \(30,\).*; got float32 \(30,\)"),
            ("given(spec, labels=lambda own: own[:, None])", r"int64 \(30,\), one for each id; got int64 \(30, 1\)"),
            ("given(spec, labels=lambda own: own.tolist())", "got list"),
            ("given(spec, labels=lambda own: own + 1)", "fit part: expected labels from 0 to 1, .*; got 1 to 2"),
            ("given(spec, labels=lambda own: own - 1)", "expected labels from 0 to 1, .*; got -1 to 0"),
            (
                "given(spec, lambda own: own / 255)",
                r"uint8 \(1, 3, 8, 8\), from 0 to 255; got float32 \(1, 3, 8, 8\)",
            ),
            ("given(spec, lambda own: own[:, :1])", r"got uint8 \(1, 1, 8, 8\)"),
            ("given(spec, lambda own: own[..., :7])", r"got uint8 \(1, 3, 8, 7\)"),
            ("given(spec, lambda own: own.numpy())", "got ndarray"),
            ("raising(KeyError('no such split'))", ": it raised KeyError: 'no such split'"),
        ],
    )
    def test_what_is_no_dataset_is_refused(self, loader: str, words: str, install: Install) -> None:
        with pytest.raises(InvalidData, match=f"dataset 'theirs' of package their-plugin.*{words}"):
            self.load(install, loader)

    def test_its_own_refusals_are_passed_on(self, install: Install) -> None:
        with pytest.raises(InvalidData, match="^fetch it by hand$"):
            self.load(install, "raising(InvalidData('fetch it by hand'))")

    def test_a_size_that_was_asked_for_is_kept_to(self, install: Install) -> None:
        with pytest.raises(InvalidData, match="expected images of --image-size 16, got 8"):
            self.load(install, "given(spec.model_copy(update={'image_size': None}))", image_size=16)


LEARNER = """
import torch
from advbench.methods import Method
from advbench.threat import Needs

class Learner(Method):
    def needs(self, goal):
        return Needs()

    def fit(self, access, train, context):
        return Fitted()

    def restore(self, state, context):
        return Fitted()

class Fitted:
    def perturb(self, images, access):
        Fitted.asked = True
        return images

    def state(self):
        return {}

    def history(self):
        return ()

    def notes(self):
        return ()

SHARED = torch.zeros(2, 3)
"""


class TestResults:
    """Of a method that learns, on digits and a target that was not trained."""

    @pytest.fixture
    def run(self, install: Install, factories: str, tmp_path: Path) -> Callable[[str], Result]:
        def ran(change: str) -> Result:
            """Run it with a change of what it gives when it is fitted."""
            install(f"{LEARNER}\n{change}\n", "attacks", learner="their_plugin:Learner")
            words = ["--attack", "learner", "--target", f"{factories}:plain", "--epsilon", "0.1", "--limit", "20"]
            return CliRunner().invoke(main, ["run", *words, "--device", "cpu", "--results", str(tmp_path), "--json"])

        return ran

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ("{'a': 3}", "; 'a' is int"),
            ("{'fine': torch.zeros(1), 'list': [torch.zeros(1)]}", "; 'list' is list"),
            ("{1: torch.zeros(1)}", " by their names; the name 1 is int"),
            ("torch.zeros(1)", ", got Tensor"),
        ],
    )
    def test_what_cannot_be_stored_is_a_failure_before_anything_is_evaluated(
        self, state: str, words: str, run: Callable[[str], Result]
    ) -> None:
        failed = run(f"Fitted.state = lambda self: {state}")
        record = json.loads(failed.stdout)
        assert (failed.exit_code, record["status"], record["metrics"]) == (1, "failed", None)
        assert record["reason"] == f"InvalidState: state() must be a dictionary of tensors{words}"
        assert not hasattr(sys.modules["their_plugin"].Fitted, "asked")

    def test_tensors_that_share_memory_are_stored(self, run: Callable[[str], Result], tmp_path: Path) -> None:
        done = run(
            "Fitted.state = lambda self: {'a': SHARED, 'b': SHARED, 'c': SHARED.T, 'd': SHARED[:1].expand(4, 3)}"
        )
        record = CellRecord.model_validate_json(done.stdout)
        kept = ResultStore(tmp_path).tensors(record, "state")
        assert {name: tuple(value.shape) for name, value in kept.items()} == {
            "a": (2, 3), "b": (2, 3), "c": (3, 2), "d": (4, 3),
        }  # fmt: skip

    def test_epochs_without_a_number_are_drawn_by_their_place(self, run: Callable[[str], Result]) -> None:
        epochs = "[{'loss': 3.0}, {'loss': 2.0, 'l1': 0.5}, {'loss': 1.0, 'mine': 7.0}]"
        done = run(f"Fitted.history = lambda self: {epochs}")
        assert done.exit_code == 0, done.stderr
        assert "no figures" not in done.stderr
        losses, sizes, *_ = convergence(CellRecord.model_validate_json(done.stdout)).figure.axes
        assert [np.asarray(line.get_xydata()).tolist() for line in losses.get_lines()] == [[[1, 3], [2, 2], [3, 1]]]
        assert [np.asarray(line.get_xydata()).tolist() for line in sizes.get_lines()] == [[[2, 0.5]]]

    def test_a_figure_that_raises_fails_no_run(
        self, run: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def draw(record: CellRecord, store: ResultStore) -> list[Path]:
            raise KeyError("loss")

        monkeypatch.setattr("advbench.report.draw_figures", draw)
        done = run("")
        assert (done.exit_code, json.loads(done.stdout)["status"]) == (0, "ok")
        assert "no figures: KeyError: 'loss'" in done.stderr
