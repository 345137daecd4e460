"""One self-contained page about many results: tables, figures, a gallery, and everything that a number rests on."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from advbench.report.answers import version_of
from advbench.report.classes import in_words
from advbench.report.compare import ComparedCell, ComparedTable
from advbench.report.formats import Cell, Grid, comparison_grids, percent
from advbench.report.labels import method_label, target_label
from advbench.report.plots import LEGIBLE, SHADES, Confusion, Drawing, amplification, confusion_of, exemplary
from advbench.report.run import Run
from advbench.results import DIAGNOSTICS, CellRecord, ResultStore, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["render_page"]

MOST_CARDS = 60
"""In the gallery: more would make the page slow to load, and nobody look."""

BLACK_FROM = 47
"""Percent from which a square's shade is light enough for black words: those of both sides have a contrast of 4.5."""


def render_page(
    title: str,
    question: str,
    runs: Sequence[Run],
    tables: Sequence[ComparedTable],
    figures: Mapping[str, Drawing],
    store: ResultStore,
) -> str:
    """Write the page. It asks for nothing over a network, and works from a disk.

    Args:
        title: Its heading.
        question: What it answers.
        runs: Every run, with and without a result.
        tables: The comparison.
        figures: By name.
        store: Where per-image results lie.
    """
    from jinja2 import Environment, PackageLoader  # lazy: only this needs it

    page = Environment(loader=PackageLoader("advbench.report", "."), autoescape=True, trim_blocks=True)
    done = [run for run in runs if run.record is not None]
    records = [run.record for run in done if run.record is not None and run.record.metrics is not None]
    return page.get_template("page.html.j2").render(
        title=title,
        question=question,
        summary=f"{len(done)} of {len(runs)} runs have a result.",
        version=version("advbench"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        tables=[_table(table, grid) for table in tables for grid in comparison_grids([table])],
        flags=_flags(tables),
        figures=[{"source": _svg(each.figure), "title": each.title, "words": each.alt} for each in figures.values()],
        confusion=[_confusion(record, store) for record in exemplary(records, tables)],
        gallery=_gallery(done, store),
        without=[run for run in runs if run.record is None],
        runs=[_run(run.record, run) for run in done if run.record is not None],
    )


def _table(table: ComparedTable, grid: Grid) -> dict[str, Any]:
    rows = []
    for row, words in zip(table.rows, grid.rows, strict=True):
        compared = [row.cells.get(method) if method is not None else None for method in grid.methods]
        rows.append([_shown(cell, each) for cell, each in zip(words, compared, strict=True)])
    told = legend(flag.name for row in table.rows for cell in row.cells.values() for flag in cell.flags)
    notes = [note for note in grid.notes if note not in told]  # flags have a part of the page to themselves
    found_by = " ".join([table.title, *table.methods, *(row.target for row in table.rows)])
    columns = zip(grid.header, grid.methods, strict=True)
    header = [{"name": name, "is_method": method is not None} for name, method in columns]
    return {"title": grid.title, "words": found_by, "header": header, "rows": rows, "notes": notes}


def _shown(cell: Cell, compared: ComparedCell | None) -> dict[str, Any]:
    flags = [] if compared is None else [flag.name for flag in compared.flags]
    return {
        "text": cell.text,
        "detail": cell.detail,
        "best": cell.strong,
        "keys": [] if compared is None else compared.keys,
        "marks": cell.flags,
        "flags": ", ".join(flags),
    }


def _flags(tables: Sequence[ComparedTable]) -> list[dict[str, Any]]:
    """Each flag that a number here earned: what it means, what to do, and whose it is."""
    earned: dict[str, list[dict[str, str]]] = defaultdict(list)
    for table in tables:
        for row in table.rows:
            for method, cell in row.cells.items():
                for flag in cell.flags:
                    where = f"{method} on {row.target}, {table.title}"
                    earned[flag.name].append({"key": cell.keys[0], "where": where, "found": flag.found})
    return [{"name": name, "told": told, "by": earned[name]} for name, told in DIAGNOSTICS.items() if name in earned]


def _svg(figure: "Figure") -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # lazy: takes most of a second

    out = io.BytesIO()
    # Figure.savefig would draw everything twice.
    FigureCanvasSVG(figure).print_svg(out)  # type: ignore[no-untyped-call]
    return f"data:image/svg+xml;base64,{base64.b64encode(out.getvalue()).decode()}"


def _confusion(record: CellRecord, store: ResultStore) -> dict[str, Any]:
    found = confusion_of(record, store)
    panels = [_squares(name, shares, found) for name, shares in found.shares.items()]
    return {"key": record.key, "title": found.title, "words": found.words, "classes": found.classes, "panels": panels}


def _squares(name: str, shares: NDArray[np.float64], found: Confusion) -> dict[str, Any]:
    """A table where its squares can be read, else a picture with one pixel a square."""
    from matplotlib import colormaps  # lazy: takes a while

    colours = np.round(255 * colormaps[SHADES](shares / 100)[..., :3]).astype(np.uint8)
    if len(shares) > LEGIBLE:
        return {"name": name, "image": _png(colours)}
    rows = [
        [(f"{share:.0f}", colour.tobytes().hex(), share < BLACK_FROM) for share, colour in zip(*line, strict=True)]
        for line in zip(shares, colours, strict=True)
    ]
    return {"name": name, "rows": list(zip(found.classes, rows, strict=True))}


def _pixels(image: "Tensor") -> NDArray[np.uint8]:
    return np.clip(image.permute(1, 2, 0).numpy() * 255 + 0.5, 0, 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _gallery(runs: Sequence[Run], store: ResultStore) -> list[dict[str, Any]]:
    each = max(1, MOST_CARDS // max(1, len(runs)))
    cards = []
    for run in runs[:: -(-len(runs) // MOST_CARDS) or 1]:
        record = run.record
        examples = store.tensors(record, "examples") if record is not None else {}
        if record is None or not examples:
            continue
        samples = store.samples(record).select(["label", "clean_prediction", "valid_prediction"])
        delta = examples["perturbed"] - examples["clean"]
        factor, classes = amplification(delta), in_words(record.classes)
        pixels = " (valid pixels)" if version_of(record) == "raw" else ""  # tables count raw ones there
        for position, row in enumerate(examples["rows"].tolist()[:each]):
            truth, before, after = (classes[column[row].as_py()] for column in samples.columns)
            cards.append(
                {
                    "key": record.key, "run": run.name, "words": f"{_words(record, run)} {truth} {before} {after}",
                    "truth": truth, "before": before, "after": after + pixels,
                    "factor": f"{factor:g}", "clean": _png(_pixels(examples["clean"][position])),
                    "perturbation": _png(_pixels(0.5 + factor * delta[position])),
                    "perturbed": _png(_pixels(examples["perturbed"][position])),
                }
            )  # fmt: skip
    return cards


def _words(record: CellRecord, run: Run) -> str:
    """What a run is found by."""
    return f"{run.name}: {method_label(record)} on {target_label(record)}, {record.spec.goal}, {record.spec.budget}"


def _run(record: CellRecord, run: Run) -> dict[str, Any]:
    shown = {"spec", "metrics", "environment", "created", "status", "flags"}
    return {
        "key": record.key,
        "name": f"{run.name}: {method_label(record)} on {target_label(record)}",
        "words": f"{_words(record, run)} {record.key}",
        "status": str(record.status),
        "accuracy": None if record.metrics is None else f"{percent(record.metrics.valid_accuracy)}%",
        "command": run.command,
        "flags": [flag.in_words for flag in record.flags],
        "notes": record.notes,
        "json": record.model_dump_json(indent=1, include=shown),
    }
