"""Figures over many results: strength against budget, queries and cost; norms; transfer; confusion; convergence."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advbench.report.compare import ComparedTable, method_label, target_label
from advbench.report.figures import BLUE, GREEN, GREY, ORANGE, figure_of
from advbench.results import CellRecord, ResultStore
from advbench.types import Goal, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison_figures", "confusion", "save"]

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"
"""Lines and points are told apart by shape as well as by Okabe and Ito's colours."""

SUFFIXES = (".png", ".pdf", ".svg")


def comparison_figures(
    records: Sequence[CellRecord], tables: Sequence[ComparedTable], store: ResultStore
) -> "dict[str, tuple[Figure, str]]":
    """Every figure that these results have something for, by name, with what it shows in words.

    Args:
        records: What is compared.
        tables: The same, compared.
        store: Where their per-image results lie.
    """
    done = [record for record in records if record.status is Status.OK]
    drawn = {
        "epsilon": (against_epsilon(done), "Accuracy against epsilon, each method a line; bands span the seeds"),
        "queries": (queries_against_success(tables), "Share of images whose class changed against queries an image"),
        "cost": (cost_against_strength(tables), "Accuracy against milliseconds an image; the line joins what is best"),
        "transfer": (transfer(done), "Accuracy of each target under what was made on each surrogate"),
        "norms": (norms(done, store), "Share of images whose class changed by a perturbation of at most each norm"),
        "convergence-gamma": (convergence_by(done, "gamma"), "Validation accuracy and L1 by epoch, by gamma"),
        "convergence-objective": (convergence_by(done, "objective"), "The same by the GAN's objective"),
    }
    return {name: (figure, words) for name, (figure, words) in drawn.items() if figure is not None}


