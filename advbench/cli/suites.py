"""``advbench suite``: one file says what to compare; plan it, run it, see how far it is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advbench.cli.main import main, request_of
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line, garbage_kept
from advbench.errors import InvalidConfig

if TYPE_CHECKING:
    from rich.table import Table

    from advbench.results import CellRecord
    from advbench.suites import Executor, PlannedCell, Suite

__all__ = ["FILE", "SCALE", "results_of", "suite"]

FILE = click.argument("file", type=click.Path(path_type=Path))
SCALE = click.option("--scale", metavar="NAME", help="One of the scales that the file defines.")
ONLY = click.option(
    "--only",
    multiple=True,
    metavar="AXIS=PATTERN",
    help="Cells of that name alone, such as 'target=VGG16' or 'method=pgn*'; given several times, all have to fit.",
)


@main.group()
def suite() -> None:
    """Run many methods against many targets, as one file says."""


@suite.command("plan")
@FILE
@SCALE
@ONLY
@RESULTS
@errors_in_one_line
@garbage_kept()
def plan_(file: Path, scale: str | None, only: Sequence[str], results: str) -> None:
    """Show a suite's cells: what is stored, what is to run and how long it may take, what cannot run and why.

    Of a cell that is to run and was tried before, it says how that ended. Exits with 1 where a cell is invalid.
    """
    from advbench.results import ResultStore
    from advbench.suites import Journal, State, load_suite, plan

    store = ResultStore(results)
    loaded = load_suite(file, scale)
    planned = _chosen(plan(loaded, request_of, store), only)
    failures = {id(cell): reason for cell, reason in Journal.of(loaded, store).failures_of(planned)}
    screen = Screen()
    screen.show(_table(loaded, planned, failures))
    screen.show(_summary(planned))
    if any(cell.state is State.INVALID for cell in planned):
        click.get_current_context().exit(1)


@suite.command()
@FILE
@SCALE
@ONLY
@RESULTS
@errors_in_one_line
@garbage_kept()
def status(file: Path, scale: str | None, only: Sequence[str], results: str) -> None:
    """Show how far a suite is, and what failed."""
    from advbench.results import ResultStore
    from advbench.suites import Journal, load_suite, plan

    store = ResultStore(results)
    loaded = load_suite(file, scale)
    planned = _chosen(plan(loaded, request_of, store), only)
    failures = Journal.of(loaded, store).failures_of(planned)
    screen = Screen()
    for cell, reason in failures:
        screen.show(f"{cell.cell}: {reason}")
    screen.show(_summary(planned) + (f"; {len(failures)} of these failed before" if failures else ""))


@suite.command()
@FILE
@SCALE
@ONLY
@RESULTS
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(1), metavar="N",
              help="local: processes side by side. One an accelerator, or else a processor.")  # fmt: skip
@click.option("--address", metavar="HOST:PORT", help="ray: of the cluster. The one this machine is part of.")
@click.option("--cpus", type=click.IntRange(1), metavar="N", help="ray: processors for a cell. 1.")
@click.option("--gpus", type=click.FloatRange(0), metavar="N", help="ray: accelerators for a cell. 1 where there are.")
@errors_in_one_line
def run(file: Path, scale: str | None, only: Sequence[str], results: str, executor: str, **resources: Any) -> None:
    """Run what of a suite is not stored yet, and compare.

    Each cell is by itself: one that fails says why and holds up no other, and the next run tries it again. Stopped or
    killed at any moment, the same command goes on from where it was; run twice at once, the two share the work. On a
    cluster, all machines share --results and ADVBENCH_HOME, each a folder or a URL.
    """
    from advbench.cli.watch import Watch
    from advbench.report import formats
    from advbench.report.compare import compare as compared
    from advbench.results import ResultStore
    from advbench.suites import Journal, State, load_suite, plan

    execute = _executor(executor, results, resources)
    store = ResultStore(results)
    store.check_writable()
    loaded = load_suite(file, scale)
    planned = _chosen(plan(loaded, request_of, store), only)
    journal = Journal.of(loaded, store)
    screen = Screen()
    todo = {number: cell for number, cell in enumerate(planned) if cell.state is State.TO_RUN}
    if todo:
        requests = {number: cell.request for number, cell in todo.items() if cell.request is not None}
        with Watch(todo) as watch:
            for done in execute(requests, watch.tell):
                journal.add(todo[done.cell], done)
                watch.end(done)
        planned = _chosen(plan(loaded, request_of, store), only)
    for cell, reason in journal.failures_of(planned):
        screen.say(f"{cell.cell}: {reason}")
    for cell in planned:
        if cell.state in (State.INCOMPATIBLE, State.INVALID):
            screen.say(f"{cell.cell}: {cell.state}: {cell.reason}")
    records, names = results_of(planned)
    for table in compared(records, store, names=names):
        screen.show(formats.as_terminal(formats.comparison_grid(table)))
    screen.show(_summary(planned))
    if any(cell.state in (State.TO_RUN, State.INVALID) for cell in planned):
        click.get_current_context().exit(1)


def _chosen(planned: "Sequence[PlannedCell]", only: Sequence[str]) -> "Sequence[PlannedCell]":
    """Keep the cells that fit every pattern.

    Raises:
        InvalidConfig: A pattern names no axis of the suite, or none of its cells fits.
    """
    from advbench.suites import fits

    for word in only:
        axis, equals, pattern = word.partition("=")
        axes = list(planned[0].cell.names) if planned else []
        if not equals or axis not in axes:
            raise InvalidConfig(
                f"--only takes AXIS=PATTERN, and this suite has the axes {', '.join(axes)}; got '{word}'"
            )
        fitting = [cell for cell in planned if fits(cell.cell.names[axis], pattern)]
        if not fitting:
            there = ", ".join(dict.fromkeys(str(cell.cell.names[axis]) for cell in planned))
            raise InvalidConfig(f"--only '{word}' fits no cell: of what is left, {axis} is one of {there}")
        planned = fitting
    return planned


def results_of(planned: "Sequence[PlannedCell]") -> "tuple[list[CellRecord], dict[str, str]]":
    """The results there are, and what their suite calls the methods, by the results' keys."""
    from advbench.report.run import each_once, method_names

    done = [(cell.cell.names, cell.record) for cell in planned if cell.record is not None]
    return each_once(record for _, record in done), method_names(done)


