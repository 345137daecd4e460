"""The pages of the paper's claims, which are written by hand: their tables say what the reports' records say."""

import functools
from pathlib import Path
from textwrap import dedent

import pytest

from advbench.report.answers import answers_of
from advbench.report.archive import Archive
from advbench.report.published import VANILLA, published
from advbench.results import CellRecord
from advbench.types import Goal, Status

FOLDER = Path(__file__).parents[2] / "reports" / "butterfly"
PAGES = ("README.md", "seen.md", "imagenette.md", "game.md")
BOUND = "linf 16/255"
TARGETS = ("DenseNet169", "ResNet50", "ResNet101", "VGG16")

BESIDE = [
    (dataset, scale, target)
    for dataset, scale in (("stl-10", "hours"), ("imagenet-10", "imagenette"))
    for target in ("ResNet50", "ResNet101", "VGG16", "DenseNet169")
]
"""By row of the tables beside the paper's: the dataset, the scale of the suites, and the target."""

OBJECTIVES = ("Proposed-B, least squares", "Proposed-B, logistic")

GAMMAS: tuple[dict[Goal, tuple[str, str]], ...] = (
    {Goal.ENHANCE: ("table1-imagenette", "Proposed-B")},
    {Goal.DEGRADE: ("gamma-imagenette", "gamma 0.1, degrade")},
    {
        Goal.ENHANCE: ("gamma-imagenette", "gamma 1, enhance"),
        Goal.DEGRADE: ("gamma-imagenette", "gamma 1, degrade"),
    },
    {Goal.DEGRADE: ("table2-imagenette", "Proposed-B")},
    {Goal.ENHANCE: ("gamma-imagenette", "gamma 10, enhance")},
)
"""By row: the reports and methods that have this gamma, the usual ones of both goals among them."""

STRENGTH = (
    ("table2-hours", "noise"),
    ("table2-hours", "FGSM, transferred"),
    ("table2-hours", "MI-FGSM, transferred; PGD, transferred"),
    ("table2-hours", "Proposed-B"),
    ("labels-hours", "Proposed-B, all three"),
    ("labels-longer", "FGSM, substitute; PGD, substitute"),
    ("table2-hours", "UAP"),
    ("table2-universal", "gradient UAP"),
    ("table2-hours", "EHA"),
    ("labels-hours", "PGD"),
)
"""By row of both tables of methods: the report's folder, and the methods of its cells."""

ELSEWHERE = {("labels-hours", "Proposed-B, all three", "ResNet101"): ("table2-stronger", "Proposed-B")}
"""The report and the method of a cell that another report has."""

SEEN = (
    ("stl-10", "saw 1,000"),
    ("stl-10", "saw all"),
    ("imagenet-10", "saw all"),
    ("imagenet-10", "saw all, from STL-10"),
)
"""By row: the dataset and the target, as the report of what the target saw names them."""

ABLATED = {
    Goal.DEGRADE: (
        "recipe", "no warm-up, 6 more epochs", "D learns the verdict", "D from ImageNet", "D fixed after the warm-up",
        "G at the image's size", "G at 224 pixels", "least squares", "WGAN-GP",
    ),
    Goal.ENHANCE: ("recipe", "D fixed after the warm-up", "G at the image's size", "G at 224 pixels"),
}  # fmt: skip
"""By row: the ablation's methods."""

CHANGED = (
    "Proposed-B", "D fixed after the warm-up", "no warm-up", "three steps of D", "D learns the verdict",
    "D learns the verdict, blind to the class", "WGAN-GP", "no replay", "first scale 0.1", "rates that stay",
    "no averaging",
)  # fmt: skip
"""By row: the methods of both scales that take the default's game apart."""


@functools.cache
def archive(report: str) -> Archive:
    return Archive(FOLDER / report)


