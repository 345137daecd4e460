"""Comparisons, from results whose numbers are known."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from rich.console import Console
from scipy.stats import binomtest

from advbench.cli import main
from advbench.errors import StorageError
from advbench.metrics import holm, mean_interval, paired_p_value, proportion
from advbench.report.compare import compare
from advbench.report.formats import Cell, Grid, as_latex, as_markdown, as_terminal, comparison_grid, comparison_grids
from advbench.report.published import against, published
from advbench.results import CellRecord, ResultStore
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Status

IMAGES = 200
Add = Callable[..., CellRecord]


def first(count: int, start: int = 0) -> np.ndarray:
    return (np.arange(IMAGES) >= start) & (np.arange(IMAGES) < start + count)


class TestStatistics:
    def test_one_seed_is_mcnemars_exact_test(self) -> None:
        one, other = first(60), first(45, start=10)  # 15 right under one alone (10 + 5), none under the other alone
        assert paired_p_value(one[None], other[None]) == pytest.approx(binomtest(0, 15).pvalue)
        assert paired_p_value(one[None], one[None]) == 1.0

    def test_chance_alone_is_rarely_called_a_difference(self) -> None:
        """Under no difference, the paired tests' p-values lie below 5% in at most about 5% of the cases."""
        generator = np.random.default_rng(0)
        for seeds in (1, 3):
            found = [paired_p_value(*(generator.random((2, seeds, 300)) < 0.5)) for _ in range(200)]
            assert np.mean(np.array(found) < 0.05) < 0.09

    def test_several_seeds_are_the_same_test_over_images(self) -> None:
        """An image is one's that is right under more seeds; so 3 images are never beyond chance."""
        one = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0]], bool)
        assert paired_p_value(one, np.zeros_like(one)) == pytest.approx(binomtest(3, 3).pvalue)
        assert paired_p_value(one, one) == 1.0

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_where_all_images_agree_the_interval_is_one_seeds(self, share: float) -> None:
        low, high = mean_interval(np.full((3, 50), bool(share)))
        assert (low, high) == pytest.approx((0, 0.0713) if share == 0 else (0.9287, 1), abs=1e-3)

    @pytest.mark.parametrize("count", [1, 19, 60])
    def test_seeds_that_agree_have_the_interval_of_one(self, count: int) -> None:
        right = first(count)[: 20 if count < 20 else None]
        share = proportion(right)
        assert mean_interval(np.stack([right] * 3)) == pytest.approx((share.low, share.high))

    def test_the_interval_is_narrower_the_less_seeds_agree_and_stays_within_0_and_1(self) -> None:
        """Of 20 images one is wrong under all seeds, or one under each."""
        alike, apart = np.ones((2, 2, 20), bool)
        alike[:, 0] = apart[0, 0] = apart[1, 1] = False
        (low, high), (own_low, own_high) = mean_interval(alike), mean_interval(apart)
        assert 0.76 < low < own_low < 0.95 < own_high < high < 1

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_where_seeds_are_each_others_opposite_the_interval_is_about_the_mean(self, order: tuple[int, int]) -> None:
        right = np.stack([first(60), ~first(60)])[list(order)]
        low, high = mean_interval(right)
        assert (low, high) == pytest.approx((0.4314, 0.5686), abs=1e-3)  # Wilson's of 100 of 200

    def test_holm_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([]) == []

    def test_the_interval_covers_the_mean_it_is_of(self) -> None:
        generator = np.random.default_rng(1)
        inside = 0
        for _ in range(200):
            chance = generator.beta(2, 2, size=400)
            low, high = mean_interval(generator.random((3, 400)) < chance)
            inside += low <= 0.5 <= high
        assert inside / 200 > 0.9


