"""Training by epoch: the paper's figures 4 and 8 to 10."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from advbench.report.plots.drawing import (
    COLOURS,
    GREY,
    STYLES,
    Drawing,
    figure_of,
    legend,
    looks,
    tidy,
    title_of,
)
from advbench.report.plots.naming import lines, panels_of
from advbench.results import CellRecord, CellSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["convergence", "convergence_by"]

PANELS = (
    ("(A) losses", "loss", (("discriminator_loss", "$L_d$"), ("generator_loss", "$L_g$"), ("loss", "loss"))),
    ("(B) L1 of the perturbation", "mean |M| a pixel", (("l1", "$L_r$"),)),
    (
        "(C) fit images that turned",
        "images",
        (("wrong_to_right", "wrong to right"), ("right_to_wrong", "right to wrong")),
    ),
    (
        "(D) the target's accuracy",
        "%",
        (("validation_accuracy", "validation"), ("fit_accuracy", "fit"), ("fooling_rate", "fit, fooled")),
    ),
)
"""Title, unit, and what each shows: a name in the history, and one for people."""

PERCENT = "%"

PGN = {"gamma", "objective"}
"""Parameters by which its kind is known."""

History = Sequence[Mapping[str, float]]


def convergence(record: CellRecord) -> Drawing:
    """One result's losses, L1, turned images and accuracy by epoch. What there is not is left out."""
    last = record.history[-1]
    words = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in last.items())
    title = f"Convergence of {record.spec.attack}"
    clean = None if record.metrics is None else record.metrics.clean_accuracy
    return Drawing(_drawn({"": record.history}, clean), title, f"{title} by epoch; it ends at {words}.")


def convergence_by(records: Sequence[CellRecord], columns: Mapping[str, str]) -> list[Drawing]:
    """The same for several configurations of a PGN, a colour each; seeds, and nothing else, are averaged.

    Args:
        records: What is compared.
        columns: What tables call them, by their keys.
    """
    fitted = [record for record in records if record.history and record.spec.parameters.keys() >= PGN]
    drawings = []
    for name, group in panels_of(fitted, _setting).items():
        curves = lines(group, columns)
        if len(curves) < 2:
            continue
        histories = {
            _shortened(label, group[0]): _mean([record.history for record in own]) for label, own in curves.items()
        }
        ends = "; ".join(
            f"{label}: validation accuracy {history[-1]['validation_accuracy']:.1%}, L1 {history[-1]['l1']:.3g}"
            for label, history in histories.items()
        )
        title = f"Convergence of {name}"
        drawings.append(Drawing(_drawn(histories, None), title, f"{title}. At the end, {ends}."))
    return drawings


def _setting(spec: CellSpec, target: str, dataset: str) -> str:
    return f"{spec.attack}, {spec.goal}, {target}, {dataset}, {spec.budget}"


def _shortened(label: str, record: CellRecord) -> str:
    """Without the attack, which the title names."""
    start = f"{record.spec.attack} ["
    return label.removeprefix(start).removesuffix("]") if label.startswith(start) else label


def _mean(histories: Sequence[History]) -> History:
    """Over seeds, as far as all of them go."""
    return [
        {name: float(np.mean([epoch[name] for epoch in epochs])) for name in epochs[0]}
        for epochs in zip(*histories, strict=False)
    ]


def _drawn(histories: Mapping[str, History], clean: float | None) -> "Figure":
    """One curve is told by its quantity's colour; of several, each has a colour, and each quantity a line style."""
    figure = figure_of(7.2, 5.0)
    axes = list(figure.subplots(2, 2).flat)
    several = len(histories) > 1
    styles = looks(histories)
    for panel, (title, unit, quantities) in zip(axes, PANELS, strict=True):
        scale = 100 if unit == PERCENT else 1
        for name, history in histories.items():
            for rank, (column, words) in enumerate(quantities):
                points = [
                    (epoch.get("epoch", place), scale * epoch[column])
                    for place, epoch in enumerate(history, start=1)
                    if column in epoch
                ]
                if points:
                    panel.plot(
                        *zip(*points, strict=True),
                        color=styles[name]["color"] if several else COLOURS[rank],
                        linestyle=STYLES[rank],
                        marker=styles[name]["marker"] if several else ".",
                        markersize=4,
                        label=name if several and rank == 0 else "" if several else words,
                    )
        if clean is not None and unit == PERCENT:
            panel.axhline(100 * clean, color=GREY, linestyle=":", label="evaluation, clean")
        panel.set(xlabel="epoch", ylabel=unit)
        title_of(panel, f"{title}{_key(quantities, histories) if several else ''}")
        tidy(panel)
        panel.xaxis.get_major_locator().set_params(integer=True)
        if unit == PERCENT:
            panel.set_ylim(-3, 103)
        elif panel.dataLim.ymin >= 0:
            panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
        panel.set_visible(bool(panel.get_lines()))
        if not several and len(panel.get_lines()) > 1:
            panel.legend(fontsize=7, frameon=False)
    if several:
        legend(figure)
    return figure


def _key(quantities: Sequence[tuple[str, str]], histories: Mapping[str, History]) -> str:
    """Which quantity has which line style."""
    there = [words for column, words in quantities if all(column in history[0] for history in histories.values())]
    kinds = ("solid", "dashed", "dash-dotted")
    return (
        "" if len(there) < 2 else ": " + ", ".join(f"{words} {kind}" for words, kind in zip(there, kinds, strict=False))
    )
