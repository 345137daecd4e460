"""What is a table of shares: transfer from surrogate to target, and which class is taken for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advbench.report.compare import method_label, target_label
from advbench.report.plots.drawing import Drawing, grouped, panels
from advbench.results import CellRecord, ResultStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion", "transfer"]

VIA = " via "
"""Between a method and its surrogates in a label."""

LEGIBLE = 12
"""Classes up to which each share is written into its square."""


def transfer(records: Sequence[CellRecord]) -> Drawing | None:
    """Accuracy of each target under what was made on each surrogate, a panel for each method and budget."""
    carried = [record for record in records if VIA in method_label(record)]
    groups = {
        name: group
        for name, group in grouped(
            carried, lambda r: f"{r.spec.attack}, {r.spec.dataset.name}, {r.spec.goal}, {r.spec.budget}"
        ).items()
        if len({method_label(record) for record in group}) > 1 and len({target_label(record) for record in group}) > 1
    }
    if not groups:
        return None
    figure, axes = panels(list(groups), width=4.4, height=3.6)
    words = []
    for panel, (name, group) in zip(axes, groups.items(), strict=True):
        surrogates = sorted({_surrogate(record) for record in group}, key=lambda each: (each.count("+"), each))
        targets = sorted({target_label(record) for record in group})
        values = np.full((len(surrogates), len(targets)), np.nan)
        for row, surrogate in enumerate(surrogates):
            for column, target in enumerate(targets):
                found = [
                    100 * record.metrics.valid_accuracy
                    for record in group
                    if record.metrics and (_surrogate(record), target_label(record)) == (surrogate, target)
                ]
                values[row, column] = np.mean(found) if found else np.nan
        _matrix(panel, values, surrogates, targets, "{:.1f}")
        panel.set(xlabel="target", ylabel="surrogate")
        words.append(f"{name}: accuracies of {np.nanmin(values):.1f} to {np.nanmax(values):.1f}%")
    return Drawing(figure, "Transfer", f"Accuracy of each target under each surrogate's images. {'; '.join(words)}.")


def _surrogate(record: CellRecord) -> str:
    return method_label(record).partition(VIA)[2].replace("+", "+\n")


def confusion(record: CellRecord, store: ResultStore) -> Drawing:
    """Which classes are taken for which, before and after."""
    samples = store.samples(record, ["label", "clean_prediction", "valid_prediction"])
    labels, count = samples["label"].to_numpy(), len(record.classes)
    figure, axes = panels(["clean", "perturbed (valid)"], width=4.2, height=3.9)
    right = []
    for panel, column in zip(axes, ("clean_prediction", "valid_prediction"), strict=True):
        matrix = np.zeros((count, count))
        np.add.at(matrix, (labels, samples[column].to_numpy()), 1)
        right.append(100 * np.trace(matrix) / max(1, len(labels)))
        shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        _matrix(panel, shares, record.classes, record.classes, "{:.0f}")
        panel.set(xlabel="predicted", ylabel="true")
    title = f"Confusion by {method_label(record)}, {record.spec.goal}, {record.spec.budget}, on {target_label(record)}"
    words = f"{right[0]:.1f}% lie on the diagonal before, {right[1]:.1f}% after."
    return Drawing(figure, title, f"Share of each true class that is taken for each class; {words}")


def _matrix(panel: "Axes", values: np.ndarray, rows: Sequence[str], columns: Sequence[str], form: str) -> None:
    panel.imshow(values, cmap="cividis", aspect="auto")
    panel.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=7)
    panel.set_yticks(range(len(rows)), rows, fontsize=7)
    panel.grid(visible=False)
    if len(rows) > LEGIBLE:
        return
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value <= middle else "black"
            panel.text(column, row, form.format(value), ha="center", va="center", fontsize=7, color=colour)
