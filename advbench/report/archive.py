"""A suite's results as a folder that is small enough to be committed, and from which its tables can be made again.

::

    FOLDER/README.md         question, command, tables, figures, what has no result
           tables.tex        the same tables for LaTeX
           tables.csv        and for programs
           manifest.json     Manifest: the suite, and each cell with its command, its record or why it has none
           samples.parquet   each cell's answers, a row an image
           figures/          PNG
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advbench.errors import StorageError
from advbench.files import write_text
from advbench.report.compare import compare
from advbench.report.formats import (
    Grid,
    against_grid,
    as_csv,
    as_latex,
    as_markdown,
    cells_grid,
    comparison_grids,
    on_one_line,
)
from advbench.report.plots import Drawing, comparison_figures, save
from advbench.report.published import PUBLISHED, against
from advbench.report.run import Run, each_once, method_names
from advbench.results import CellRecord, ResultStore

__all__ = ["Archive", "ArchivedFigure", "Manifest", "SuiteIdentity", "write_archive"]

MANIFEST, SAMPLES, FIGURES = "manifest.json", "samples.parquet", "figures"

KEPT = ["id", "label", "clean_prediction", "raw_prediction", "valid_prediction", "uint8_prediction"]
"""Of each image: what the tables, with their paired tests, are made from."""

DOTS = 110
"""An inch: figures are to be looked at beside the tables, and to weigh little."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SuiteIdentity(_Model):
    """Which suite.

    Args:
        file: Its path, as given.
        sha256: Of the file.
        scale: Which of its scales, or None for the usual one.
        identity: A hash of what it compares.
        title: For people.
        question: What it is to answer.
    """

    file: str
    sha256: str
    scale: str | None
    identity: str
    title: str
    question: str


class ArchivedFigure(_Model):
    """One figure.

    Args:
        name: Of the file, without its ending.
        title: What it is.
        alt: What it shows, for who cannot see it.
    """

    name: str = Field(pattern=r"^[\w-]+$")
    title: str
    alt: str


class Manifest(_Model):
    """Everything in a report but the images' answers.

    Args:
        suite: Which suite.
        commands: What makes the report: run the suite, then write this.
        runs: Every cell, with and without a result; of what was asked for, where results lay is left out.
        figures: What is drawn.
    """

    suite: SuiteIdentity
    commands: list[str]
    runs: list[Run]
    figures: list[ArchivedFigure] = []

    @property
    def records(self) -> list[CellRecord]:
        """The results there are."""
        return each_once(run.record for run in self.runs if run.record is not None)

    @property
    def method_names(self) -> dict[str, str]:
        """What the suite calls the methods, by the results' keys."""
        return method_names((run.names, run.record) for run in self.runs if run.record is not None)


class Archive:
    """A report as it lies on disk.

    Args:
        folder: Where.

    Raises:
        StorageError: It is not there, or is no report.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            self._samples = pq.read_table(folder / SAMPLES)
        except (OSError, ValidationError, pa.ArrowException) as error:
            raise StorageError(f"cannot read the report {folder}: {error}; write it again") from error

    def samples(self, record: CellRecord, columns: Sequence[str] | None = None) -> pa.Table:
        """One result's rows, an image each; all columns that are kept, or those that are named."""
        own = self._samples.filter(pc.equal(self._samples["key"], record.key))
        return own.select(list(columns or KEPT))

    def pages(self) -> dict[str, str]:
        """The files that hold the tables, made again from the records, by name."""
        records = self.manifest.records
        tables = compare(records, self, names=self.manifest.method_names)
        beside = {name: against(records, name) for name in PUBLISHED}
        published = {name: against_grid(rows, PUBLISHED[name]) for name, rows in beside.items() if rows}
        grids = [*comparison_grids(tables), *published.values()]
        return {
            "README.md": _readme(self.manifest, grids),
            "tables.tex": "\n".join(as_latex(grid) for grid in grids),
            "tables.csv": as_csv(cells_grid(tables)),
            **{f"against-{name}.csv": as_csv(grid) for name, grid in published.items()},
        }


