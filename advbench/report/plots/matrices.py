"""What is a table of shares: transfer from surrogate to target, and which class is taken for which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from advbench.report.answers import column_of, version_of
from advbench.report.classes import in_words
from advbench.report.labels import method_label, target_label, target_labels, told_apart, use_of
from advbench.report.plots.drawing import Drawing, grouped, panels
from advbench.report.plots.naming import panels_of
from advbench.results import CellRecord, CellSpec, ResultStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LEGIBLE", "SHADES", "Confusion", "confusion", "confusion_of", "transfer"]

SHADES = "cividis"
"""Colours of shares, dark to light, which colour-blind readers tell apart."""

CONFUSED = {"clean": "clean_prediction", "perturbed (valid)": "valid_prediction"}
"""Images whose confusion is shown, and where what they were taken for is kept."""

VIA = " via "
"""Between a method and its surrogates in a label."""

LEGIBLE = 12
"""Classes up to which each share is written into its square."""

MOST_NAMES = 40
"""Along an axis: of more classes only every so many are named, so that none covers another."""


def transfer(records: Sequence[CellRecord]) -> Drawing | None:
    """Accuracy of each target under what was made on each surrogate, a panel for each method and budget."""
    carried = [record for record in records if VIA in method_label(record)]
    panel_of = _told_apart(panels_of(carried, _panel), of_surrogates=False)
    surrogate_of = _told_apart(
        grouped(carried, lambda record: method_label(record).partition(VIA)[2]), of_surrogates=True
    )
    target_of = target_labels(carried)
    groups = {
        name: group
        for name, group in grouped(carried, lambda record: panel_of[record.key]).items()
        if all(len({names[record.key] for record in group}) > 1 for names in (surrogate_of, target_of))
    }
    if not groups:
        return None
    figure, axes = panels(list(groups), width=4.4, height=3.6)
    words = []
    for panel, (name, group) in zip(axes, groups.items(), strict=True):
        surrogates = sorted({surrogate_of[record.key] for record in group}, key=lambda each: (each.count("+"), each))
        targets = sorted({target_of[record.key] for record in group})
        values = np.full((len(surrogates), len(targets)), np.nan)
        for row, surrogate in enumerate(surrogates):
            for column, target in enumerate(targets):
                found = [
                    100 * (metrics.raw_accuracy if version_of(record) == "raw" else metrics.valid_accuracy)
                    for record in group
                    if (metrics := record.metrics)
                    and (surrogate_of[record.key], target_of[record.key]) == (surrogate, target)
                ]
                values[row, column] = np.mean(found) if found else np.nan
        _matrix(panel, values, [each.replace("+", "+\n") for each in surrogates], targets, "{:.1f}")
        panel.set(xlabel="target", ylabel="surrogate")
        words.append(f"{name}: accuracies of {np.nanmin(values):.1f} to {np.nanmax(values):.1f}%")
    return Drawing(figure, "Transfer", f"Accuracy of each target under each surrogate's images. {'; '.join(words)}.")


def _panel(spec: CellSpec, _: str, dataset: str) -> str:
    return f"{spec.attack}, {dataset}, {spec.goal}, {spec.budget}"


def _told_apart(groups: Mapping[str, Sequence[CellRecord]], *, of_surrogates: bool) -> dict[str, str]:
    """Each result's label, with all in which those of one label differ: in its surrogates, or in all else."""
    labels: dict[str, str] = {}
    for name, group in groups.items():
        values = {record.key: use_of(record) for record in group}
        own = {
            key: {way: value for way, value in each.items() if way.startswith("surrogate") is of_surrogates}
            for key, each in values.items()
        }
        labels.update(told_apart(name, own))
    return labels


@dataclass(frozen=True)
class Confusion:
    """Which classes are taken for which.

    Args:
        title: What it is of.
        words: How much of it is right.
        classes: Names.
        shares: By which images: of each true class (a row) the percentage that is taken for each class (a column).
    """

    title: str
    words: str
    classes: Sequence[str]
    shares: Mapping[str, NDArray[np.float64]]


def confusion_of(record: CellRecord, store: ResultStore) -> Confusion:
    """One result's, before and after."""
    samples = store.samples(record, ["label", *CONFUSED.values()])
    labels, count = column_of(samples, "label"), len(record.classes)
    shares, right = {}, []
    for name, column in CONFUSED.items():
        matrix = np.zeros((count, count))
        np.add.at(matrix, (labels, column_of(samples, column)), 1)
        right.append(100 * np.trace(matrix) / max(1, len(labels)))
        shares[name] = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    title = f"Confusion by {method_label(record)}, {record.spec.goal}, {record.spec.budget}, on {target_label(record)}"
    words = f"{right[0]:.1f}% lie on the diagonal before, {right[1]:.1f}% after."
    return Confusion(title, words, in_words(record.classes), shares)


def confusion(record: CellRecord, store: ResultStore) -> Drawing:
    """The same, drawn."""
    found = confusion_of(record, store)
    figure, axes = panels(list(found.shares), width=4.2, height=3.9)
    for panel, shares in zip(axes, found.shares.values(), strict=True):
        _matrix(panel, shares, found.classes, found.classes, "{:.0f}", limits=(0, 100))
        panel.set(xlabel="predicted", ylabel="true")
    return Drawing(figure, found.title, f"Share of each true class that is taken for each class; {found.words}")


def _matrix(
    panel: "Axes",
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    form: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """Squares in colours, from the lowest value to the highest unless limits are given."""
    lowest, highest = limits or (np.nanmin(values), np.nanmax(values))
    panel.imshow(values, cmap=SHADES, aspect="auto", vmin=lowest, vmax=highest)
    across, down = (range(0, len(names), -(-len(names) // MOST_NAMES)) for names in (columns, rows))
    panel.set_xticks(across, [columns[each] for each in across], rotation=30, ha="right", fontsize=7)
    panel.set_yticks(down, [rows[each] for each in down], fontsize=7)
    panel.grid(visible=False)
    if len(rows) > LEGIBLE:
        return
    middle = (lowest + highest) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value <= middle else "black"
            panel.text(column, row, form.format(value), ha="center", va="center", fontsize=7, color=colour)
