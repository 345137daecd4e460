"""How far methods go: against epsilon, time, gradients and queries, and the size of what they add."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from advbench.report.answers import column_of, version_of
from advbench.report.compare import ComparedCell, ComparedTable
from advbench.report.plots.drawing import GREY, Drawing, legend, looks, panels
from advbench.report.plots.naming import lines, panels_of
from advbench.results import CellRecord, ResultStore
from advbench.types import Goal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["against_epsilon", "against_gradients", "against_queries", "against_time", "norms"]


def against_epsilon(records: Sequence[CellRecord], columns: Mapping[str, str]) -> Drawing | None:
    """Accuracy against epsilon, a panel for each target, dataset, norm and goal that has several budgets.

    Args:
        records: What is compared.
        columns: What tables call them, by their keys.
    """
    bounded = [record for record in records if record.spec.budget.epsilon is not None and record.metrics is not None]
    groups = {
        name: lines(group, columns)
        for name, group in panels_of(
            bounded, lambda spec, target, dataset: f"{target}, {dataset}, {spec.goal}, {spec.budget.norm}"
        ).items()
        if len({record.spec.budget.epsilon for record in group}) > 1
    }
    if not groups:
        return None
    figure, axes, styles = _stage(groups)
    words = []
    for panel, (name, group) in zip(axes, groups.items(), strict=True):
        for method, own in group.items():
            found = defaultdict(list)
            for record in own:
                if record.metrics is not None:
                    found[float(record.spec.budget.epsilon or 0)].append(100 * record.metrics.valid_accuracy)
            epsilons = sorted(found)
            means = [float(np.mean(found[epsilon])) for epsilon in epsilons]
            lows, highs = ([ends(found[epsilon]) for epsilon in epsilons] for ends in (min, max))
            panel.plot(epsilons, means, **styles[method], label=method)
            panel.fill_between(epsilons, lows, highs, color=styles[method]["color"], alpha=0.15, linewidth=0)
            words.append(
                f"{name}, {method}: {means[0]:.1f}% at {epsilons[0]:g} to {means[-1]:.1f}% at {epsilons[-1]:g}"
            )
        metrics = [record.metrics for own in group.values() for record in own if record.metrics]
        clean = float(np.mean([100 * each.clean_accuracy for each in metrics]))
        panel.axhline(clean, color=GREY, linestyle=":", label="clean")
        panel.set(xlabel="epsilon", ylabel="valid accuracy, %", ylim=(-3, 103))
    legend(figure)
    return Drawing(figure, "Accuracy against epsilon", f"A line a method, a band over seeds. {'; '.join(words)}.")


def _stage(groups: Mapping[str, Mapping[str, Any]]) -> "tuple[Figure, list[Axes], dict[str, dict[str, Any]]]":
    """A figure with a panel for each group, and a look for each method in any of them."""
    figure, axes = panels(list(groups), height=3.2)
    return figure, axes, looks(method for group in groups.values() for method in group)


def against_time(tables: Sequence[ComparedTable]) -> Drawing | None:
    """Accuracy against milliseconds an image."""
    return _against(tables, "Accuracy against time", "ms an image", lambda cell: cell.ms_per_image)


def against_gradients(tables: Sequence[ComparedTable]) -> Drawing | None:
    """Accuracy against the target's gradients an image in use; what was fitted beforehand has spent them there."""
    return _against(tables, "Accuracy against gradients", "gradients an image", lambda cell: cell.gradients)


def against_queries(records: Sequence[CellRecord], columns: Mapping[str, str], store: ResultStore) -> Drawing | None:
    """The share of images that were turned, with at most so many queries for each in use.

    A panel for each target, dataset, goal and budget where a method asks about an image more than once.

    Args:
        records: What is compared.
        columns: What tables call them, by their keys.
        store: Where their per-image results lie.
    """
    asking = [record for record in records if record.metrics is not None and record.metrics.perturb.queries]
    groups = {
        name: lines(group, columns)
        for name, group in panels_of(
            asking, lambda spec, target, dataset: f"{target}, {dataset}, {spec.goal}, {spec.budget}"
        ).items()
        if any(record.metrics and record.metrics.perturb.queries_per_image > 1 for record in group)
    }
    counted = {
        name: {method: _queries_where_turned(own, store) for method, own in group.items()}
        for name, group in groups.items()
    }
    # Results that were stored before queries were kept for each image have no line.
    counted = {name: group for name, group in counted.items() if any(len(taken) for _, taken, _ in group.values())}
    if not counted:
        return None
    figure, axes, styles = _stage(counted)
    words = []
    for panel, (name, group) in zip(axes, counted.items(), strict=True):
        for method, (could, taken, most) in group.items():
            if len(taken):
                shares = 100 * np.arange(1, len(taken) + 1) / could
                xs, ys = [*taken[:1], *taken, most], [0, *shares, shares[-1]]
                panel.step(xs, ys, where="post", markevery=[-1], **styles[method], label=method)
                words.append(f"{name}, {method}: {len(taken) / could:.1%} turned, median {np.median(taken):g} queries")
        panel.set(xscale="log", xlabel="queries for an image", ylabel="turned so far, %", ylim=(-3, 103))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend(figure)
    return Drawing(
        figure,
        "Success against queries",
        "The share of the images that could be turned towards the goal and were, with at most so many queries each, "
        f"a line a method to the most that it spent on an image. {'; '.join(words)}.",
    )