def write_archive(folder: Path, manifest: Manifest, regions: Mapping[str, Drawing], store: ResultStore) -> list[Path]:
    """Write a report, and return its files.

    Args:
        folder: Made where it is not there. What an earlier report had and this one has not is taken away.
        manifest: Without figures, which are drawn here.
        regions: Figures that stored results are not enough for, by name.
        store: Where the results lie.

    Raises:
        StorageError: It cannot be written.
    """
    tables = compare(manifest.records, store, names=manifest.method_names)
    drawings = {**comparison_figures(manifest.records, tables, store), **regions}
    told = [ArchivedFigure(name=name, title=each.title, alt=each.alt) for name, each in drawings.items()]
    manifest = manifest.model_copy(update={"figures": told, "runs": [_anywhere(run) for run in manifest.runs]})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take_away(folder)
        pq.write_table(_answers(manifest.records, store), folder / SAMPLES, compression="zstd")
        figures = save(drawings, folder / FIGURES, suffixes=(".png",), dots=DOTS)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot write the report {folder}: {error}; name a folder that is writable") from error
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    pages = Archive(folder).pages()
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / MANIFEST, folder / SAMPLES, *(folder / name for name in pages), *figures]


def _take_away(folder: Path) -> None:
    """Remove an earlier report's figures and comparisons with published numbers; others' files may lie beside them."""
    try:
        old = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return
    drawn = [folder / FIGURES / f"{figure.name}.png" for figure in old.figures]
    for path in (*drawn, *(folder / f"against-{name}.csv" for name in PUBLISHED)):
        path.unlink(missing_ok=True)


def _anywhere(run: Run) -> Run:
    """The cell without what is true of one machine alone."""
    if run.record is None:
        return run
    request = {name: value for name, value in run.record.request.items() if name != "results"}
    return run.model_copy(update={"record": run.record.model_copy(update={"request": request})})


def _answers(records: Sequence[CellRecord], store: ResultStore) -> pa.Table:
    tables = []
    for record in records:
        samples = store.samples(record, KEPT)
        columns = {name: samples[name] if name == "id" else samples[name].cast(pa.int16()) for name in KEPT}
        tables.append(pa.table({"key": pa.array([record.key] * len(samples)), **columns}))
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([]) for name in ("key", *KEPT)})


def _readme(manifest: Manifest, grids: Sequence[Grid]) -> str:
    suite, runs = manifest.suite, manifest.runs
    scale = f", scale {suite.scale}" if suite.scale else ""
    done = sum(run.record is not None for run in runs)
    lines = [
        f"# {suite.title}",
        "",
        *([suite.question, ""] if suite.question else []),
        f"{done} of {len(runs)} cells of `{suite.file}`{scale} have a result. Made by",
        "",
        *(f"    {command}" for command in manifest.commands),
        "",
        f"{_circumstances(manifest.records)} Each cell's command, parameters, versions and hashes are in "
        f"[`{MANIFEST}`]({MANIFEST}), its answers for each image in [`{SAMPLES}`]({SAMPLES}).",
        "",
        *(as_markdown(grid) for grid in grids),
    ]
    told = [f"- {on_one_line(f'{run.name}: {run.state}: {run.reason}')}" for run in runs if run.record is None]
    if told:
        lines += ["### Without a result", "", *told, ""]
    pictures = [[f"![{each.alt}]({FIGURES}/{each.name}.png)", "", f"*{each.title}*", ""] for each in manifest.figures]
    return "\n".join([*lines, "## Figures", "", *chain.from_iterable(pictures)]) if pictures else "\n".join(lines)


def _circumstances(records: Sequence[CellRecord]) -> str:
    """What the results were made on and with, where it is the same for all."""
    if not records:
        return ""
    found: list[Mapping[str, Any]] = [record.environment for record in records]
    devices = sorted({f"{each.get('device')}, {each.get('processors')} processors" for each in found})
    revisions = sorted({_revision(each.get("git")) for each in found})
    days = sorted(record.created[:10] for record in records)
    return f"Device: {'; '.join(devices)}. Revision: {', '.join(revisions)}. Run {days[0]} to {days[-1]}."


def _revision(git: Mapping[str, Any] | None) -> str:
    """The checkout that a run was started in, and whether it had changes of its own."""
    if git is None:
        return "unknown"
    return f"{git['revision'][:12]}{' with changes' if git['changed'] else ''}"