def found(report: str, **names: str | int) -> CellRecord | None:
    """The one result of a report's cells of these names; None where it was not run, or the report lacks the target."""
    every = archive(report).manifest.runs
    if names["target"] not in {run.names["target"] for run in every}:
        return None
    runs = [run for run in every if names.items() <= {**run.names}.items()]
    assert len(runs) == 1, f"{report} has {len(runs)} cells {names}"
    record = runs[0].record
    return record if record is not None and record.status is Status.OK else None


def percent(share: float | None) -> str:
    return "not run" if share is None else f"{100 * share:.1f}"


def interval(record: CellRecord | None, version: str = "valid") -> str:
    if record is None or record.metrics is None:
        return "not run"
    low, high = getattr(record.metrics, f"{version}_accuracy_interval")
    return f"{percent(getattr(record.metrics, f'{version}_accuracy'))} [{percent(low)}, {percent(high)}]"


def theirs(table: str, dataset: str, target: str, attack: str, objective: str = "") -> str:
    """What the paper has of a target: from scratch where it enhances, and from ImageNet weights where it degrades."""
    init = "scratch" if table == "1" else "imagenet"
    rows = [
        row
        for row in published("butterfly")
        if (row.table, row.dataset, row.architecture, row.init) == (table, dataset, target.lower(), init)
        and row.attack == attack
        and objective in row.objective
    ]
    assert len(rows) == 1
    return percent(rows[0].accuracy)


def turned(report: str, **names: str) -> float | None:
    record = found(report, **names)
    return None if record is None else answers_of([record], archive(report))[record.key].turned(record.spec.goal)


def accuracy(report: str, version: str, **names: str) -> float | None:
    record = found(report, **names)
    return None if record is None else getattr(record.metrics, f"{version}_accuracy")


def places(report: str, methods: str, target: str) -> list[tuple[str, str]]:
    """Of the cells in a row for this target, each the report's folder and the method."""
    return [ELSEWHERE.get((report, method, target), (report, method)) for method in methods.split("; ")]


def rows_under(first: str, number: int = 0) -> list[list[str]]:
    """The cells of the rows of one of the pages' tables, without bold: that whose head starts so, of several."""
    text = "\n".join((FOLDER / page).read_text() for page in PAGES)
    parts = [dedent(part).splitlines() for part in text.split("\n\n")]
    table = [lines for lines in parts if lines and lines[0].startswith(f"| {first} |")][number]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in (table[0], *table[2:])]


def test_what_each_method_turns() -> None:
    _, *rows = rows_under("the attacker may", 0)
    assert len(rows) == len(STRENGTH)
    for (label, *cells), (report, methods) in zip(rows, STRENGTH, strict=True):
        for cell, target in zip(cells, TARGETS, strict=True):
            own = {"target": target, "budget": BOUND, "goal": "degrade"}
            expected = [
                percent(turned(place, method=method, **own)) for place, method in places(report, methods, target)
            ]
            assert cell.split("; ") == expected, f"{label}, {target}"


def test_what_accuracy_is_left() -> None:
    head, *rows = rows_under("the attacker may", 1)
    transferred = ("table2-hours", "FGSM, transferred; MI-FGSM, transferred; PGD, transferred")
    bounded = [STRENGTH[0], transferred, *STRENGTH[3:]]
    assert len(rows) == len(bounded) + 2
    for (label, *cells), (report, methods) in zip(rows, bounded, strict=False):
        for cell, target in zip(cells, TARGETS, strict=True):
            own = {"target": target, "budget": BOUND, "goal": "degrade"}
            expected = [
                percent(accuracy(place, "valid", method=method, **own))
                for place, method in places(report, methods, target)
            ]
            assert cell.split(", ") == expected, f"{label}, {target}"
    for (label, *cells), version in zip(rows[-2:], ("raw", "uint8"), strict=True):
        for cell, target in zip(cells, TARGETS, strict=True):
            left = accuracy("table2-hours", version, method="Proposed-B", target=target, budget="unbounded")
            assert cell == percent(left), f"{label}, {target}"
    for cell, target in zip(head[1:], TARGETS, strict=True):
        clean = accuracy("table2-hours", "clean", method="noise", target=target, budget=BOUND)
        assert cell.split(", ")[1].removesuffix(" clean") == percent(clean)


