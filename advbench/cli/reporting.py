"""``advbench report``: a page or a folder about a suite's stored results."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from advbench.cli.main import main, request_of
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line, garbage_kept
from advbench.cli.suites import FILE, SCALE
from advbench.errors import InvalidConfig
from advbench.files import file_hash, write_text

if TYPE_CHECKING:
    from advbench.report.archive import Manifest
    from advbench.report.run import Run
    from advbench.results import ResultStore
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
@errors_in_one_line
@garbage_kept()
def report(file: Path, scale: str | None, results: str, page: Path | None, folder: Path | None) -> None:
    """Write about a suite's stored results: one self-contained page, or a folder that is small enough to be committed.

    The page has tables, figures, a gallery and every run's making; the folder has the tables as Markdown, LaTeX and
    CSV, figures, and a manifest from whose records the tables can be made again.
    """
    from advbench.report.archive import write_archive
    from advbench.report.compare import compare as compared
    from advbench.report.page import render_page
    from advbench.report.plots import comparison_figures
    from advbench.results import ResultStore
    from advbench.suites import load_suite

    if page is None and folder is None:
        raise InvalidConfig("nothing to write: name a page with --html, a folder with --folder, or both")
    store = ResultStore(results)
    loaded = load_suite(file, scale)
    runs = _runs(loaded, store)
    records = [run.record for run in runs if run.record is not None]
    screen = Screen()
    if page is not None:
        tables = compared(records, store)
        drawings = comparison_figures(records, tables, store, for_page=True)
        write_text(page, render_page(loaded.title, loaded.question, runs, tables, drawings, store))
        screen.show(f"{len(records)} results in {page}")
    if folder is not None:
        for written in write_archive(folder, _manifest(file, scale, folder, loaded, runs), store):
            screen.show(str(written))


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


def _manifest(file: Path, scale: str | None, folder: Path, loaded: "Suite", runs: "list[Run]") -> "Manifest":
    from advbench.report.archive import Manifest, SuiteIdentity

    identity = SuiteIdentity(
        file=file.as_posix(),
        sha256=file_hash(file),
        scale=scale,
        identity=loaded.identity,
        title=loaded.title,
        question=loaded.question,
    )
    words = [str(file), *(["--scale", scale] if scale else [])]
    commands = [
        shlex.join(["advbench", "suite", "run", *words]),
        shlex.join(["advbench", "report", *words, "--folder", folder.as_posix()]),
    ]
    return Manifest(suite=identity, commands=commands, runs=runs)
