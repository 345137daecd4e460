"""``advbench suite``: one file says what to compare; plan it, run it, see how far it is."""

import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from advbench.cli.main import main, request_of
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line
from advbench.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

    from advbench.suites import PlannedCell, Suite

__all__ = ["report", "suite"]

FILE = click.argument("file", type=click.Path(path_type=Path))
SCALE = click.option("--scale", metavar="NAME", help="One of the scales that the file defines.")


@main.group()
def suite() -> None:
    """Run many methods against many targets, as one file says."""


@suite.command("plan")
@FILE
@SCALE
@RESULTS
@errors_in_one_line
def plan_(file: Path, scale: str | None, results: Path) -> None:
    """Show a suite's cells: what is stored, what is to run and how long it may take, what cannot run and why."""
    from advbench.results import ResultStore
    from advbench.suites import load_suite, plan

    loaded = load_suite(file, scale)
    planned = plan(loaded, request_of, ResultStore(results))
    screen = Screen()
    screen.show(_table(loaded, planned))
    screen.show(_summary(planned))


@suite.command()
@FILE
@SCALE
@RESULTS
@errors_in_one_line
def status(file: Path, scale: str | None, results: Path) -> None:
    """Show how far a suite is, and what failed."""
    from advbench.results import ResultStore
    from advbench.suites import Journal, load_suite, plan

    loaded = load_suite(file, scale)
    planned = plan(loaded, request_of, ResultStore(results))
    failures = Journal.of(loaded, results).failures_of(planned)
    screen = Screen()
    for cell, reason in failures:
        screen.show(f"{cell.cell}: {reason}")
    screen.show(_summary(planned) + (f"; {len(failures)} of these failed before" if failures else ""))


@suite.command()
@FILE
@SCALE
@RESULTS
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes side by side. One a processor.")
@errors_in_one_line
def run(file: Path, scale: str | None, results: Path, workers: int | None) -> None:
    """Run what of a suite is not stored yet, and compare.

    Each cell is by itself: one that fails says why and holds up no other. Stopped or killed at any moment, the same
    command goes on from where it was.
    """
    from advbench.cli.watch import Watch
    from advbench.report import formats
    from advbench.report.compare import compare as compared
    from advbench.results import ResultStore
    from advbench.suites import Journal, State, load_suite, plan, processors, run_locally

    store = ResultStore(results)
    store.check_writable()
    loaded = load_suite(file, scale)
    planned = plan(loaded, request_of, store)
    journal = Journal.of(loaded, results)
    screen = Screen()
    todo = {number: cell for number, cell in enumerate(planned) if cell.state is State.TO_RUN}
    if todo:
        requests = {number: cell.request for number, cell in todo.items() if cell.request is not None}
        with Watch(todo) as watch:
            for done in run_locally(requests, workers or processors(), watch.tell):
                journal.add(todo[done.cell], done)
                watch.end(done)
        planned = plan(loaded, request_of, store)
    for cell, reason in journal.failures_of(planned):
        screen.say(f"{cell.cell}: {reason}")
    for cell in planned:
        if cell.state in (State.INCOMPATIBLE, State.INVALID):
            screen.say(f"{cell.cell}: {cell.state}: {cell.reason}")
    records = [store.find(cell.key) for cell in planned if cell.key is not None]
    for table in compared(records, store):
        screen.show(formats.as_terminal(formats.comparison_grid(table)))
    screen.show(_summary(planned))
    if any(cell.state in (State.TO_RUN, State.INVALID) for cell in planned):
        click.get_current_context().exit(1)


@main.command()
@FILE
@SCALE
@RESULTS
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="PAGE", help="Write the page here.")
@errors_in_one_line
def report(file: Path, scale: str | None, results: Path, page: Path | None) -> None:
    """Write one self-contained page about a suite's stored results: tables, figures, gallery, every run's making."""
    from advbench.report.compare import compare as compared
    from advbench.report.page import Run, render_page
    from advbench.report.plots import comparison_figures
    from advbench.results import ResultStore
    from advbench.suites import Journal, load_suite, plan

    store = ResultStore(results)
    loaded = load_suite(file, scale)
    planned = plan(loaded, request_of, store)
    failures = {id(cell): reason for cell, reason in Journal.of(loaded, results).failures_of(planned)}
    runs = [
        Run(
            name=str(cell.cell),
            command=shlex.join(["advbench", "run", *cell.cell.arguments]),
            state=str(cell.state),
            reason=cell.reason or failures.get(id(cell)) or "it was not run yet",
            record=store.find(cell.key) if cell.key else None,
        )
        for cell in planned
    ]
    records = [run.record for run in runs if run.record is not None]
    tables = compared(records, store)
    written = page or Path("reports") / f"{file.stem}.html"
    text = render_page(loaded.title, loaded.question, runs, tables, comparison_figures(records, tables, store), store)
    write_text(written, text)
    Screen().show(f"{len(records)} results in {written}")


def _table(loaded: "Suite", planned: "Sequence[PlannedCell]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=Text(loaded.title), title_justify="left")
    axes = list(planned[0].cell.names) if planned else []
    for name in (*axes, "state", "time"):
        table.add_column(name)
    for cell in planned:
        state = str(cell.state) + (f": {cell.reason}" if cell.reason else "")
        seconds = "" if cell.seconds is None else _duration(cell.seconds)
        table.add_row(*(Text(str(name)) for name in cell.cell.names.values()), Text(state), seconds)
    return table


def _summary(planned: "Sequence[PlannedCell]") -> str:
    from advbench.suites import State

    counts = Counter(cell.state for cell in planned)
    words = f"{len(planned)} cells: " + ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    todo = [cell for cell in planned if cell.state is State.TO_RUN]
    known = [cell.seconds for cell in todo if cell.seconds is not None]
    if known:
        words += f"; about {_duration(sum(known))} of work"
        words += f" and {len(todo) - len(known)} cells of unknown length" if len(known) < len(todo) else ""
    return words


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
