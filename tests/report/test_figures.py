"""Figures: what they draw is what was stored."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from advbench.bench import Workshop, decision_plane, run_cell
from advbench.cli import main
from advbench.cli.drawing import region_drawings
from advbench.cli.main import request_of
from advbench.cli.screen import Screen
from advbench.errors import InvalidConfig, StorageError
from advbench.progress import SILENT
from advbench.report.compare import compare
from advbench.report.plots import Drawing, comparison_figures, save
from advbench.report.plots import regions as region_figure
from advbench.report.plots.images import triplets
from advbench.results import CellRecord, ResultStore

RUNS = (
    ("noise", "--epsilon", "0.1"),
    ("noise", "--epsilon", "0.3"),
    ("fgsm", "--epsilon", "0.1"),
    ("fgsm", "--epsilon", "0.3"),
    ("square", "--epsilon", "0.3", "--queries", "20"),
    ("deepfool",),
    ("fmn",),
)

HISTORY = [
    {
        "epoch": epoch, "discriminator_loss": 1.0 / epoch, "generator_loss": 2.0 / epoch, "l1": 0.1 * epoch,
        "wrong_to_right": 1.0, "right_to_wrong": 5.0 * epoch, "fit_accuracy": 0.8, "validation_accuracy": 0.7,
    }
    for epoch in (1, 2, 3)
]  # fmt: skip


@pytest.fixture(scope="module")
def store(factories: str, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """Real results of targets that need no training, and copies of one as PGN with two gammas, and as transferred."""
    store = ResultStore(tmp_path_factory.mktemp("results"))
    workshop = Workshop()
    for target in ("plain", "other"):
        for attack, *options in RUNS:
            words = ["--attack", attack, "--target", f"{factories}:{target}", "--limit", "40", *options]
            run_cell(request_of([*words, "--results", str(store.location)]), SILENT, workshop)
    originals = [
        record for record in store.records() if (record.spec.attack, record.spec.budget.epsilon) == ("fgsm", 0.3)
    ]
    for record in originals:
        for gamma in (3.0, 0.1):
            _copy(store, record, store, attack="pgn-b", parameters={"gamma": gamma, "objective": "logistic"})
        for surrogate in ("resnet18", "vgg11"):
            _copy(store, record, store, parameters={"surrogates": [{"architecture": surrogate}]})
    return store


def _copy(store: ResultStore, record: CellRecord, into: ResultStore, **changes: Any) -> None:
    spec = record.spec.model_copy(update=changes)
    history = HISTORY if spec.attack == "pgn-b" else []
    copied = record.model_copy(update={"spec": spec, "key": spec.key, "history": history})
    into.save(copied, store.samples(record), {"examples": store.tensors(record, "examples")})


@pytest.fixture(scope="module")
def drawings(store: ResultStore) -> dict[str, Drawing]:
    return comparison_figures(store.records(), compare(store.records(), store), store)


def one(store: ResultStore, attack: str, target: str, epsilon: float | None = None) -> CellRecord:
    (found,) = (
        record
        for record in store.records()
        if (record.spec.attack, record.spec.target.name, record.spec.budget.epsilon)
        == (attack, f"quick_targets:{target}", epsilon)
        and "surrogates" not in record.spec.parameters
    )
    return found


def labelled(drawing: Drawing, label: str) -> list[Any]:
    return [line for panel in drawing.figure.axes for line in panel.get_lines() if line.get_label() == label]


def test_there_is_every_kind_of_figure_with_words_and_files(drawings: dict[str, Drawing], tmp_path: Path) -> None:
    kinds = {name.partition("-")[0] for name in drawings}
    assert kinds == {
        "epsilon", "queries", "time", "gradients", "norms", "transfer", "convergence", "gamma", "triplets", "confusion",
    }  # fmt: skip
    assert all(drawing.title and len(drawing.alt) > 40 for drawing in drawings.values())
    save({"epsilon": drawings["epsilon"]}, tmp_path / "one")
    save({"epsilon": drawings["epsilon"]}, tmp_path / "two")
    for suffix in (".png", ".pdf", ".svg"):
        first, second = ((tmp_path / each / f"epsilon{suffix}").read_bytes() for each in ("one", "two"))
        assert first == second
        assert len(first) > 1000
    with pytest.raises(StorageError, match="cannot write figures to .*: File exists; choose another"):
        save({"epsilon": drawings["epsilon"]}, tmp_path / "one" / "epsilon.png")


def test_accuracy_against_epsilon_is_the_records(drawings: dict[str, Drawing], store: ResultStore) -> None:
    expected = []
    for target in ("other", "plain"):
        records = [one(store, "noise", target, epsilon) for epsilon in (0.1, 0.3)]
        expected.append([100 * record.metrics.valid_accuracy for record in records if record.metrics])
    assert [list(line.get_ydata()) for line in labelled(drawings["epsilon"], "noise")] == expected


def test_the_norms_curve_ends_at_the_fooling_rate(drawings: dict[str, Drawing], store: ResultStore) -> None:
    for line, target in zip(labelled(drawings["norms"], "deepfool"), ("other", "plain"), strict=True):
        metrics = one(store, "deepfool", target).metrics
        assert metrics is not None
        assert line.get_ydata()[-1] == pytest.approx(100 * metrics.fooling_rate)
        assert list(line.get_xdata()) == sorted(line.get_xdata())


def test_success_against_queries_is_each_images_own(drawings: dict[str, Drawing], store: ResultStore) -> None:
    for line, target in zip(labelled(drawings["queries"], "square"), ("other", "plain"), strict=True):
        record = one(store, "square", target, 0.3)
        assert record.metrics is not None
        samples = store.samples(record, ["label", "clean_prediction", "valid_prediction", "queries"]).to_pylist()
        assert sum(each["queries"] for each in samples) == record.metrics.perturb.queries
        turned = [each for each in samples if each["clean_prediction"] == each["label"] != each["valid_prediction"]]
        spent = sorted(each["queries"] for each in turned)
        assert list(line.get_xdata())[1:-1] == spent
        assert line.get_xdata()[-1] == max(each["queries"] for each in samples)
        assert line.get_ydata()[-1] == pytest.approx(100 * (record.metrics.fooling_rate_of_correct or 0))


def test_confusion_before_and_after_has_the_accuracies_on_its_diagonals(
    drawings: dict[str, Drawing], store: ResultStore
) -> None:
    (drawing,) = (each for each in drawings.values() if each.title.startswith("Confusion by pgn-b"))
    accuracies = {
        (100 * record.metrics.clean_accuracy, 100 * record.metrics.valid_accuracy)
        for record in store.records()
        if record.metrics and record.spec.attack == "pgn-b"
    }
    shown = [f"{before:.1f}% lie on the diagonal before, {after:.1f}% after" for before, after in accuracies]
    assert any(words in drawing.alt for words in shown)
    for panel in drawing.figure.axes:
        assert np.asarray(panel.images[0].get_array()).sum(axis=1) == pytest.approx(np.full(10, 100))


def test_transfer_has_a_square_for_each_pair(drawings: dict[str, Drawing]) -> None:
    (panel,) = drawings["transfer"].figure.axes
    assert np.asarray(panel.images[0].get_array()).shape == (2, 2)
    assert [label.get_text() for label in panel.get_yticklabels()] == ["resnet18", "vgg11"]


def test_nothing_is_merged_into_a_square_or_a_strip_that_is_not_a_seed(store: ResultStore, tmp_path: Path) -> None:
    """Another number of steps is another panel, another surrogate's training another row, other epochs other strips."""
    own = ResultStore(tmp_path)
    for target in ("plain", "other"):
        record = one(store, "fgsm", target, 0.3)
        for steps in (1, 50):
            for surrogate in ({"architecture": "resnet18"}, {"architecture": "vgg11", "init": "a"}):
                _copy(store, record, own, parameters={"steps": steps, "surrogates": [surrogate]})
        _copy(store, record, own, parameters={"steps": 1, "surrogates": [{"architecture": "vgg11", "init": "b"}]})
        for gamma, epochs in itertools.product((3.0, 0.1), (5, 20)):
            parameters = {"gamma": gamma, "objective": "logistic", "epochs": epochs}
            _copy(store, record, own, attack="pgn-b", parameters=parameters)
    drawn = comparison_figures(own.records(), compare(own.records(), own), own)
    panels = drawn["transfer"].figure.axes
    assert [panel.get_title().partition(" [")[2] for panel in panels] == ["steps 1]", "steps 50]"]
    rows = [[label.get_text() for label in panel.get_yticklabels()] for panel in panels]
    assert rows[0] == ["resnet18", "vgg11 [surrogates.0.init a]", "vgg11 [surrogates.0.init b]"]
    strips = [drawing.title for name, drawing in drawn.items() if name.startswith("gamma")]
    assert sorted(title.partition(" [")[2] for title in strips) == 2 * ["epochs 20]"] + 2 * ["epochs 5]"]


