"""Which results are one panel of a figure, and which one line: seeds share a line, and nothing else does."""

from collections.abc import Callable, Mapping, Sequence

from advbench.report.compare import ComparedTable
from advbench.report.labels import method_label, target_labels, told_apart, told_by_images, use_of
from advbench.report.plots.drawing import grouped
from advbench.results import CellRecord, CellSpec

__all__ = ["columns_of", "lines", "panels_of"]

TOLD = " ["
"""Between a method and what tells it apart in a table's column."""


def columns_of(tables: Sequence[ComparedTable]) -> dict[str, str]:
    """The column of each result that tables are of, by its key."""
    return {
        key: method for table in tables for row in table.rows for method, cell in row.cells.items() for key in cell.keys
    }


def panels_of(records: Sequence[CellRecord], words: Callable[[CellSpec, str, str], str]) -> dict[str, list[CellRecord]]:
    """Results by the panel that shows them, which is of one set of images.

    Args:
        records: What is drawn.
        words: A panel's title, of one of its results, what its target is called, and what its dataset.
    """
    targets, datasets = target_labels(records), told_by_images(records, lambda record: record.spec.dataset.name)
    return grouped(records, lambda record: words(record.spec, targets[record.key], datasets[record.key]))


def lines(records: Sequence[CellRecord], columns: Mapping[str, str]) -> dict[str, list[CellRecord]]:
    """Results by the line they belong to, named as their suite calls them, else by the parameters that differ.

    Args:
        records: Of one panel, with one target and goal.
        columns: What tables call them, by their keys. Tables of several budgets may call one configuration differently.
    """
    names: dict[str, str] = {}
    for method, group in grouped(records, lambda record: _method(record, columns[record.key])).items():
        own_name = method != method_label(group[0])
        if own_name and len({(str(record.spec.budget), record.spec.seed) for record in group}) == len(group):
            names.update({record.key: method for record in group})  # what differs hangs on the budget
        else:
            names.update(told_apart(method, {record.key: use_of(record) for record in group}))
    return grouped(records, lambda record: names[record.key])


def _method(record: CellRecord, column: str) -> str:
    """The suite's name for it, else the method's own."""
    label = method_label(record)
    return label if column.partition(TOLD)[0] == label else column