def _executor(name: str, results: str, resources: Mapping[str, Any]) -> "Executor":
    """Where cells run.

    Raises:
        InvalidConfig: An option that means nothing there, or results that workers would not share.
    """
    from advbench.suites import run_locally, run_on_ray

    own = ("workers",) if name == "local" else ("address", "cpus", "gpus")
    for option, value in resources.items():
        if value is not None and option not in own:
            raise InvalidConfig(f"--{option} means nothing with --executor {name}: it takes --{', --'.join(own)}")
    if results.startswith("memory:"):
        raise InvalidConfig(f"--results {results} is seen by one process alone: a suite has several; name a folder")
    if name == "local":
        return partial(run_locally, workers=resources["workers"])
    address, cpus = resources["address"] or "auto", resources["cpus"] or 1
    return partial(run_on_ray, address=address, processors=cpus, accelerators=resources["gpus"])


def _table(loaded: "Suite", planned: "Sequence[PlannedCell]", failures: Mapping[int, str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=Text(loaded.title), title_justify="left")
    axes = list(planned[0].cell.names) if planned else []
    for name in (*axes, "state", "time"):
        table.add_column(name)
    for cell in planned:
        state = str(cell.state) + (f": {cell.reason}" if cell.reason else "")
        if id(cell) in failures:
            state += f"; before, it ended as {failures[id(cell)]}"
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
        words += f"; about {_duration(sum(known))} of work, the training of targets aside"
        words += f" and {len(todo) - len(known)} cells of unknown length" if len(known) < len(todo) else ""
    return words


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