def test_other_images_and_targets_share_no_square_and_no_strip(store: ResultStore, tmp_path: Path) -> None:
    """Of a limit, of another dataset of that name, and of a target that was trained otherwise."""
    own = ResultStore(tmp_path)
    for target in ("plain", "other"):
        record = one(store, "fgsm", target, 0.3)
        fewer = record.spec.dataset.model_copy(update={"digest": "fewer", "evaluation_images": 10})
        made = record.spec.target.made_from
        longer = record.spec.target.model_copy(
            update={"made_from": made | {"training": made["training"] | {"epochs": 5}}, "fingerprint": f"{target} 5"}
        )
        settings: tuple[dict[str, Any], ...] = ({}, {"dataset": fewer}, {"target": longer})
        for gamma, changes in zip((3.0, 1.0, 0.1), settings, strict=True):
            _copy(store, record, own, attack="pgn-b", parameters={"gamma": gamma, "objective": "logistic"}, **changes)
            for surrogate in ("resnet18", "vgg11"):
                _copy(store, record, own, parameters={"surrogates": [{"architecture": surrogate}]}, **changes)
    drawn = comparison_figures(own.records(), compare(own.records(), own), own)
    assert not any(name.startswith("gamma") for name in drawn)
    panels = drawn["transfer"].figure.axes
    assert ["".join(re.findall(r"\[.*?\]", panel.get_title())) for panel in panels] == ["[images 10]", "[images 40]"]
    assert [len(panel.get_xticklabels()) for panel in panels] == [2, 4]