def save(figures: "Mapping[str, tuple[Figure, str]]", folder: Path) -> list[Path]:
    """Write figures in every form, and return the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (figure, _) in figures.items():
        for suffix in SUFFIXES:
            figure.savefig(folder / f"{name}{suffix}", dpi=200)
    return [folder / f"{name}.png" for name in figures]


def _tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        wrapped = [textwrap.fill(label, 52) for label in labels]
        columns = 1 if max(map(len, labels)) > 26 else 2
        axes.legend(
            handles, wrapped, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns
        )


def _panels(names: Sequence[str], width: float = 3.9, height: float = 3.7) -> "tuple[Figure, list[Axes]]":
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = figure_of(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[len(names) :]:
        spare.set_visible(False)
    for panel, name in zip(axes, names, strict=False):
        panel.set_title(textwrap.fill(name, 44), fontsize=8, fontweight="bold")
        panel.tick_params(labelsize=7)
        panel.xaxis.label.set_fontsize(8)
        panel.yaxis.label.set_fontsize(8)
        _tidy(panel)
    return figure, axes


def _grouped(records: Iterable[CellRecord], key: Callable[[CellRecord], str]) -> dict[str, list[CellRecord]]:
    groups: dict[str, list[CellRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return dict(sorted(groups.items()))


def _strength(record: CellRecord) -> float:
    """The accuracy that counts, in percent: raw without a bound, valid under a budget."""
    assert record.metrics is not None
    unbounded = record.spec.budget.epsilon is None
    return 100 * (record.metrics.raw_accuracy if unbounded else record.metrics.valid_accuracy)


def against_epsilon(records: Sequence[CellRecord]) -> "Figure | None":
    """Accuracy against epsilon, a panel for each target, dataset, norm and goal that has several budgets."""
    bounded = [record for record in records if record.spec.budget.epsilon is not None]
    panels = {
        name: group
        for name, group in _grouped(
            bounded, lambda r: f"{target_label(r)}, {r.spec.dataset.name}, {r.spec.goal}, {r.spec.budget.norm}"
        ).items()
        if len({record.spec.budget.epsilon for record in group}) > 1
    }
    if not panels:
        return None
    figure, axes = _panels(list(panels))
    for panel, group in zip(axes, panels.values(), strict=False):
        for position, (method, own) in enumerate(_grouped(group, method_label).items()):
            by_epsilon = defaultdict(list)
            for record in own:
                by_epsilon[float(record.spec.budget.epsilon or 0)].append(_strength(record))
            epsilons = sorted(by_epsilon)
            means = [float(np.mean(by_epsilon[epsilon])) for epsilon in epsilons]
            panel.plot(epsilons, means, **_look(position), label=method)
            panel.fill_between(
                epsilons,
                [min(by_epsilon[epsilon]) for epsilon in epsilons],
                [max(by_epsilon[epsilon]) for epsilon in epsilons],
                color=COLOURS[position % len(COLOURS)],
                alpha=0.15,
                linewidth=0,
            )
        clean = float(np.mean([100 * record.metrics.clean_accuracy for record in group if record.metrics]))
        panel.axhline(clean, color=GREY, linestyle=":", label="clean")
        panel.set(xlabel="epsilon", ylabel="accuracy, %", ylim=(-3, 103))
        _legend(panel)
    return figure


def _look(position: int) -> dict[str, Any]:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": STYLES[position // len(COLOURS) % len(STYLES)],
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 4,
    }


def queries_against_success(tables: Sequence[ComparedTable]) -> "Figure | None":
    """The share of images whose class changed against the queries an image that it took, a panel a table."""
    return _scatter(
        tables, lambda cell: (cell.queries, cell.fooling_rate), "queries an image", "class changed, % of all", log=True
    )


def cost_against_strength(tables: Sequence[ComparedTable]) -> "Figure | None":
    """Accuracy against milliseconds an image, with what no other method beats in both joined up (Pareto)."""
    return _scatter(
        tables, lambda cell: (cell.ms_per_image, cell.accuracy), "ms an image", "accuracy, %", log=True, front=True
    )


def _scatter(
    tables: Sequence[ComparedTable],
    place: Callable[..., tuple[float | None, float | None]],
    horizontal: str,
    vertical: str,
    *,
    log: bool,
    front: bool = False,
) -> "Figure | None":
    kept = [table for table in tables if len(table.methods) > 1]
    if not kept:
        return None
    figure, axes = _panels([table.title for table in kept], width=4.0, height=3.9)
    for panel, table in zip(axes, kept, strict=False):
        points = []
        for position, method in enumerate(table.methods):
            places = [place(row.cells[method]) for row in table.rows if method in row.cells]
            known = [(x, 100 * y) for x, y in places if x is not None and y is not None]
            if known:
                look = _look(position)
                panel.scatter(*zip(*known, strict=True), color=look["color"], marker=look["marker"], label=method)
                points += known
        if log:
            panel.set_xscale("symlog", linthresh=0.1 if front else 1)
        if front and points:
            panel.plot(*zip(*_front(points, table.goal), strict=True), color=GREY, linewidth=1, zorder=0)
        panel.set(xlabel=horizontal, ylabel=vertical, ylim=(-3, 103))
        panel.set_xlim(0, 1.4 * max([1, *(x for x, _ in points)]))
        _legend(panel)
    return figure


def _front(points: Sequence[tuple[float, float]], goal: Goal) -> list[tuple[float, float]]:
    """What nothing cheaper goes beyond, from the cheapest on."""
    sign = 1 if goal is Goal.DEGRADE else -1
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points):
        if not front or sign * accuracy < sign * front[-1][1]:
            front.append((cost, accuracy))
    return front


def transfer(records: Sequence[CellRecord]) -> "Figure | None":
    """Accuracy of each target under what was made on each surrogate, a panel for each method and budget."""
    carried = [record for record in records if " via " in method_label(record)]
    panels = {
        name: group
        for name, group in _grouped(
            carried, lambda r: f"{r.spec.attack}, {r.spec.dataset.name}, {r.spec.budget}"
        ).items()
        if len({method_label(record) for record in group}) > 1 and len({target_label(record) for record in group}) > 1
    }
    if not panels:
        return None
    figure, axes = _panels(list(panels), width=4.4, height=3.8)
    for panel, group in zip(axes, panels.values(), strict=False):
        surrogates = sorted({method_label(record).partition(" via ")[2] for record in group})
        targets = sorted({target_label(record) for record in group})
        values = np.full((len(surrogates), len(targets)), np.nan)
        for row, surrogate in enumerate(surrogates):
            for column, target in enumerate(targets):
                found = [
                    _strength(record)
                    for record in group
                    if target_label(record) == target and method_label(record).partition(" via ")[2] == surrogate
                ]
                values[row, column] = np.mean(found) if found else np.nan
        _matrix(panel, values, surrogates, targets, "{:.1f}")
        panel.set(xlabel="target", ylabel="surrogate")
    return figure


def _place(record: CellRecord) -> tuple[str, str]:
    return record.spec.dataset.name, str(record.spec.budget)


def _matrix(panel: "Axes", values: np.ndarray, rows: Sequence[str], columns: Sequence[str], form: str) -> None:
    panel.imshow(values, cmap="cividis", aspect="auto")
    panel.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=7)
    panel.set_yticks(range(len(rows)), rows, fontsize=7)
    panel.grid(visible=False)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value <= middle else "black"
            panel.text(column, row, form.format(value), ha="center", va="center", fontsize=7, color=colour)


def norms(records: Sequence[CellRecord], store: ResultStore) -> "Figure | None":
    """The share of images whose class changed by a perturbation of at most each size, where there was no bound."""
    panels = {
        name: group
        for name, group in _grouped(
            [record for record in records if record.spec.budget.epsilon is None],
            lambda r: f"{target_label(r)}, {r.spec.dataset.name}, {r.spec.goal}, unbounded, {r.spec.budget.norm}",
        ).items()
        if len({method_label(record) for record in group}) > 1
    }
    if not panels:
        return None
    figure, axes = _panels(list(panels))
    for panel, group in zip(axes, panels.values(), strict=False):
        for position, (method, own) in enumerate(_grouped(group, method_label).items()):
            sizes = np.concatenate([_sizes_where_changed(record, store) for record in own])
            if len(sizes):
                share = 100 * np.arange(1, len(sizes) + 1) / sum(len(store.samples(record)) for record in own)
                look = _look(position)
                panel.step(np.sort(sizes), share, color=look["color"], linestyle=look["linestyle"], label=method)
        panel.set(xlabel=f"{group[0].spec.budget.norm} norm", ylabel="class changed at most so far, %", ylim=(0, 103))
        _legend(panel)
    return figure


def _sizes_where_changed(record: CellRecord, store: ResultStore) -> np.ndarray:
    samples = store.samples(record)
    changed = samples["clean_prediction"].to_numpy() != samples["valid_prediction"].to_numpy()
    sizes: np.ndarray = samples[str(record.spec.budget.norm)].to_numpy()[changed]
    return sizes


def convergence_by(records: Sequence[CellRecord], parameter: str) -> "Figure | None":
    """Validation accuracy and L1 by epoch for several values of one parameter, as the paper's figures 4 and 8."""
    fitted = [record for record in records if record.history and parameter in record.spec.parameters]
    panels = {
        name: group
        for name, group in _grouped(
            fitted, lambda r: f"{r.spec.attack}, {r.spec.goal}, {target_label(r)}, {r.spec.dataset.name}"
        ).items()
        if len({record.spec.parameters[parameter] for record in group}) > 1
    }
    if not panels:
        return None
    titles = [f"{name}: {what}" for name in panels for what in ("accuracy", "L1 a pixel")]
    figure, axes = _panels(titles, width=4.0)
    for index, group in enumerate(panels.values()):
        ordered = sorted(group, key=lambda record: str(record.spec.parameters[parameter]))
        for position, record in enumerate(ordered):
            look = _look(position)
            epochs = [epoch["epoch"] for epoch in record.history]
            label = f"{parameter} {record.spec.parameters[parameter]}"
            for offset, (column, scale) in enumerate((("validation_accuracy", 100.0), ("l1", 1.0))):
                values = [scale * epoch[column] for epoch in record.history]
                axes[2 * index + offset].plot(epochs, values, **look, label=label)
        axes[2 * index].set(xlabel="epoch", ylabel="validation accuracy, %", ylim=(-3, 103))
        axes[2 * index + 1].set(xlabel="epoch", ylabel="mean |M| a pixel")
        _legend(axes[2 * index])
    return figure


def confusion(record: CellRecord, store: ResultStore) -> "Figure":
    """Which classes are taken for which, before and after."""
    samples = store.samples(record)
    labels, count = samples["label"].to_numpy(), len(record.classes)
    figure, axes = _panels(["clean", "perturbed (valid)"], width=4.2, height=3.9)
    for panel, column in zip(axes, ("clean_prediction", "valid_prediction"), strict=False):
        matrix = np.zeros((count, count))
        np.add.at(matrix, (labels, samples[column].to_numpy()), 1)
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        _matrix(panel, shares, record.classes, record.classes, "{:.0f}")
        panel.set(xlabel="predicted", ylabel="true")
    return figure
