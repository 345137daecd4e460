"""What the terminal shows: progress and errors on standard error, results on standard output."""

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from advbench.errors import AdvbenchError
from advbench.progress import SILENT, Task

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Screen", "errors_in_one_line", "garbage_kept"]

INTERRUPTED = 130


class Screen:
    """Progress for people: bars with the latest losses while work is under way, lines where there is no terminal.

    Args:
        quiet: Keep standard output for the caller; progress still goes to standard error.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._errors = Console(stderr=True)
        # A pipe or a file has no width: tables get room there, and lines are never broken.
        self._out = Console(stderr=quiet, highlight=False, width=None if sys.stdout.isatty() else 160)
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return self  # a helper process of a run over several devices leaves the terminal to the first
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._errors,
            transient=False,
        )
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """Show a bar."""
        if self._bars is None:
            with SILENT.task(name, total) as silent:
                yield silent
            return
        yield _Bar(self._bars, self._bars.add_task(name, total=total, figures=""))

    def say(self, message: str) -> None:
        """Show one line on standard error."""
        self._errors.print(message, style="yellow", highlight=False, soft_wrap=True, markup=False, emoji=False)

    def show(self, what: "RenderableType") -> None:
        """Print a result on standard output."""
        self._out.print(what, soft_wrap=isinstance(what, str), markup=False, emoji=False)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and what they stand for."""
        listed = list(rows)
        width = max((len(name) for name, _ in listed), default=0)
        for name, summary in listed:
            click.echo(f"{name:{width}}  {summary}")


class _Bar:
    def __init__(self, bars: "Bars", task: "TaskID") -> None:
        self._bars, self._task = bars, task
        self._figures: dict[str, float] = {}

    def advance(self, steps: int = 1, **figures: float) -> None:
        self._figures |= figures
        shown = "  ".join(f"{name} {value:.3f}" for name, value in self._figures.items())
        self._bars.update(self._task, advance=steps, figures=shown)


def errors_in_one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what advbench raises on purpose into one line and exit status 2, and Ctrl-C into 130 with what is kept."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except AdvbenchError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "interrupted: finished epochs and results are kept; the same command goes on from them", err=True
            )
            sys.exit(INTERRUPTED)

    return guarded


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Look for no garbage in a command that only reads: what it reads and imports lives to the end.

    Finding none takes a third of its time: while it runs, and, but for the freezing, once more as the process ends.
    What torchvision brings along with it complains at the end where none was looked for.
    """
    gc.disable()
    try:
        yield
    finally:
        if "torchvision" not in sys.modules:
            gc.freeze()
        gc.enable()