def test_convergence_has_four_panels_and_a_curve_for_each_gamma(drawings: dict[str, Drawing]) -> None:
    panels = drawings["convergence-1"].figure.axes
    assert [panel.get_title()[:3] for panel in panels] == ["(A)", "(B)", "(C)", "(D)"]
    (l1,) = {tuple(np.asarray(line.get_ydata()).tolist()) for line in panels[1].get_lines()}
    assert l1 == pytest.approx((0.1, 0.2, 0.3))
    assert {line.get_label() for line in panels[1].get_lines()} == {"gamma 0.1", "gamma 3.0"}


def test_images_by_gamma_are_the_same_images(drawings: dict[str, Drawing]) -> None:
    strips = drawings["gamma-1"].figure.axes
    assert [re.split(r"[:\n]", text.get_text())[0] for text in strips[0].texts] == ["clean", "γ 3", "γ 0.1", "true"]
    for strip in strips:
        clean, *perturbed = (np.asarray(image.get_array()) for image in strip.images)
        assert all(0 < np.abs(each - clean).max() < 0.31 for each in perturbed)


def test_unbounded_triplets_say_that_they_are_of_valid_pixels(store: ResultStore) -> None:
    """Tables count raw images there."""
    unbounded, bounded = (triplets(one(store, *which), store) for which in (("fmn", "plain"), ("fgsm", "plain", 0.3)))
    assert unbounded is not None
    assert bounded is not None
    assert unbounded.title.endswith("by class, valid pixels")
    assert "perturbed image, valid pixels:" in unbounded.alt
    assert "valid pixels" in unbounded.figure.get_supxlabel()
    assert bounded.title.endswith("by class")
    assert bounded.figure.get_supxlabel() == ""