def test_table_1_beside_the_papers() -> None:
    _, *rows = rows_under("to enhance", 0)
    for (label, *cells), (dataset, scale, target) in zip(rows, BESIDE, strict=True):
        report, own = f"table1-{scale}", {"target": target, "method": "Proposed-B"}
        assert cells == [
            ", ".join(theirs("1", dataset, target, attack) for attack in (VANILLA, "pgn-50")),
            percent(accuracy(report, "clean", budget=BOUND, **own)),
            interval(found(report, budget="unbounded", **own), "raw"),
            interval(found(report, budget=BOUND, **own)),
        ], label


def test_table_2_beside_the_papers() -> None:
    _, *rows = rows_under("to degrade", 0)
    for (label, *cells), (dataset, scale, target) in zip(rows, BESIDE, strict=True):
        report, free = f"table2-{scale}", {"target": target, "method": "Proposed-B", "budget": "unbounded"}
        assert cells == [
            ", ".join(theirs("2", dataset, target, attack) for attack in (VANILLA, "pgn-b", "uap", "fgsm")),
            percent(accuracy(report, "clean", **free)),
            interval(found(report, **free), "raw"),
            *(
                interval(found(report, target=target, method=each, budget=BOUND))
                for each in ("Proposed-B", "UAP", "EHA")
            ),
        ], label


def test_table_3_beside_the_papers() -> None:
    _, *rows = rows_under("to degrade, by objective")
    for (label, *cells), (*_, target) in zip(rows, BESIDE[:4], strict=True):
        fits = [
            interval(found("table3-imagenette", target=target, goal="degrade", budget=budget, method=method), version)
            for budget, version in (("unbounded", "raw"), (BOUND, "valid"))
            for method in OBJECTIVES
        ]
        papers = (theirs("3", "imagenet-50", target, "pgn-b", objective) for objective in ("least-squares", "logistic"))
        assert cells == [", ".join(papers), *fits], label


def test_how_far_each_objective_enhances() -> None:
    _, *rows = rows_under("to enhance, 16/255, by objective")
    for (label, *cells), method in zip(rows, OBJECTIVES, strict=True):
        own = {"goal": "enhance", "budget": BOUND, "method": method}
        assert cells == [interval(found("table3-imagenette", target=target, **own)) for target in TARGETS], label


def test_two_seeds() -> None:
    _, *rows = rows_under("Imagenette, 96 px: seed 0; seed 1")
    runs = (
        (Goal.DEGRADE, "clean", "noise", "noise"),
        (Goal.DEGRADE, "valid", "noise", "noise"),
        (Goal.DEGRADE, "valid", "Proposed-B", "Proposed-B, logistic"),
        (Goal.ENHANCE, "valid", "Proposed-B", "Proposed-B, logistic"),
    )
    for (label, *cells), (goal, version, first, second) in zip(rows, runs, strict=True):
        report = "table2-imagenette" if goal is Goal.DEGRADE else "table1-imagenette"
        for cell, target in zip(cells, ("DenseNet169", "ResNet50"), strict=True):
            own = {"target": target, "budget": BOUND, "goal": goal.value}
            both = (
                accuracy(report, version, method=first, **own),
                accuracy("table3-seeds", version, method=second, **own),
            )
            assert cell == "; ".join(map(percent, both)), f"{label}, {target}"


