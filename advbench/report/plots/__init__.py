"""Figures, from stored results alone."""

from collections.abc import Sequence
from pathlib import Path

from advbench.report.compare import ComparedTable
from advbench.report.plots.curves import convergence, convergence_by
from advbench.report.plots.drawing import Drawing, save
from advbench.report.plots.images import amplification, by_gamma, triplets
from advbench.report.plots.matrices import LEGIBLE, SHADES, Confusion, confusion, confusion_of, transfer
from advbench.report.plots.naming import columns_of
from advbench.report.plots.regions import regions
from advbench.report.plots.strength import against_epsilon, against_gradients, against_queries, against_time, norms
from advbench.results import CellRecord, ResultStore
from advbench.types import Goal, Status

__all__ = [
    "LEGIBLE",
    "SHADES",
    "Confusion",
    "Drawing",
    "amplification",
    "comparison_figures",
    "confusion_of",
    "draw_figures",
    "exemplary",
    "regions",
    "save",
]


MOST_SHOWN = 4
"""Results whose images and confusion are shown; each has its own under its result anyway."""


def draw_figures(record: CellRecord, store: ResultStore) -> list[Path]:
    """Draw what one result has into its ``figures`` folder, as PNG and PDF, and return the PNG files.

    Raises:
        StorageError: The folder cannot be written to, or the result's files cannot be read.
    """
    drawn = {
        "triplets": triplets(record, store),
        "convergence": convergence(record) if record.history else None,
        "confusion": confusion(record, store) if record.metrics is not None else None,
    }
    return save(_there(drawn), store.folder(record.key) / "figures", suffixes=(".png", ".pdf"))


def comparison_figures(
    records: Sequence[CellRecord], tables: Sequence[ComparedTable], store: ResultStore, *, for_page: bool = False
) -> dict[str, Drawing]:
    """Every figure that these results have something for, by name.

    Args:
        records: What is compared.
        tables: The same, compared.
        store: Where their per-image results lie.
        for_page: Leave out what takes longest and what a page shows better by itself: triplets of images and confusion.
    """
    columns = columns_of(tables)  # of equal runs under different code, tables have the newest alone
    done = [record for record in records if record.status is Status.OK and record.key in columns]
    shown = [] if for_page else exemplary(done, tables)
    several: dict[str, Sequence[Drawing | None]] = {
        "convergence": convergence_by(done, columns),
        "gamma": by_gamma(done, store),
        "triplets": [triplets(record, store) for record in shown],
        "confusion": [confusion(record, store) for record in shown],
    }
    return _there(
        {
            "epsilon": against_epsilon(done, columns),
            "time": against_time(tables),
            "gradients": against_gradients(tables),
            "queries": against_queries(done, columns, store),
            "norms": norms(done, columns, store),
            "transfer": transfer(done),
            **{f"{name}-{number}": each for name, own in several.items() for number, each in enumerate(own, start=1)},
        }
    )


def _there(drawn: dict[str, Drawing | None]) -> dict[str, Drawing]:
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def exemplary(records: Sequence[CellRecord], tables: Sequence[ComparedTable]) -> list[CellRecord]:
    """Of some tables, the result whose images are shown: of PGN where it is there, that which goes furthest."""
    by_key = {record.key: record for record in records}
    shown: list[tuple[bool, CellRecord]] = []
    for table in tables:
        cells = [
            (
                table.attacks[method].startswith("pgn"),
                cell.accuracy if table.goal is Goal.ENHANCE else -cell.accuracy,
                cell.keys[0],
            )
            for row in table.rows
            for method, cell in row.cells.items()
            if cell.accuracy is not None
        ]
        if cells:
            is_pgn, _, key = max(cells)
            shown.append((is_pgn, by_key[key]))
    return [record for _, record in sorted(shown, key=lambda each: not each[0])[:MOST_SHOWN]]