class TestTables:
    def test_the_best_is_marked_only_beyond_chance(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("pgd", first(60))
        add("fgsm", first(100), target="vgg16")
        add("pgd", first(98), target="vgg16")
        (table,) = compare(store.records(), store)
        marks = {(row.target, method): cell.best for row in table.rows for method, cell in row.cells.items()}
        assert marks == {
            ("resnet50", "fgsm"): False, ("resnet50", "pgd"): True, ("vgg16", "fgsm"): False, ("vgg16", "pgd"): False,
        }  # fmt: skip

    def test_ahead_on_few_images_and_behind_on_many_is_not_best(self, add: Add, store: ResultStore) -> None:
        for seed in range(3):
            add("fgsm", ~first(10), seed=seed)  # turns ten images under all seeds, and leads by the mean
            add("pgd", ~first(25, start=10) if seed == 0 else ~first(0), seed=seed)
        (table,) = compare(store.records(), store)
        cells = table.rows[0].cells
        assert cells["fgsm"].accuracy == pytest.approx(0.95)
        assert cells["pgd"].accuracy == pytest.approx(1 - 25 / 600)
        assert not any(cell.best for cell in cells.values())

    def test_ahead_only_under_seeds_that_the_other_lacks_is_not_best(self, add: Add, store: ResultStore) -> None:
        for seed, count in enumerate((100, 0, 0)):
            add("fgsm", first(count), seed=seed)
        add("pgd", first(60))
        (table,) = compare(store.records(), store)
        assert not any(cell.best for cell in table.rows[0].cells.values())

    def test_robust_accuracy_leaves_out_what_an_attack_put_right(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100), clean=first(60, start=80))  # 20 were right and are, 80 are right that were not
        add("pgn-50", first(150), goal=Goal.ENHANCE)
        degrade, enhance = compare(store.records(), store)
        assert degrade.rows[0].cells["fgsm"].robust == pytest.approx(0.1)
        assert degrade.rows[0].cells["fgsm"].accuracy == pytest.approx(0.5)
        assert enhance.rows[0].cells["pgn-50"].robust is None

    def test_a_table_says_what_its_methods_were_granted(self, add: Add, store: ResultStore) -> None:
        for target in ("resnet50", "vgg16"):
            add("noise", first(100), target=target)
            add("fgsm", first(100), target=target, threat=THREATS["white-box"])
        add("square", None, reason="it broke", threat=THREATS["black-box-scores"])
        (table,) = compare(store.records(), store)
        told = "threat models: noise: black-box-labels; square: black-box-scores; fgsm: white-box"
        assert told in comparison_grid(table).notes

    def test_without_a_bound_norms_are_told_apart(self, add: Add, store: ResultStore) -> None:
        for norm in ("linf", "l2"):
            add("deepfool", first(100), budget=Budget(norm=norm))
        titles = {table.title for table in compare(store.records(), store)}
        assert titles == {"digits, 32 px, degrade, unbounded", "digits, 32 px, degrade, unbounded, l2"}

    def test_tables_on_other_images_are_told_apart_by_their_number_or_else_their_hash(
        self, add: Add, store: ResultStore
    ) -> None:
        for digest, images in (("a" * 20, 200), ("b" * 20, 200), ("c" * 20, 100)):
            add("fgsm", first(100), digest=digest, limit=images)
        add("fgsm", first(100), digest="a" * 20, goal=Goal.ENHANCE)
        assert [table.title.removeprefix("digits, 32 px, ") for table in compare(store.records(), store)] == [
            "degrade, linf 0.3 [images 100]",
            "degrade, linf 0.3 [images 200] [digest aaaaaaaa]",
            "degrade, linf 0.3 [images 200] [digest bbbbbbbb]",
            "enhance, linf 0.3",
        ]

    def test_to_enhance_the_highest_leads(self, add: Add, store: ResultStore) -> None:
        add("noise", first(100), goal=Goal.ENHANCE)
        add("pgn-50", first(150), goal=Goal.ENHANCE)
        (table,) = compare(store.records(), store)
        assert table.rows[0].cells["pgn-50"].best
        assert table.rows[0].worst == pytest.approx(0.75)  # right under any method

    def test_the_worst_case_counts_what_survives_every_method(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("pgd", first(100, start=60))
        (table,) = compare(store.records(), store)
        assert table.rows[0].worst == pytest.approx(40 / IMAGES)

    def test_seeds_are_averaged_and_their_spread_is_shown(self, add: Add, store: ResultStore) -> None:
        for seed, count in enumerate((20, 40, 60)):
            add("pgn-b", first(count), seed=seed)
        (table,) = compare(store.records(), store)
        cell = table.rows[0].cells["pgn-b"]
        assert cell.accuracy == pytest.approx(0.2)
        assert cell.spread == pytest.approx((0.1, 0.3))
        assert cell.seeds == [0, 1, 2]

    def test_seeds_that_some_methods_lack_weigh_no_more_for_it(self, add: Add, store: ResultStore) -> None:
        """Clean is the mean over seeds, however many methods have each; what is over fewer seeds says so."""
        for seed, clean in enumerate((0.9, 0.5)):
            add("fgsm", first(60), seed=seed, clean_accuracy=clean)
        for attack in ("noise", "pgd"):
            add(attack, first(100), clean_accuracy=0.9)
        (table,) = compare(store.records(), store)
        assert table.rows[0].clean == pytest.approx(0.7)
        grid = comparison_grid(table)
        shown = dict(zip(grid.header, grid.rows[0], strict=True))
        assert shown["pgd"].detail.endswith("(1 of 2 seeds)")
        assert "of 2 seeds" not in shown["fgsm"].detail
        assert any("over the seeds that all of them have" in note for note in grid.notes)

    def test_surrogates_that_each_seed_trains_for_itself_are_one_method(self, add: Add, store: ResultStore) -> None:
        for seed in (0, 1):
            surrogate = {"architecture": "resnet18", "training": {"seed": seed}}
            add("fgsm", first(20), seed=seed, parameters={"surrogates": [surrogate]})
        (table,) = compare(store.records(), store)
        assert table.methods == ["fgsm via resnet18"]
        assert table.rows[0].cells["fgsm via resnet18"].seeds == [0, 1]

    def test_columns_have_the_names_of_a_suite_and_say_what_they_are(self, add: Add, store: ResultStore) -> None:
        parameters = [{"epochs": epochs} for epochs in (1, 2, 3)]
        few, more, most = (add("pgn-b", first(50), parameters=each) for each in parameters)
        add("fgsm", first(100))
        names = {few.key: "few epochs", more.key: "many epochs", most.key: "many epochs"}
        (table,) = compare(store.records(), store, names=names)
        assert table.methods == ["fgsm", "few epochs", "many epochs [epochs 2]", "many epochs [epochs 3]"]
        assert "few epochs | many epochs [epochs 2] | many epochs [epochs 3]: pgn-b" in comparison_grid(table).notes

    def test_a_column_says_all_that_it_is(self, add: Add, store: ResultStore) -> None:
        """A suite may carry one method by another surrogate for each target."""
        names = {}
        for target, surrogate in (("resnet50", "vgg11"), ("vgg16", "resnet18")):
            parameters = {"surrogates": [{"architecture": surrogate}]}
            names[add("fgsm", first(100), target=target, parameters=parameters).key] = "FGSM, transferred"
        (table,) = compare(store.records(), store, names=names)
        assert "FGSM, transferred: fgsm via resnet18 | fgsm via vgg11" in comparison_grid(table).notes

    def test_what_an_attacker_may_not_be_granted_is_left_out(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(50), threat=THREATS["white-box"])
        add("square", first(60), threat=THREATS["black-box-scores"])
        add("pgn-b", first(70), threat=THREATS["black-box-labels"])
        words = ["compare", "--results", str(store.root), "--format", "json", "--threat"]
        for threat, methods in (
            ("white-box", ["fgsm", "square", "pgn-b"]),
            ("black-box-scores", ["square", "pgn-b"]),
            ("black-box-labels", ["pgn-b"]),
        ):
            (table,) = json.loads(CliRunner().invoke(main, [*words, threat]).output)
            assert table["methods"] == methods
        assert "unknown threat model 'grey-box'" in CliRunner().invoke(main, [*words, "grey-box"]).output

    def test_failures_are_shown_and_are_no_numbers(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("pgd", None, reason="RuntimeError: out of memory")
        (table,) = compare(store.records(), store)
        cell = table.rows[0].cells["pgd"]
        assert (cell.status, cell.accuracy) == (Status.FAILED, None)
        shown = CliRunner().invoke(main, ["compare", "--results", str(store.root)]).output
        assert "failed" in shown
        assert "out of memory" in shown

    def test_what_is_not_comparable_stands_apart(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("fgsm", first(50), budget=Budget(epsilon=0.1))
        add("fgsm", first(50), goal=Goal.ENHANCE)
        add("fgsm", first(50), dataset="stl10")
        assert len(compare(store.records(), store)) == 4

    def test_one_name_with_other_parameters_is_another_column(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(100), parameters={"steps": 10, "label": "predicted"})
        add("pgd", first(80), parameters={"steps": 20, "label": "predicted"})
        (table,) = compare(store.records(), store)
        assert table.methods == ["pgd [steps 10]", "pgd [steps 20]"]

    @pytest.mark.parametrize("name", ["", "a suite's own"])
    def test_nothing_is_merged_that_is_not_a_seed(self, name: str, add: Add, store: ResultStore) -> None:
        """Targets made otherwise, other limits and other fit images are told apart, whatever a suite calls them."""
        add("pgd", first(10))
        made = {"training": {"images": None, "epochs": 20}}
        add("pgd", first(20), made_from=made, fingerprint="twenty")
        add("pgd", first(30), threat=THREATS["white-box"].model_copy(update={"max_queries": 5}))
        add("pgd", first(40), fit_images=7)
        add("pgd", first(50), fingerprint="another machine's")
        names = {record.key: name for record in store.records()} if name else {}
        (table,) = compare(store.records(), store, names=names)
        found = sorted(
            round(cell.accuracy * IMAGES) for row in table.rows for cell in row.cells.values() if cell.accuracy
        )
        assert found == [10, 20, 30, 40, 50]
        assert all(len(cell.keys) == 1 for row in table.rows for cell in row.cells.values())
        columns = " ".join(table.methods)
        assert "max queries 5" in columns
        assert "fit images 7" in columns
        assert any("epochs 20" in row.target for row in table.rows)
        assert any("weights another" in row.target for row in table.rows)

    def test_seeds_train_their_own_targets_and_are_one_row(self, add: Add, store: ResultStore) -> None:
        for seed in (0, 1):
            made = {"training": {"images": None, "seed": seed}}
            add("pgd", first(10), seed=seed, made_from=made, fingerprint=f"of {seed}")
        (table,) = compare(store.records(), store)
        assert [row.cells["pgd"].seeds for row in table.rows] == [[0, 1]]

    def test_both_denominators_are_of_the_images_that_count(self, add: Add, store: ResultStore) -> None:
        """When clean, 180 of 200 are right; 80 of them stay so under one method, all and 10 others under the other."""
        add("fgsm", first(80), clean=first(180))
        add("fgsm", first(190), clean=first(180), goal=Goal.ENHANCE)
        tables = compare(store.records(), store)
        cells = [table.rows[0].cells["fgsm"] for table in tables]
        assert [cell.turned for cell in cells] == pytest.approx([100 / 180, 10 / 20])
        assert [cell.changed for cell in cells] == pytest.approx([100 / 200, 10 / 200])
        assert [grid.rows[0][1].text for grid in comparison_grids(tables)[1::2]] == ["50.0 / 55.6", "5.0 / 50.0"]

    def test_an_oracle_is_named_so(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(150), goal=Goal.ENHANCE, threat=THREATS["white-box"].with_true_labels())
        (table,) = compare(store.records(), store)
        assert table.methods == ["pgd (oracle: true labels)"]

    def test_an_oracle_is_not_ranked(self, add: Add, store: ResultStore) -> None:
        add("pgd", first(190), goal=Goal.ENHANCE, threat=THREATS["white-box"].with_true_labels())
        add("noise", first(40), goal=Goal.ENHANCE)
        add("pgn-50", first(100), goal=Goal.ENHANCE)
        (table,) = compare(store.records(), store)
        (row,) = table.rows
        assert {method for method, cell in row.cells.items() if cell.best} == {"pgn-50"}
        assert row.worst == pytest.approx(0.5)

    def test_what_is_an_oracle_in_one_row_is_ranked_in_the_others(self, add: Add, store: ResultStore) -> None:
        threats = {"resnet50": THREATS["white-box"].with_true_labels(), "vgg16": THREATS["white-box"]}
        names = {}
        for target, threat in threats.items():
            names[add("pgd", first(20), target=target, threat=threat).key] = "mine"
            add("noise", first(150), target=target)
        (table,) = compare(store.records(), store, names=names)
        assert table.oracles == ["mine"]
        assert [row.cells["mine"].best for row in table.rows] == [False, True]
        assert [row.worst for row in table.rows] == pytest.approx([0.75, 0.1])

    def test_of_the_same_run_under_other_code_the_newest_counts(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100), code="new", created="2026-02-01T00:00:00+00:00")
        add("fgsm", first(10), code="old")
        (table,) = compare(store.records(), store)
        assert table.rows[0].cells["fgsm"].accuracy == pytest.approx(0.5)


class TestPublished:
    def test_the_papers_numbers_are_whole(self) -> None:
        rows = published("butterfly")
        assert {row.architecture for row in rows} == {"resnet50", "resnet101", "vgg16", "densenet169"}
        assert all(0 <= row.accuracy <= 1 and 0 <= row.map <= 1 for row in rows)
        found = {(r.dataset, r.architecture, r.init, r.attack): r.accuracy for r in rows if r.goal is Goal.DEGRADE}
        assert found["stl-10", "vgg16", "imagenet", "fgsm"] == pytest.approx(0.777)

    def test_what_the_paper_says_of_pgn_is_not_held_against_others(self, add: Add, store: ResultStore) -> None:
        add("uap", first(20), dataset="stl10", parameters={"epochs": 2})
        row = next(row for row in against(store.records(), "butterfly") if row.published.attack == "uap")
        assert not any("epochs" in difference for difference in row.differs)

    def test_targets_that_were_trained_otherwise_are_said_to_be(self, add: Add, store: ResultStore) -> None:
        training = {"images": None, "epochs": 20, "learning_rate": 1e-4, "batch_size": 32}
        made = {"training": training, "normalisation": "imagenet"}
        add("fgsm", first(20), dataset="stl10", target="vgg16", made_from=made)
        for row in against(store.records(), "butterfly"):
            assert [difference for difference in row.differs if difference.startswith("target")] == [
                "target learning-rate 0.0001, not 0.0005",
                "target batch-size 32, not 64",
                "target normalisation imagenet, not none",
                "target from scratch, not imagenet",
            ]

    def test_ours_stand_beside_theirs_with_what_differs(self, add: Add, store: ResultStore) -> None:
        add("pgn-b", first(20), dataset="stl10", images=1000, budget=Budget(), parameters={"label_aware": True})
        vanilla, row = against(store.records(), "butterfly")
        assert (vanilla.published.attack, vanilla.published.accuracy, vanilla.ours) == ("vanilla", 0.92, 0.9)
        assert not any("label-aware" in difference for difference in vanilla.differs)
        assert row.published.accuracy == pytest.approx(0.0692)
        assert row.difference == pytest.approx(0.1 - 0.0692)
        assert "9 fit images" in row.differs
        for words in ("32 px, not 224", "from scratch, not imagenet", "saw 1000 images", "label-aware True, not False"):
            assert any(words in difference for difference in row.differs), words


class TestRecords:
    def change(self, record: CellRecord, store: ResultStore, *way: str, **values: Any) -> None:
        path = store.folder(record.key) / "record.json"
        whole = content = json.loads(path.read_text())
        for name in way:
            content = content[name]
        content.update(values)
        path.write_text(json.dumps(whole))

    @pytest.mark.parametrize("way", [(), ("spec",), ("spec", "budget"), ("spec", "threat"), ("metrics", "fit")])
    def test_fields_of_a_later_advbench_are_left_out(self, way: tuple[str, ...], add: Add, store: ResultStore) -> None:
        record = add("fgsm", first(100))
        self.change(record, store, *way, novelty={"of": 1})
        assert store.records() == [record]
        with pytest.raises(ValidationError, match="novelty"):
            CellRecord.model_validate({**dict(record), "novelty": 1})

    def test_a_record_of_a_later_schema_is_not_to_be_deleted(self, add: Add, store: ResultStore) -> None:
        record = add("fgsm", first(100))
        self.change(record, store, schema_version=2, status="another", created=None)
        with pytest.raises(StorageError, match="newer schema version, 2, and this advbench reads 1") as said:
            store.records()
        assert "delete" not in str(said.value)

    def test_a_broken_record_is_named_with_what_is_wrong(self, add: Add, store: ResultStore) -> None:
        record = add("fgsm", first(100))
        self.change(record, store, "spec", seed="three")
        with pytest.raises(StorageError, match=rf"{record.key}/record.json: spec.seed: Input should be .*delete its"):
            store.records()
        (store.folder(record.key) / "record.json").write_text("{")
        with pytest.raises(StorageError, match="record.json: record: Invalid JSON.*delete its folder"):
            store.records()


class TestForms:
    def test_a_method_may_be_called_as_another_column_is(self, add: Add, store: ResultStore) -> None:
        record = add("identity", first(100))
        (table,) = compare(store.records(), store, names={record.key: "clean"})
        grids = comparison_grids([table])
        assert [grid.methods for grid in grids] == [[None, None, "clean", None], [None, "clean"]]
        assert all(len(grid.methods) == len(grid.header) for grid in grids)

    def test_oracles_are_told_by_what_they_were_granted(self, add: Add, store: ResultStore) -> None:
        truth = add("fgsm", first(20), threat=THREATS["white-box"].with_true_labels())
        add("pgd", first(100))
        (table,) = compare(store.records(), store, names={truth.key: "told the truth"})
        assert any("oracles aside" in note for note in comparison_grid(table).notes)

    def test_any_words_keep_the_table_whole(self) -> None:
        grid = Grid(
            "50% of_all", [r"l^2 {a} \b", "a|b"], [[Cell("x & y"), Cell("<b>")]], ["failed: <urlopen>\nerror\n\n- x"]
        )
        latex = as_latex(grid)
        assert r"l\^{}2 \{a\} \textbackslash{}b & a|b \\" in latex
        assert r"x \& y & \textless{}b\textgreater{} \\" in latex
        assert as_markdown(grid).splitlines()[-1] == r"- failed: \<urlopen> error - x"

    @pytest.mark.parametrize("width", [40, 80, 300])
    def test_a_terminal_loses_no_digit(self, width: int, add: Add, store: ResultStore) -> None:
        for count in range(9):
            add(f"method-{count}", first(100 + count), target="resnet18 that saw 150")
        console = Console(width=width)
        with console.capture() as captured:
            for grid in (grids := comparison_grids(compare(store.records(), store))):
                console.print(as_terminal(grid))
        shown = captured.get()
        assert all(len(line) <= width for line in shown.splitlines())
        assert all(line in shown for grid in grids for row in grid.rows for cell in row for line in cell.whole.split())
        assert all(name in shown for name in ("method-0", "method-8", "worst"))
        assert "…" not in shown

    def test_long_words_are_folded_in_a_terminal(self) -> None:
        console = Console(width=60)
        grid = Grid("", ["key", "made by", "n"], [[Cell("a" * 90), Cell("b" * 90), Cell("12")]])
        with console.capture() as captured:
            console.print(as_terminal(grid))
        shown = captured.get()
        assert [shown.count(letter) for letter in ("a", "b")] == [2 * 90 + 1, 90 + 1]
        assert "12" in shown


class TestCommands:
    @pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json"])
    def test_every_form_holds_the_numbers(self, form: str, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("pgd", first(61))
        result = CliRunner().invoke(main, ["compare", "--results", str(store.root), "--format", form])
        assert result.exit_code == 0, result.output
        assert ("0.305" if form in ("csv", "json") else "30.5") in result.output
        if form == "json":
            assert json.loads(result.output)[0]["rows"][0]["cells"]["pgd"]["best"]
        if form == "csv":
            (row,) = [row for row in csv.DictReader(result.output.splitlines()) if row["method"] == "pgd"]
            assert (row["dataset"], row["goal"], row["budget"], row["best"]) == (
                "digits",
                "degrade",
                "linf 0.3",
                "True",
            )
            assert float(row["accuracy"]) == 0.305
            assert float(row["low"]) < 0.305 < float(row["high"])
        if form == "latex":
            assert r"\textbf{30.5} [" in result.output
            assert result.output.count("{") == result.output.count("}")

    def test_nothing_to_compare_is_said(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(main, ["compare", "--results", str(tmp_path)])
        assert result.exit_code == 2
        assert "nothing to compare" in result.output

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--dataset", "cifar10"], "none of the 1 results fits --dataset and --threat"),
            (["--scale", "mini"], "name the suite by --suite"),
            (["--images", "uint8", "--against", "butterfly"], "published numbers are on raw images"),
        ],
    )
    def test_what_would_be_ignored_is_refused(
        self, add: Add, store: ResultStore, tmp_path: Path, words: list[str], told: str
    ) -> None:
        add("fgsm", first(100))
        result = CliRunner().invoke(main, ["compare", "--results", str(tmp_path), *words])
        assert result.exit_code == 2
        assert told in " ".join(result.output.split())

    def test_sql_over_results_and_samples(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        add("pgd", first(60))

        def ask(sql: str) -> Any:
            result = CliRunner().invoke(main, ["query", sql, "--results", str(store.root), "--format", "json"])
            assert result.exit_code == 0, result.output
            return json.loads(result.output)

        assert ask("select attack, valid_accuracy as a from results order by a") == [
            {"attack": "pgd", "a": 0.3}, {"attack": "fgsm", "a": 0.5},
        ]  # fmt: skip
        counted = "select count(*) as n from samples join results using (key) where valid_prediction = label"
        assert ask(f"{counted} and attack = 'pgd'") == [{"n": 60}]
        assert ask("SELECT COUNT(*) AS n FROM SAMPLES") == [{"n": 400}]

    def test_what_sql_answers_is_json_and_csv(self, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100), seed=2**64)
        odd = "select seed, 1e308 * 10 as high, ['nan'::double, 1.5] as list, null as none from results"
        found = {
            form: CliRunner().invoke(main, ["query", odd, "--results", str(store.root), "--format", form]).stdout
            for form in ("json", "csv")
        }
        read = json.loads(found["json"], parse_constant=pytest.fail)
        assert read == [{"seed": 2**64, "high": None, "list": [None, 1.5], "none": None}]
        assert found["csv"] == f'seed,high,list,none\n{2**64},inf,"[nan, 1.5]",\n'

    def test_where_there_are_no_results_a_query_says_so(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(main, ["query", "select attack from results", "--results", str(tmp_path)])
        assert result.exit_code == 2
        assert f"there are no results in {tmp_path} yet" in result.output

    @pytest.mark.parametrize(
        "sql",
        [
            "selec 1",
            "select nothing from results",
            "create table x (y int)",
            "select cast(attack as int) from results",
            "select key, key from results",
        ],
    )
    def test_a_query_that_is_none_is_refused_in_one_line(self, sql: str, add: Add, store: ResultStore) -> None:
        add("fgsm", first(100))
        result = CliRunner().invoke(main, ["query", sql, "--results", str(store.root)])
        assert result.exit_code == 2
        assert len(result.output.strip().splitlines()) == 1
