"""Every flag that only several results show: by results that earn it, and by none that do not."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner

from advbench.cli import main
from advbench.report.compare import compare
from advbench.results import DIAGNOSTICS, CellRecord, Flag, ResultStore
from advbench.threat import THREATS, Budget
from advbench.types import Goal

Add = Callable[..., CellRecord]
WHITE = THREATS["white-box"]


def first(count: int) -> np.ndarray:
    return np.arange(200) < count


def flags(store: ResultStore) -> dict[str, set[str]]:
    """Flags by method and epsilon, of all tables."""
    return {
        f"{method} {table.budget.rpartition(' ')[2]}": {flag.name for flag in cell.flags}
        for table in compare(store.records(), store)
        for row in table.rows
        for method, cell in row.cells.items()
    }


class TestNoise:
    def test_an_attack_that_noise_beats_is_flagged(self, add: Add, store: ResultStore) -> None:
        add("noise", first(120))
        add("pgd", first(140))
        add("fgsm", first(60))
        assert flags(store) == {"noise 0.3": set(), "pgd 0.3": {"noise-is-stronger"}, "fgsm 0.3": set()}

    def test_what_looks_at_nothing_does_not_fail(self, add: Add, store: ResultStore) -> None:
        add("noise", first(120))
        for epsilon in (0.3, 0.6):
            add("jpeg", first(190), budget=Budget(epsilon=epsilon))
        assert set().union(*flags(store).values()) == set()

    def test_nothing_left_to_turn_is_no_failure(self, add: Add, store: ResultStore) -> None:
        add("noise", first(0))
        add("pgd", first(0))
        add("pgd", first(150), budget=Budget(epsilon=0.1))  # no noise to beat there
        assert flags(store) == {"noise 0.3": set(), "pgd 0.3": set(), "pgd 0.1": set()}

    def test_an_enhancer_has_to_go_up(self, add: Add, store: ResultStore) -> None:
        add("noise", first(120), goal=Goal.ENHANCE)
        add("pgd", first(140), goal=Goal.ENHANCE)
        add("fgsm", first(60), goal=Goal.ENHANCE)
        assert flags(store) == {"noise 0.3": set(), "pgd 0.3": set(), "fgsm 0.3": {"noise-is-stronger"}}


class TestMoreThatDoesNotHelp:
    @pytest.mark.parametrize("name", ["steps", "queries", "epochs"])
    def test_steps(self, name: str, add: Add, store: ResultStore) -> None:
        for count, left in ((10, 100), (20, 60), (40, 60)):
            add("pgd", first(left), parameters={name: count}, request={"options": {name: str(count)}})
        assert [found for method, found in sorted(flags(store).items())] == [set(), set(), {"steps-do-not-help"}]

    def test_other_options_are_another_method(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(60), parameters={"steps": 10, "loss": "ce"}, request={"options": {"loss": "ce"}})
        add("pgd", first(60), parameters={"steps": 20, "loss": "dlr"}, request={"options": {"loss": "dlr"}})
        assert set().union(*flags(store).values()) == set()

    def test_epsilon(self, add: Add, store: ResultStore) -> None:
        for epsilon, left in ((0.1, 100), (0.2, 110), (0.3, 50)):  # what the method makes of a budget may differ by it
            add("pgd", first(left), budget=Budget(epsilon=epsilon), parameters={"step_size": epsilon / 4})
        assert flags(store) == {"pgd 0.1": set(), "pgd 0.2": {"epsilon-does-not-help"}, "pgd 0.3": set()}

    def test_the_figures_are_of_the_seeds_that_both_have(self, add: Add, store: ResultStore) -> None:
        for seed, left in enumerate((100, 20, 30)):
            add("pgd", first(left), seed=seed, request={"target": {"seed": seed}})
        add("noise", first(99), request={"target": {"seed": 0}})
        (table,) = compare(store.records(), store)
        (flag,) = table.rows[0].cells["pgd"].flags
        assert (flag.name, flag.found) == ("noise-is-stronger", "50.0% still right, 49.5% under noise")

    def test_seeds_are_paired(self, add: Add, store: ResultStore) -> None:
        for seed in (0, 1):
            add("pgd", first(100), seed=seed, budget=Budget(epsilon=0.1), request={"target": {"seed": seed}})
            add("pgd", first(100), seed=seed, budget=Budget(epsilon=0.2), request={"target": {"seed": seed}})
        assert flags(store) == {"pgd 0.1": set(), "pgd 0.2": {"epsilon-does-not-help"}}


class TestBlackBox:
    def test_it_beats_the_best_that_follows_gradients(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(150), threat=WHITE, gradients=1)
        add("pgd", first(100), threat=WHITE, gradients=10)
        add("square", first(60))
        assert flags(store) == {"fgsm 0.3": set(), "pgd 0.3": {"black-box-is-stronger"}, "square 0.3": set()}

    def test_what_was_granted_and_not_looked_at_makes_nothing_seeing(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(150), threat=WHITE, gradients=10)
        add("square", first(50), threat=WHITE)
        assert flags(store) == {"pgd 0.3": {"black-box-is-stronger"}, "square 0.3": set()}

    def test_weights_that_are_looked_at_make_seeing(self, add: Add, store: ResultStore) -> None:
        parameters = {"discriminator": "target"}
        add("pgd", first(50), goal=Goal.ENHANCE, threat=WHITE, gradients=10)
        add("pgn-50", first(150), goal=Goal.ENHANCE, threat=WHITE, parameters=parameters)
        assert flags(store) == {"pgd 0.3": set(), "pgn-50 0.3": set()}

    def test_what_was_wrong_before_counts_for_nobody(self, add: Add, store: ResultStore) -> None:
        """PGD leaves no image right that was, and makes 50 right that were not: no sign of weakness."""
        right_before = first(100)
        add("pgd", ~first(150), threat=WHITE, gradients=10, clean=right_before)
        add("square", first(20), clean=right_before)
        add("noise", first(40), clean=right_before)
        assert set().union(*flags(store).values()) == set()
        add("pgd", ~first(60), threat=WHITE, gradients=10, clean=right_before, budget=Budget(epsilon=0.1))
        add("square", first(5), clean=right_before, budget=Budget(epsilon=0.1))
        assert flags(store)["pgd 0.1"] == {"black-box-is-stronger"}

    def test_by_chance_is_not_enough(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(62), threat=WHITE, gradients=10)
        add("square", first(60))
        assert set().union(*flags(store).values()) == set()

    def test_one_perturbation_for_all_images_may_lose(self, add: Add, store: ResultStore) -> None:
        add("gradient-uap", first(150), threat=WHITE)
        add("square", first(60))
        assert set().union(*flags(store).values()) == set()


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
def test_every_form_shows_flags_and_what_they_mean(form: str, add: Add, store: ResultStore) -> None:
    add("noise", first(120))
    add("pgd", first(140), flags=[Flag(name="zero-gradients", found="100% of images' gradients are zero")])
    shown = CliRunner().invoke(main, ["compare", "--results", str(store.root), "--format", form]).output
    words = " ".join(shown.split())
    mark = {
        "latex": r"70.0\textsuperscript{ZX}",
        "json": '"name": "noise-is-stronger"',
        "csv": "zero-gradients noise-is-stronger",
    }.get(form, "70.0 ⚑ZX")
    assert mark in words
    if form in ("terminal", "markdown", "latex"):
        assert "flag Z, zero-gradients" in words
        assert DIAGNOSTICS["zero-gradients"].remedy[:40] in words


def test_a_result_and_the_list_of_results_show_them(add: Add, store: ResultStore) -> None:
    training = {"epochs": 20, "images": None, "seed": 0}
    add = functools.partial(add, made_from={"architecture": "resnet50", "training": training})
    record = add("pgd", first(140), flags=[Flag(name="zero-gradients", found="40% of images' gradients are zero")])
    shown = CliRunner().invoke(main, ["show", record.key, "--results", str(store.root)]).output
    assert "zero-gradients (Z): 40% of images' gradients are zero" in " ".join(shown.split())
    assert "Remedy: " in shown
    assert "noise-is-stronger" not in shown, "there is no noise beside it"
    add("noise", first(120))
    add("noise", first(10), goal=Goal.ENHANCE)
    beside = CliRunner().invoke(main, ["show", record.key, "--results", str(store.root)]).output
    assert "noise-is-stronger (X): 70.0% still right, 60.0% under noise" in " ".join(beside.split())
    assert "zero-gradients (Z)" in beside
    stored = store.find(record.key).flags
    assert [flag.name for flag in stored] == ["zero-gradients"], "what is stored does not hang on what is beside it"
    listed = CliRunner().invoke(main, ["list", "results", "--results", str(store.root)]).output
    assert "ok ⚑Z" in listed
    assert "flag Z, zero-gradients" in listed
