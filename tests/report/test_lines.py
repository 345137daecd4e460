"""Lines of figures: seeds share one, and nothing else does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from advbench.report.compare import compare
from advbench.report.plots import Drawing, comparison_figures, exemplary
from advbench.report.plots.naming import lines
from advbench.results import CellRecord, ResultStore
from advbench.threat import Budget
from advbench.types import Norm

HALF, ALL = [True, False] * 100, [True] * 200
PGN = {"gamma": 1.0, "objective": "logistic", "warm_up_epochs": 6}
UNBOUNDED = Budget(norm=Norm.L2)


def fitted(record: CellRecord, l1: float) -> CellRecord:
    return record.model_copy(update={"history": [{"epoch": 1.0, "l1": l1, "validation_accuracy": 0.5}]})


def drawn(records: list[CellRecord], store: ResultStore, names: Mapping[str, str] | None = None) -> dict[str, Drawing]:
    return comparison_figures(records, compare(records, store, names=names), store, for_page=True)


def heights(drawing: Drawing, panel: int = 0) -> dict[str, list[float]]:
    curves = drawing.figure.axes[panel].get_lines()
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in curves}


@pytest.fixture
def ablation(add: Any) -> list[CellRecord]:
    """A recipe with two seeds, and one without its warm-up."""
    recipes = [fitted(add("pgn-b", HALF, seed=seed, parameters=PGN), l1=0.1 + 0.2 * seed) for seed in (0, 1)]
    return [*recipes, fitted(add("pgn-b", ALL, parameters=PGN | {"warm_up_epochs": 0}), l1=0.7)]


def test_convergence_averages_seeds_and_is_called_as_the_suite_calls_it(
    ablation: list[CellRecord], store: ResultStore
) -> None:
    names = dict(zip([record.key for record in ablation], ["recipe", "recipe", "no warm-up"], strict=True))
    found = heights(drawn(ablation, store, names)["convergence-1"], panel=1)
    assert found == {"no warm-up": [0.7], "recipe": [pytest.approx(0.2)]}


def test_convergence_without_a_suite_is_called_by_what_differs(ablation: list[CellRecord], store: ResultStore) -> None:
    found = heights(drawn(ablation, store)["convergence-1"], panel=1)
    assert found == {"warm-up-epochs 0": [0.7], "warm-up-epochs 6": [pytest.approx(0.2)]}


def test_convergence_of_more_configurations_than_colours_is_drawn(add: Any, store: ResultStore) -> None:
    records = [fitted(add("pgn-b", HALF, parameters=PGN | {"gamma": gamma}), gamma) for gamma in range(12)]
    assert len(heights(drawn(records, store)["convergence-1"], panel=1)) == 12


def test_accuracy_against_epsilon_has_a_line_for_each_configuration(add: Any, store: ResultStore) -> None:
    records = [
        add("pgd", ALL if steps == 1 else HALF, seed=seed, budget=Budget(epsilon=epsilon), parameters={"steps": steps})
        for epsilon, steps, seed in ((0.1, 1, 0), (0.1, 1, 1), (0.3, 1, 0), (0.1, 9, 0), (0.3, 9, 0))
    ]
    found = heights(drawn(records, store)["epsilon"])
    assert found == {"pgd [steps 1]": [100, 100], "pgd [steps 9]": [50, 50], "clean": [90, 90]}
    names = {record.key: f"PGD, {record.spec.parameters['steps']} steps" for record in records}
    assert heights(drawn(records, store, names)["epsilon"]).keys() == {"PGD, 1 steps", "PGD, 9 steps", "clean"}


def test_configurations_that_share_no_budget_share_no_line(add: Any, store: ResultStore) -> None:
    records = [
        add("pgd", HALF, budget=Budget(epsilon=epsilon), parameters={"steps": steps})
        for epsilon, steps in ((0.1, 1), (0.3, 9))
    ]
    assert heights(drawn(records, store)["epsilon"]).keys() == {"pgd [steps 1]", "pgd [steps 9]", "clean"}


def test_other_images_and_other_targets_of_one_name_have_a_panel_each(add: Any, store: ResultStore) -> None:
    """So that each panel's line is of what ran there, and its clean accuracy too."""
    weaker = {"training": {"images": None, "epochs": 1}}
    settings: tuple[dict[str, Any], ...] = ({}, {"digest": "e", "limit": 10}, {"made_from": weaker, "fingerprint": "w"})
    records = [add("pgd", HALF, budget=Budget(epsilon=epsilon), **each) for epsilon in (0.1, 0.3) for each in settings]
    titles = [" ".join(panel.get_title().split()) for panel in drawn(records, store)["epsilon"].figure.axes]
    assert titles == [
        "resnet50 [epochs 1], digits [images 200], degrade, linf",
        "resnet50 [epochs None], digits [images 200], degrade, linf",
        "resnet50, digits [images 10], degrade, linf",
    ]


