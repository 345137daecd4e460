"""Figures, from a stored result's files alone: the paper's triplets (figures 3 and 5) and convergence (4 and 8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advbench.results import CellRecord, ResultStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["amplification", "convergence", "draw_figures", "figure_of", "triplets"]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Okabe and Ito's palette: told apart by colour-blind readers too, and in grey by their line styles."""

MOST_TRIPLETS = 6


def draw_figures(record: CellRecord, store: ResultStore) -> list[Path]:
    """Draw what a result has, as PNG and PDF, into its ``figures`` folder."""
    folder = store.folder(record.key) / "figures"
    examples = store.tensors(record, "examples")
    figures = {}
    if examples:
        samples = store.samples(record)
        rows = examples["rows"].tolist()
        columns = [samples[name] for name in ("label", "clean_prediction", "valid_prediction")]
        predictions = [tuple(record.classes[column[row].as_py()] for column in columns) for row in rows]
        figures["triplets"] = triplets(examples["clean"], examples["perturbed"], predictions)
    if record.history:
        figures["convergence"] = convergence(record)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        for suffix in (".png", ".pdf"):
            figure.savefig(folder / f"{name}{suffix}", dpi=200)
        written.append(folder / f"{name}.png")
    return written


def figure_of(width: float, height: float) -> "Figure":
    """An empty figure, inches."""
    from matplotlib.figure import Figure  # lazy, and without pyplot's global state: takes most of a second

    return Figure(figsize=(width, height), layout="constrained")


def triplets(clean: "Tensor", perturbed: "Tensor", predictions: Sequence[tuple[str, ...]]) -> "Figure":
    """Image, amplified perturbation and perturbed image, side by side, with the classes that the target sees.

    Args:
        clean: ``(count, 3, height, width)`` in [0, 1].
        perturbed: The same shape, as the method returned them.
        predictions: Of each: the true class, the class predicted before, and after.
    """
    count = min(len(clean), MOST_TRIPLETS)
    columns = 2 if count > 1 else 1
    rows = -(-count // columns)
    figure = figure_of(3.9 * columns, 1.45 * rows)
    grid = figure.add_gridspec(rows, columns * 3)
    delta = (perturbed - clean)[:count]
    factor = amplification(delta)
    for position in range(count):
        truth, before, after = predictions[position]
        row, column = position % rows, 3 * (position // rows)
        panels = (
            (clean[position], f"{before}", before == truth),
            (0.5 + factor * delta[position], f"perturbation ×{factor:g}", None),
            (perturbed[position], f"{after}", after == truth),
        )
        for offset, (image, words, right) in enumerate(panels):
            axes = figure.add_subplot(grid[row, column + offset])
            axes.imshow(np.clip(image.permute(1, 2, 0).numpy(), 0, 1), interpolation="nearest")
            mark = "" if right is None else " ✓" if right else " ✗"
            axes.set_title(words + mark, fontsize=8, pad=3, color=_verdict_colour(right))
            if offset == 0:
                axes.set_ylabel(f"true: {truth}", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    return figure


def amplification(delta: "Tensor") -> float:
    """The largest of 1, 2, 5, 10, ... that leaves nearly all of the perturbation within the grey range."""
    reach = float(delta.abs().flatten().quantile(0.99)) if delta.numel() <= 2**24 else float(delta.abs().max())
    steps = (1, 2, 5, 10, 20, 50, 100)
    return float(max((step for step in steps if step * reach <= 0.5), default=1))


def _verdict_colour(right: bool | None) -> str:
    return "black" if right is None else BLUE if right else ORANGE


def convergence(record: CellRecord) -> "Figure":
    """The paper's four panels by epoch: losses, L1, turned samples, accuracy. What there is not is left out."""
    history = record.history
    epochs = [epoch["epoch"] for epoch in history]
    figure = figure_of(8.4, 5.4)
    panels = figure.subplots(2, 2, sharex=True)

    def line(axes: "Axes", name: str, label: str, colour: str, style: str = "-", scale: float = 1.0) -> None:
        if name in history[0]:
            axes.plot(epochs, [scale * epoch[name] for epoch in history], style, color=colour, label=label, marker=".")

    losses, l1, turned, accuracy = panels.flat
    line(losses, "discriminator_loss", "discriminator, $L_d$", BLUE)
    line(losses, "generator_loss", "generator, $L_g$", ORANGE, "--")
    line(losses, "loss", "loss", ORANGE, "--")
    losses.set(title="(A) losses", ylabel="loss")
    line(l1, "l1", "$L_r$", GREEN)
    l1.set(title="(B) L1 of the perturbation", ylabel="mean |M| a pixel")
    line(turned, "wrong_to_right", "wrong to right", BLUE)
    line(turned, "right_to_wrong", "right to wrong", ORANGE, "--")
    turned.set(title="(C) fit images that turned", ylabel="images", xlabel="epoch")
    line(accuracy, "fit_accuracy", "fit", BLUE, scale=100)
    line(accuracy, "validation_accuracy", "validation", ORANGE, "--", scale=100)
    line(accuracy, "fooling_rate", "fit, fooled", GREEN, "-.", scale=100)
    if record.metrics is not None:
        accuracy.axhline(100 * record.metrics.clean_accuracy, color=GREY, linestyle=":", label="evaluation, clean")
    accuracy.set(title="(D) the target's accuracy", ylabel="%", xlabel="epoch", ylim=(-3, 103))
    for axes in panels.flat:
        axes.set_visible(bool(axes.get_lines()))
        axes.title.set_fontsize(10)
        axes.title.set_fontweight("bold")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(axes.get_lines()) > 1:
            axes.legend(fontsize=8, frameon=False)
        if axes is not accuracy and axes.dataLim.ymin >= 0:
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    return figure
