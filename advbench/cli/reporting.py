"""``advbench report``: a page or a folder about a suite's stored results."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from advbench.cli.drawing import region_drawings
from advbench.cli.main import main, request_of
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line, garbage_kept
from advbench.cli.suites import FILE, SCALE
from advbench.errors import InvalidConfig
from advbench.files import file_hash, write_text

if TYPE_CHECKING:
    from advbench.report.archive import SuiteIdentity
    from advbench.report.plots import Drawing
    from advbench.report.run import Run
    from advbench.results import CellRecord, ResultStore
    from advbench.suites import Suite

__all__ = ["report"]


@main.command()
@FILE
@SCALE
@RESULTS
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="PAGE", help="Write the page here.")
@click.option(
    "--folder", type=click.Path(path_type=Path), metavar="DIR", help="Write tables, figures and records here."
)
@click.option(
    "--regions",
    "images",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Also draw decision regions around each dataset's first N images; this asks, or even trains, the targets.",
)
@errors_in_one_line
def report(file: Path, scale: str | None, results: str, page: Path | None, folder: Path | None, images: int) -> None:
    """Write about a suite's stored results: one self-contained page, or a folder that is small enough to be committed.

    The page has tables, figures, a gallery and every run's making; the folder has the tables as Markdown, LaTeX and
    CSV, figures, and a manifest from whose records the tables can be made again.
    """
    from advbench.results import ResultStore

    if page is None and folder is None:
        raise InvalidConfig("nothing to write: name a page with --html, a folder with --folder, or both")
    with nullcontext() if images else garbage_kept():  # targets that are trained leave garbage
        _write(file, scale, ResultStore(results), page, folder, images)


def _write(
    file: Path, scale: str | None, store: "ResultStore", page: Path | None, folder: Path | None, images: int
) -> None:
    from advbench.report.archive import Manifest, write_archive
    from advbench.suites import load_suite

    screen = Screen()
    loaded = load_suite(file, scale)
    runs = _runs(loaded, store)
    records = [run.record for run in runs if run.record is not None]
    regions = region_drawings(records, images, screen)
    if page is not None:
        write_text(page, _page(loaded, runs, records, regions, store))
        screen.show(f"{len(records)} results in {page}")
    if folder is not None:
        words = [str(file), *(["--scale", scale] if scale else [])]
        own = ["--folder", folder.as_posix(), *(["--regions", str(images)] if images else [])]
        commands = [shlex.join(["advbench", *each]) for each in (["suite", "run", *words], ["report", *words, *own])]
        manifest = Manifest(suite=_identity(file, scale, loaded), commands=commands, runs=runs)
        for written in write_archive(folder, manifest, regions, store):
            screen.show(str(written))


def _page(
    loaded: "Suite",
    runs: "Sequence[Run]",
    records: "Sequence[CellRecord]",
    regions: "Mapping[str, Drawing]",
    store: "ResultStore",
) -> str:
    from advbench.report.compare import compare as compared
    from advbench.report.page import render_page
    from advbench.report.plots import comparison_figures
    from advbench.report.run import method_names

    names = method_names((run.names, run.record) for run in runs if run.record is not None)
    tables = compared(records, store, names=names)
    drawings = {**comparison_figures(records, tables, store, for_page=True), **regions}
    return render_page(loaded.title, loaded.question, runs, tables, drawings, store)


def _runs(loaded: "Suite", store: "ResultStore") -> "list[Run]":
    """Every cell, with its result or why there is none."""
    from advbench.report.run import Run
    from advbench.suites import Journal, plan

    planned = plan(loaded, request_of, store)
    failures = {id(cell): reason for cell, reason in Journal.of(loaded, store).failures_of(planned)}
    return [
        Run(
            names=dict(cell.cell.names),
            command=shlex.join(["advbench", "run", *cell.cell.arguments]),
            state=str(cell.state),
            reason=None if cell.record else cell.reason or failures.get(id(cell)) or "it was not run yet",
            record=cell.record,
        )
        for cell in planned
    ]


def _identity(file: Path, scale: str | None, loaded: "Suite") -> "SuiteIdentity":
    from advbench.report.archive import SuiteIdentity

    return SuiteIdentity(
        file=file.as_posix(),
        sha256=file_hash(file),
        scale=scale,
        identity=loaded.identity,
        title=loaded.title,
        question=loaded.question,
    )