def test_norms_have_a_line_for_each_configuration(add: Any, store: ResultStore) -> None:
    records = [
        add("deepfool", right, budget=UNBOUNDED, parameters={"overshoot": overshoot})
        for overshoot, right in ((0.02, HALF), (0.5, [False] * 200))
    ]
    found = heights(drawn(records, store)["norms"])
    assert {name: shares[-1] for name, shares in found.items()} == {
        "deepfool [overshoot 0.02]": 50,
        "deepfool [overshoot 0.5]": 100,
    }


def test_what_ran_under_older_code_is_no_seed(add: Any, store: ResultStore) -> None:
    records = [
        add("pgd", right, budget=Budget(epsilon=epsilon), code=code, created=f"2026-01-0{code}T00:00:00+00:00")
        for epsilon in (0.1, 0.3)
        for code, right in (("1", ALL), ("2", HALF))
    ]
    assert heights(drawn(records, store)["epsilon"])["pgd"] == [50, 50]


def test_fit_images_count_and_seeds_do_not(add: Any) -> None:
    def trained(seed: int) -> dict[str, Any]:
        return {"surrogates": [{"architecture": "vgg11", "training": {"seed": seed}}]}

    records = [add("pgn-50", HALF, seed=seed, parameters=trained(seed)) for seed in (0, 1)]
    dataset = records[0].spec.dataset.model_copy(update={"fit_images": 18})
    spec = records[0].spec.model_copy(update={"dataset": dataset})
    records.append(records[0].model_copy(update={"spec": spec, "key": spec.key}))
    found = lines(records, {record.key: "pgn-50 via vgg11" for record in records})
    assert {name: len(own) for name, own in found.items()} == {
        "pgn-50 via vgg11 [fit images 18]": 1,
        "pgn-50 via vgg11 [fit images 9]": 2,
    }


def test_a_front_is_of_one_target(add: Any, store: ResultStore) -> None:
    records = [
        add(attack, right, target=target, gradients=gradients)
        for target, attack, right, gradients in (
            ("vgg11", "fgsm", ALL, 1),
            ("vgg11", "pgd", HALF, 10),
            ("resnet18", "fgsm", [False] * 200, 1),
            ("resnet18", "pgd", [False] * 200, 10),
        )
    ]
    drawing = drawn(records, store)["gradients"]
    titles = [panel.get_title().partition(":")[0] for panel in drawing.figure.axes]
    fronts = [np.asarray(panel.get_lines()[0].get_xydata()).tolist() for panel in drawing.figure.axes]
    assert dict(zip(titles, fronts, strict=True)) == {"resnet18": [[1, 0]], "vgg11": [[1, 100], [10, 50]]}


def test_images_are_shown_of_pgn_whatever_a_suite_calls_it(add: Any, store: ResultStore) -> None:
    records = [add("pgd", HALF), add("pgn-b", ALL)]
    tables = compare(records, store, names={records[1].key: "PGN-B, mine"})
    assert exemplary(records, tables) == records[1:]


def test_long_names_stay_within_the_figure(add: Any, store: ResultStore) -> None:
    long = [f"hyper_parameter_{number}" for number in range(40)]
    records = [
        fitted(add("pgn-b", HALF, parameters=PGN | dict.fromkeys(long, value)), l1=float(value)) for value in (1, 2)
    ]
    figure = drawn(records, store)["convergence-1"].figure
    figure.canvas.draw()
    (box,) = (legend.get_window_extent() for legend in figure.legends)
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert min(panel.get_window_extent().height for panel in figure.axes) > figure.dpi