def test_what_gamma_does_at_96_pixels() -> None:
    _, *rows = rows_under("gamma")
    for (gamma, *cells), fits in zip(rows, GAMMAS, strict=True):
        expected = []
        for goal in (Goal.ENHANCE, Goal.DEGRADE):
            report, method = fits.get(goal, ("", ""))
            own = {"target": "DenseNet169", "goal": goal.value, "method": method}
            if not report.startswith("gamma"):
                own["budget"] = "unbounded"
            record = found(report, **own) if report else None
            if record is None or record.metrics is None:
                expected += ["not run", "not run"]
                continue
            assert float(gamma) == record.spec.parameters["gamma"]
            expected += [percent(record.metrics.raw_accuracy), percent(record.metrics.valid_accuracy)]
        assert cells == expected, gamma


def test_what_the_target_saw() -> None:
    _, *rows = rows_under("the target", 0)
    for (label, *cells), (dataset, target) in zip(rows, SEEN, strict=True):
        own = {"dataset": dataset, "target": target}
        bounded, free = {**own, "budget": BOUND}, {**own, "budget": "unbounded"}
        assert cells == [
            percent(accuracy("targets", "clean", method="noise", goal="degrade", **bounded)),
            percent(accuracy("targets", "valid", method="noise", goal="degrade", **bounded)),
            percent(accuracy("targets", "valid", method="Proposed-B", goal="degrade", **bounded)),
            percent(accuracy("targets", "raw", method="Proposed-B", goal="degrade", **free)),
            percent(accuracy("targets", "valid", method="Proposed-B", goal="enhance", **bounded)),
            percent(accuracy("targets", "raw", method="Proposed-B", goal="enhance", **free)),
        ], label


def test_what_the_target_saw_at_96_pixels() -> None:
    _, (_, *first), *rows = rows_under("the target, 96 px")
    own = {"target": "ResNet50", "budget": BOUND}
    assert first == [
        percent(accuracy("labels-hours", "clean", method="noise", goal="degrade", **own)),
        percent(accuracy("labels-hours", "valid", method="noise", goal="degrade", **own)),
        percent(accuracy("labels-hours", "valid", method="Proposed-B, all three", goal="degrade", **own)),
        percent(accuracy("table1-stronger", "valid", method="Proposed-B", goal="enhance", **own)),
    ]
    for (label, *cells), (dataset, target) in zip(rows, SEEN[1:], strict=True):
        own = {"dataset": dataset, "target": target, "budget": BOUND}
        method = "Proposed-B" if dataset == "stl-10" else "Proposed-B, 12 epochs"
        assert cells == [
            percent(accuracy("targets-hours", "clean", method="noise", goal="enhance", **own)),
            percent(accuracy("targets-hours", "valid", method="noise", goal="enhance", **own)),
            percent(accuracy("targets-hours", "valid", method=method, goal="degrade", **own)),
            percent(accuracy("targets-hours", "valid", method=method, goal="enhance", **own)),
        ], label


def test_what_accuracy_is_left_on_imagenette() -> None:
    report, (head, *rows) = "table2-imagenette", rows_under("Imagenette, 96 px, to degrade")
    bounded = ("noise", "FGSM, transferred; MI-FGSM, transferred; PGD, transferred", "Proposed-B", "UAP", "EHA")
    assert len(rows) == len(bounded) + 2
    for cell, target in zip(head[1:], TARGETS, strict=True):
        clean = accuracy(report, "clean", method="noise", target=target, budget=BOUND)
        assert cell.split(", ")[1].removesuffix(" clean") == percent(clean)
    for (label, *cells), methods in zip(rows, bounded, strict=False):
        for cell, target in zip(cells, TARGETS, strict=True):
            own = {"target": target, "budget": BOUND}
            expected = [percent(accuracy(report, "valid", method=method, **own)) for method in methods.split("; ")]
            assert cell.split(", ") == expected, f"{label}, {target}"
    for (label, *cells), version in zip(rows[-2:], ("raw", "uint8"), strict=True):
        for cell, target in zip(cells, TARGETS, strict=True):
            left = accuracy(report, version, method="Proposed-B", target=target, budget="unbounded")
            assert cell == percent(left), f"{label}, {target}"