def _queries_where_turned(records: Sequence[CellRecord], store: ResultStore) -> tuple[int, np.ndarray, int]:
    """How many images could be turned, the queries, in order, for those that were, and the most for any image."""
    could, found, most = 0, [np.zeros(0, dtype=np.int64)], 0
    for record in records:
        after = f"{version_of(record)}_prediction"
        samples = store.samples(record, ["label", "clean_prediction", after, "queries"])
        if "queries" not in samples.column_names:
            continue
        label, before, now, queries = (column_of(samples, name) for name in samples.column_names)
        turnable = before == label if record.spec.goal is Goal.DEGRADE else before != label
        turned = turnable & (now != label if record.spec.goal is Goal.DEGRADE else now == label)
        could += int(turnable.sum())
        found.append(queries[turned])
        most = max(most, int(queries.max()))
    return could, np.sort(np.concatenate(found)), most


def _against(
    tables: Sequence[ComparedTable], title: str, unit: str, cost: Callable[[ComparedCell], float | None]
) -> Drawing | None:
    """A panel for each target of each table where anything costs something; what nothing cheaper beats is joined."""
    kept = [
        (f"{row.target}: {table.title}", row, table.goal)
        for table in tables
        for row in table.rows
        if len(row.cells) > 1 and any(cost(cell) for cell in row.cells.values())
    ]
    if not kept:
        return None
    figure, axes = panels([name for name, _, _ in kept], height=3.2)
    styles = looks(method for _, row, _ in kept for method in row.cells)
    words = []
    for panel, (name, row, goal) in zip(axes, kept, strict=True):
        points: list[tuple[float, float, str]] = []
        for method, cell in row.cells.items():
            spent = cost(cell)
            if spent is not None and cell.accuracy is not None:
                points.append((spent, 100 * cell.accuracy, method))
                look = {each: styles[method][each] for each in ("color", "marker")}
                panel.scatter(spent, 100 * cell.accuracy, **look, s=24, label=method)
        panel.set_xscale("symlog", linthresh=0.1)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers of ten take long to typeset
        panel.set(xlabel=unit, ylabel="accuracy, %", ylim=(-3, 103))
        panel.set_xlim(-0.02, 1.6 * max([1, *(x for x, _, _ in points)]))
        best = _front(points, goal)
        panel.plot([x for x, _, _ in best], [y for _, y, _ in best], color=GREY, linewidth=1, zorder=0)
        words.append(f"{name}: " + ", ".join(f"{method} {y:.1f}% at {x:.3g} {unit}" for x, y, method in best))
    legend(figure)
    return Drawing(figure, title, f"What nothing cheaper beats is joined. {'; '.join(words)}.")


def _front(points: Sequence[tuple[float, float, str]], goal: Goal) -> list[tuple[float, float, str]]:
    """What nothing cheaper goes beyond, from the cheapest on."""
    sign = 1 if goal is Goal.DEGRADE else -1
    front: list[tuple[float, float, str]] = []
    for cost, accuracy, method in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * accuracy < sign * front[-1][1]:
            front.append((cost, accuracy, method))
    return front


def norms(records: Sequence[CellRecord], columns: Mapping[str, str], store: ResultStore) -> Drawing | None:
    """The share of images whose class changed by a perturbation of at most each size, where there was no bound.

    Args:
        records: What is compared.
        columns: What tables call them, by their keys.
        store: Where their per-image results lie.
    """
    groups = {
        name: curves
        for name, group in panels_of(
            [record for record in records if record.spec.budget.epsilon is None],
            lambda spec, target, dataset: f"{target}, {dataset}, {spec.goal}, unbounded, {spec.budget.norm}",
        ).items()
        if len(curves := lines(group, columns)) > 1
    }
    if not groups:
        return None
    figure, axes, styles = _stage(groups)
    words = []
    for panel, (name, group) in zip(axes, groups.items(), strict=True):
        for method, own in group.items():
            tried, sizes = _sizes_where_changed(own, store)
            if len(sizes):
                look = {each: styles[method][each] for each in ("color", "linestyle")}
                panel.step(sizes, 100 * np.arange(1, len(sizes) + 1) / tried, where="post", **look, label=method)
                words.append(f"{name}, {method}: {len(sizes) / tried:.1%} changed, median size {np.median(sizes):.3g}")
        panel.set(xlabel=f"{own[0].spec.budget.norm} norm", ylabel="class changed so far, %", ylim=(0, 103))
        panel.set_xlim(left=0)
    legend(figure)
    return Drawing(figure, "Norms of what changed the class", f"Cumulative, a line a method. {'; '.join(words)}.")


def _sizes_where_changed(records: Sequence[CellRecord], store: ResultStore) -> tuple[int, np.ndarray]:
    """How many images there were, and the sizes, in order, of what changed the class of some."""
    tried, found = 0, []
    for record in records:
        norm = str(record.spec.budget.norm)
        samples = store.samples(record, ["clean_prediction", "raw_prediction", norm])
        changed = column_of(samples, "clean_prediction") != column_of(samples, "raw_prediction")
        tried += len(changed)
        found.append(column_of(samples, norm)[changed])
    return tried, np.sort(np.concatenate(found))
