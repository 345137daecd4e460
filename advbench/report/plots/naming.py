"""Which results are one line of a figure, and what it is called: seeds share a line, and nothing else does."""

from collections.abc import Mapping, Sequence
from typing import Any

from advbench.report.compare import ComparedTable, flat, method_label
from advbench.report.plots.drawing import grouped
from advbench.results import CellRecord

__all__ = ["columns_of", "lines"]

CONFIGURATION: Mapping[str, Any] = {
    "parameters": True,
    "threat": {"name", "max_queries", "max_fit_queries"},
    "dataset": {"digest", "image_size", "fit_images", "evaluation_images"},
    "target": {"made_from"},
    "budget": {"norm"},
    "precision": True,
    "processes": True,
}
"""What two seeds of one line have in common; seeds within it do not count."""

TOLD = " ["
"""Between a method and what tells it apart in a table's column."""


def columns_of(tables: Sequence[ComparedTable]) -> dict[str, str]:
    """The column of each result that tables are of, by its key."""
    return {
        key: method for table in tables for row in table.rows for method, cell in row.cells.items() for key in cell.keys
    }


def lines(records: Sequence[CellRecord], columns: Mapping[str, str]) -> dict[str, list[CellRecord]]:
    """Results by the line they belong to, named as their suite calls them, else by the parameters that differ.

    Args:
        records: Of one target's label, dataset and goal.
        columns: What tables call them, by their keys. Tables of several budgets may call one configuration differently.
    """
    names: dict[str, str] = {}
    for method, group in grouped(records, lambda record: _method(record, columns[record.key])).items():
        configured = {record.key: _configuration(record) for record in group}
        differing = [
            name
            for name in sorted({name for own in configured.values() for name in own})
            if len({repr(own.get(name)) for own in configured.values()}) > 1 and not name.endswith("seed")
        ]
        own_name = method != method_label(group[0])
        if own_name and len({(str(record.spec.budget), record.spec.seed) for record in group}) == len(group):
            differing = []  # what else differs hangs on the budget: the suite calls it one method
        for key, own in configured.items():
            told = ", ".join(f"{name.replace('_', '-')} {own.get(name)}" for name in differing)
            names[key] = f"{method}{TOLD}{told}]" if told else method
    return grouped(records, lambda record: names[record.key])


def _method(record: CellRecord, column: str) -> str:
    """The suite's name for it, else the method's own."""
    label = method_label(record)
    return label if column.partition(TOLD)[0] == label else column


def _configuration(record: CellRecord) -> dict[str, Any]:
    found = record.spec.model_dump(mode="json", include=CONFIGURATION)
    return flat(found.pop("parameters")) | flat(found)