class TestRegions:
    def plane(self, store: ResultStore, attacks: Sequence[tuple[str, str, float]], image: int = 3) -> Any:
        return decision_plane([one(store, *each) for each in attacks], image, 0.8, 21, SILENT)

    def test_of_a_linear_target_they_are_convex_around_its_own_answer(self, store: ResultStore) -> None:
        plane = self.plane(store, [("noise", "plain", 0.1), ("noise", "other", 0.1)])
        samples = store.samples(one(store, "noise", "plain", 0.1))
        predicted = plane.predictions[0][1]
        assert [record.spec.target.name for record, _ in plane.predictions] == [
            "quick_targets:plain",
            "quick_targets:other",
        ]
        assert predicted[10, 10] == samples["clean_prediction"][3].as_py()
        assert len(np.unique(predicted)) > 1
        for line in (*predicted, *predicted.T):
            assert (np.diff(line) != 0).sum() == len(np.unique(line)) - 1

    def test_the_loss_rises_to_the_right(self, store: ResultStore) -> None:
        """A linear target's loss is convex, so that right answers along its gradient end and do not come back."""
        plane = self.plane(store, [("noise", "plain", 0.1)])
        right = plane.predictions[0][1][10] == plane.label
        assert list(right) == sorted(right, reverse=True)

    def test_they_are_drawn_by_the_command(self, store: ResultStore, tmp_path: Path) -> None:
        keys = [one(store, "noise", target, 0.1).key for target in ("plain", "other")]
        words = ["regions", *keys, "--results", str(store.location), "--points", "9", "--figures", str(tmp_path)]
        drawn = CliRunner().invoke(main, words)
        assert drawn.exit_code == 0, drawn.output
        assert {path.name for path in tmp_path.iterdir()} == {"regions.png", "regions.pdf", "regions.svg"}

    def test_in_a_report_targets_that_are_gone_are_told_and_left_out(
        self, store: ResultStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        record = one(store, "noise", "plain", 0.1)
        target = record.request["target"] | {"architecture": "quick_targets:gone"}
        gone = record.model_copy(update={"request": record.request | {"target": target}})
        assert region_drawings([gone], 1, Screen()) == {}
        assert "no decision regions around image 0 of digits" in capsys.readouterr().err

    def test_in_a_report_a_target_is_asked_once(self, store: ResultStore) -> None:
        records = [one(store, "noise", target, 0.1) for target in ("plain", "other", "plain")]
        (drawing,) = region_drawings(records, 1, Screen()).values()
        assert [panel.get_title() for panel in drawing.figure.axes] == ["quick_targets:plain", "quick_targets:other"]
        assert drawing.title.endswith("image 0 of digits, 32 px")

    def test_in_a_report_targets_of_one_name_that_were_trained_otherwise_are_asked_each(
        self, store: ResultStore
    ) -> None:
        record = one(store, "noise", "plain", 0.1)
        target, made = record.spec.target, record.spec.target.made_from
        longer = made | {"training": made["training"] | {"epochs": 5}}
        other = target.model_copy(update={"made_from": longer, "fingerprint": "other weights"})
        spec = record.spec.model_copy(update={"target": other})
        (drawing,) = region_drawings(
            [record, record.model_copy(update={"spec": spec, "key": spec.key})], 1, Screen()
        ).values()
        titles = [panel.get_title().removeprefix("quick_targets:plain ") for panel in drawing.figure.axes]
        assert titles == ["[epochs 0]", "[epochs 5]"]

    def test_in_a_report_each_figure_says_which_images_it_is_of(self, store: ResultStore) -> None:
        record = one(store, "noise", "plain", 0.1)
        fewer = record.spec.dataset.model_copy(update={"digest": "fewer", "evaluation_images": 10})
        spec = record.spec.model_copy(update={"dataset": fewer})
        records = [record, record.model_copy(update={"spec": spec, "key": spec.key})]
        titles = [drawing.title for drawing in region_drawings(records, 1, Screen()).values()]
        assert [title.partition(", image 0 of ")[2] for title in titles] == [
            "digits [images 40], 32 px",
            "digits [images 10], 32 px",
        ]

    def test_the_words_say_how_much_of_the_plane_is_right(self, store: ResultStore) -> None:
        predicted = np.zeros((4, 4), dtype=np.int64)
        predicted[0] = 1
        half = one(store, "noise", "plain", 0.1)
        drawing = region_figure([(half, predicted)], np.linspace(-1, 1, 4), 0, ["cat", "dog"])
        assert "quick_targets:plain sees cat on 75% of it" in drawing.alt

    def test_targets_of_one_architecture_are_called_as_in_tables(self, store: ResultStore) -> None:
        record = one(store, "noise", "plain", 0.1)
        target = record.spec.target
        made = target.made_from | {"training": (target.made_from["training"] or {}) | {"images": 150}}
        spec = record.spec.model_copy(update={"target": target.model_copy(update={"made_from": made})})
        trained = record.model_copy(update={"spec": spec, "key": spec.key})
        predicted = np.zeros((4, 4), dtype=np.int64)
        drawing = region_figure([(each, predicted) for each in (record, trained)], np.linspace(-1, 1, 4), 0, ["cat"])
        titles = [panel.get_title() for panel in drawing.figure.axes]
        assert titles == [target.name, f"{target.name} (saw 150)"]

    def test_an_image_that_is_not_there_is_refused(self, store: ResultStore) -> None:
        with pytest.raises(InvalidConfig, match="there are 40"):
            self.plane(store, [("noise", "plain", 0.1)], image=40)