def test_what_accuracy_is_left_in_l2() -> None:
    _, *rows = rows_under("Imagenette, 96 px, l2 10, to degrade")
    transferred = "FGSM, transferred; MI-FGSM, transferred; PGD, transferred"
    for (label, *cells), methods in zip(rows, ("noise", transferred, "Proposed-B", "UAP", "EHA"), strict=True):
        for cell, target in zip(cells, TARGETS, strict=True):
            left = (accuracy("table2-l2", "valid", method=method, target=target) for method in methods.split("; "))
            assert cell == ", ".join(map(percent, left)), f"{label}, {target}"


def test_how_far_imagenettes_targets_are_enhanced_in_l2() -> None:
    _, *rows = rows_under("Imagenette, 96 px, l2 10, to enhance")
    for position, target in enumerate(TARGETS, start=1):
        noise = percent(accuracy("table1-l2", "valid", target=target, method="noise"))
        moved = interval(found("table1-l2", target=target, method="Proposed-B"))
        assert [row[position] for row in rows] == [noise, moved], target


def test_how_far_imagenettes_targets_are_enhanced() -> None:
    _, *rows = rows_under("Imagenette, 96 px, to enhance")
    for position, target in enumerate(TARGETS, start=1):
        bounded, free = {"target": target, "budget": BOUND}, {"target": target, "budget": "unbounded"}
        report, column = "table1-imagenette", [row[position] for row in rows]
        assert column == [
            percent(accuracy(report, "clean", method="noise", **bounded)),
            percent(accuracy(report, "valid", method="noise", **bounded)),
            interval(found(report, method="Proposed-B", **bounded)),
            percent(accuracy(report, "raw", method="Proposed-B", **free)),
            percent(accuracy(report, "valid", method="Proposed-B", **free)),
        ], target


def test_how_far_targets_are_enhanced() -> None:
    _, clean, *rows = rows_under("to enhance, 16/255")
    for cell, target in zip(clean[1:], TARGETS, strict=True):
        assert cell == percent(accuracy("table1-hours", "clean", target=target, method="Proposed-B", budget=BOUND))
    reports = (
        ("table1-hours", "Proposed-B"),
        ("table1-stronger", "Proposed-B"),
        ("table1-stronger", "direct training"),
    )
    for (label, *cells), (report, method) in zip(rows, reports, strict=True):
        for cell, target in zip(cells, TARGETS, strict=True):
            assert cell == interval(found(report, target=target, method=method, budget=BOUND)), f"{label}, {target}"


def test_what_the_encoder_brings_along() -> None:
    report, own = "table1-unaided", {"target": "ResNet50", "budget": BOUND}
    _, *rows = rows_under("the encoder")
    assert [enhanced for *_, enhanced in rows] == [
        percent(accuracy(report, "clean", method="noise", **own)),
        *(
            interval(found(report, method=f"Proposed-B, encoder from {origin}", **own))
            for origin in ("ImageNet", "the same images", "scratch")
        ),
    ]


@pytest.mark.parametrize("goal", Goal)
def test_what_each_part_of_the_recipe_is_worth(goal: Goal) -> None:
    _, *rows = rows_under(f"to {goal.value}", 1)
    best = min if goal is Goal.DEGRADE else max
    for (label, *cells), method in zip(rows, ABLATED[goal], strict=False):
        record = found("ablation", target="DenseNet169", method=method, goal=goal.value)
        assert record is not None
        assert record.metrics is not None
        validation = best(epoch["validation_accuracy"] for epoch in record.history)
        assert cells == [percent(validation), percent(record.metrics.valid_accuracy)], label
    left = rows[len(ABLATED[goal]) :]
    assert [label for label, *_ in left] == (["nothing; random signs"] if goal is Goal.DEGRADE else [])


