"""Images before and after: the paper's triplets (figures 3, 5 and 11 to 14), and by gamma (6 and 7)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from advbench.report.answers import version_of
from advbench.report.classes import in_words
from advbench.report.labels import method_label, target_label, told_apart, use_of
from advbench.report.plots.drawing import BLUE, ORANGE, Drawing, figure_of, grouped
from advbench.report.plots.naming import panels_of
from advbench.results import CellRecord, CellSpec, ResultStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["amplification", "by_gamma", "triplets"]

PREDICTIONS = ["label", "clean_prediction", "valid_prediction"]

MOST_IMAGES = 4
"""Rows of the figure by gamma."""


def triplets(record: CellRecord, store: ResultStore) -> Drawing | None:
    """Image, amplified perturbation and perturbed image by class, with what the target sees; None without images."""
    examples = store.tensors(record, "examples")
    if not examples:
        return None
    samples = store.samples(record, PREDICTIONS)
    order = sorted(range(len(examples["rows"])), key=lambda each: samples["label"][int(examples["rows"][each])].as_py())
    rows = examples["rows"][order].tolist()
    columns = [samples[name] for name in PREDICTIONS]
    classes = in_words(record.classes)
    predictions = [tuple(classes[column[row].as_py()] for column in columns) for row in rows]
    pixels = _pixels(record)
    place = f"{method_label(record)}, {record.spec.goal}, {record.spec.budget}, on {target_label(record)}"
    title = f"{place}: by class{pixels}"
    words = "; ".join(f"a {truth} seen as {before}, then as {after}" for truth, before, after in predictions)
    figure = _triplets(examples["clean"][order], examples["perturbed"][order], predictions)
    if pixels:
        figure.supxlabel("perturbed images as valid pixels, clipped to [0, 1]", fontsize=7)
    return Drawing(figure, title, f"Clean image, amplified perturbation and perturbed image{pixels}: {words}.")


def _pixels(record: CellRecord) -> str:
    """Where tables count raw images, that what is shown was seen as valid ones."""
    return ", valid pixels" if version_of(record) == "raw" else ""


def _triplets(clean: "Tensor", perturbed: "Tensor", predictions: Sequence[tuple[str, ...]]) -> "Figure":
    columns = 2 if len(clean) > 1 else 1
    rows = -(-len(clean) // columns)
    figure = figure_of(3.9 * columns, 1.5 * rows)
    strips = figure.subplots(rows, columns, squeeze=False).T.flat
    delta = perturbed - clean
    factor = amplification(delta)
    for position, (truth, before, after) in enumerate(predictions):
        panels = (
            (clean[position], before, before == truth),
            (0.5 + factor * delta[position], f"perturbation ×{factor:g}", None),
            (perturbed[position], after, after == truth),
        )
        _strip(next(strips), truth, panels)
    for spare in strips:
        spare.remove()
    return figure


def _strip(axes: "Axes", truth: str, panels: Sequence[tuple["Tensor", str, bool | None]]) -> None:
    """Images side by side, each under its words, marked where they are right or wrong. One axes is drawn faster."""
    for position, (image, words, right) in enumerate(panels):
        left = 1.06 * position
        pixels = np.clip(image.permute(1, 2, 0).numpy(), 0, 1)
        axes.imshow(pixels, interpolation="nearest", extent=(left, left + 1, 0, 1))
        mark = "" if right is None else " ✓" if right else " ✗"
        colour = "black" if right is None else BLUE if right else ORANGE
        axes.text(left + 0.5, 1.03, words + mark, fontsize=7, color=colour, ha="center", va="bottom")
    axes.text(-0.04, 0.5, f"true: {truth}", fontsize=7, rotation=90, ha="right", va="center")
    axes.set(xlim=(0, 1.06 * len(panels) - 0.06), ylim=(0, 1))
    axes.set_axis_off()


def amplification(delta: "Tensor") -> float:
    """The largest of 1, 2, 5, 10, ... that leaves nearly all of the perturbation within the grey range."""
    reach = float(delta.abs().flatten().quantile(0.99)) if delta.numel() <= 2**24 else float(delta.abs().max())
    steps = (1, 2, 5, 10, 20, 50, 100)
    return float(max((step for step in steps if step * reach <= 0.5), default=1))


def by_gamma(records: Sequence[CellRecord], store: ResultStore) -> list[Drawing]:
    """The same images perturbed under several gammas, for PGNs that differ in it alone; of several seeds the first."""
    fitted = [record for record in records if {"gamma", "objective"} <= record.spec.parameters.keys()]
    drawings = []
    settings = _settings(fitted)
    for name, group in grouped(fitted, lambda record: settings[record.key]).items():
        by_value = {record.spec.parameters["gamma"]: record for record in sorted(group, key=lambda r: -r.spec.seed)}
        if len(by_value) < 2:
            continue
        examples = {gamma: store.tensors(record, "examples") for gamma, record in sorted(by_value.items())}
        shared = set.intersection(*(set(each["rows"].tolist()) if each else set() for each in examples.values()))
        if not shared:
            continue
        rows = sorted(shared)[:MOST_IMAGES]
        gammas = ", ".join(f"{gamma:g}" for gamma in reversed(examples))
        pixels = _pixels(group[0])
        title = f"Images by gamma: {name}{pixels}"
        figure = figure_of(1.25 * (1 + len(examples)), 1.55 * len(rows))
        for strip, row in zip(figure.subplots(len(rows), squeeze=False).flat, rows, strict=True):
            _strip(strip, *_by_gamma(row, examples, by_value, store))
        words = f"{len(rows)} images, each clean and perturbed under gamma {gammas}{pixels}."
        drawings.append(Drawing(figure, title, words))
    return drawings


def _settings(records: Sequence[CellRecord]) -> dict[str, str]:
    """What each PGN was run on and as, but for its gamma, by the results' keys."""

    def place(spec: CellSpec, target: str, dataset: str) -> str:
        return f"{spec.attack}, {spec.goal}, {target}, {dataset}, {spec.budget}, {spec.parameters['objective']}"

    settings: dict[str, str] = {}
    for name, group in panels_of(records, place).items():
        settings.update(told_apart(name, {record.key: {**use_of(record), "gamma": None} for record in group}))
    return settings


def _by_gamma(
    row: int,
    examples: Mapping[float, Mapping[str, "Tensor"]],
    records: Mapping[float, CellRecord],
    store: ResultStore,
) -> tuple[str, list[tuple["Tensor", str, bool | None]]]:
    """One image's class, and it clean and under each gamma, the largest first."""
    panels: list[tuple[Tensor, str, bool | None]] = []
    for gamma, kept in reversed(list(examples.items())):
        classes = in_words(records[gamma].classes)
        samples = store.samples(records[gamma], PREDICTIONS)
        truth, before, after = (samples[name][row].as_py() for name in PREDICTIONS)
        position = kept["rows"].tolist().index(row)
        if not panels:
            panels.append((kept["clean"][position], f"clean\n{classes[before]}", before == truth))
        panels.append((kept["perturbed"][position], f"γ {gamma:g}\n{classes[after]}", after == truth))
    return classes[truth], panels