@pytest.mark.parametrize(
    ("first", "report", "methods"),
    [
        ("added to the basic recipe", "labels", ("", ", skips", ", batches of 16", ", three steps", ", all three")),
        (
            "what learns, and Adam's rate",
            "labels-freezing",
            (", frozen encoder", ", frozen, lower rate", ", encoder too", ", encoder too, lower rate"),
        ),
    ],
)
def test_what_each_change_is_worth_alone(first: str, report: str, methods: tuple[str, ...]) -> None:
    _, *rows = rows_under(first)
    for (label, *cells), name in zip(rows, methods, strict=True):
        record = found(report, target="DenseNet169", goal="degrade", method=f"Proposed-B{name}")
        assert record is not None
        assert record.metrics is not None
        validation = min(epoch["validation_accuracy"] for epoch in record.history)
        assert cells == [percent(validation), percent(record.metrics.valid_accuracy)], label


def test_what_each_part_of_the_game_is_worth() -> None:
    _, _, *rows, unmoved = rows_under("the game, one thing changed")
    columns = (("labels-game", "DenseNet169", "degrade", min), ("labels-enhancing", "ResNet50", "enhance", max))
    for (label, *cells), method in zip(rows, CHANGED, strict=True):
        expected = []
        for report, target, goal, best in columns:
            record = found(report, target=target, goal=goal, method=method)
            if record is None or record.metrics is None:
                expected += ["not run", "not run"]
                continue
            validation = best(epoch["validation_accuracy"] for epoch in record.history)
            expected += [percent(validation), percent(record.metrics.valid_accuracy)]
        assert cells == expected, label
    expected = []
    for report, target, goal, _ in columns:
        left = (accuracy(report, version, target=target, goal=goal, method="noise") for version in ("clean", "valid"))
        expected += ["", "; ".join(map(percent, left))]
    assert unmoved[1:] == expected


def test_what_the_choice_of_the_epoch_is_worth() -> None:
    """Over all fits of pgn-b in these reports, each once."""
    records = {
        run.record.key: run.record
        for folder in sorted(FOLDER.iterdir())
        if folder.is_dir()
        for run in archive(folder.name).manifest.runs
        if run.record is not None and run.record.metrics is not None and run.record.spec.attack == "pgn-b"
    }
    _, *rows = rows_under("all fits of `pgn-b` in these reports")
    groups = ((Goal.DEGRADE, True), (Goal.DEGRADE, False), (Goal.ENHANCE, True), (Goal.ENHANCE, False))
    for (label, *cells), (goal, is_bounded) in zip(rows, groups, strict=True):
        gains = [
            (accuracies[-1] - min(accuracies)) if goal is Goal.DEGRADE else (max(accuracies) - accuracies[-1])
            for record in records.values()
            if record.spec.goal is goal and (record.spec.budget.epsilon is not None) is is_bounded
            for accuracies in [[epoch["validation_accuracy"] for epoch in record.history]]
        ]
        last = sum(gain == 0 for gain in gains)
        assert cells == [f"{last} of {len(gains)}", percent(sum(gains) / len(gains)), percent(max(gains))], label


def test_fits_of_the_same_target() -> None:
    _, *rows = rows_under("test accuracy, and validation accuracy of the epoch that was chosen")
    fits = (
        ("labels-hours", "Proposed-B, all three", 0),
        ("labels-longer", "Proposed-B, faster discriminator", 0),
        ("labels-longer", "Proposed-B, and eight epochs", 0),
        ("labels-further", "Proposed-B, augmented", 0),
        ("labels-further", "Proposed-B, augmented", 1),
        ("labels-further", "Proposed-B, longer warm-up", 0),
    )
    for (label, *cells), (report, method, seed) in zip(rows, fits, strict=True):
        for cell, target in zip(cells, ("ResNet50", "VGG16"), strict=True):
            record = found(report, target=target, goal="degrade", method=method, seed=seed)
            if record is None or record.metrics is None:
                assert cell == "not run"
                continue
            validation = min(epoch["validation_accuracy"] for epoch in record.history)
            assert cell == f"{percent(record.metrics.valid_accuracy)}; {percent(validation)}", f"{label}, {target}"
