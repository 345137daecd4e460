"""One view of a suite under way: what is done, what is running with its losses, what is left."""

from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from advbench.types import Status

if TYPE_CHECKING:
    from advbench.suites import Done, Event, PlannedCell

__all__ = ["Watch"]

LONG_SECONDS = 24 * 3600
"""Over how long the speed is taken: a cell may take an hour, and the time to go is then still known."""


class Watch:
    """Shows a bar for the whole and one for each running cell, on standard error.

    Args:
        cells: What is to be run, by number.
    """

    def __init__(self, cells: "Mapping[int, PlannedCell]") -> None:
        # What a cell is called gives way to the figures in a narrow terminal.
        called = TextColumn(
            "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        )
        figures: list[ProgressColumn] = [
            BarColumn(12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeToGo(),
            TextColumn("{task.fields[figures]}", markup=False),
        ]

        self._cells = cells
        self._bars = Progress(
            called,
            *figures,
            console=Console(stderr=True),
            expand=True,
            speed_estimate_period=LONG_SECONDS,
        )
        self._whole = self._bars.add_task("cells", total=len(cells), figures="")
        self._running: dict[int, TaskID] = {}
        self._workers = 0
        self._ended: set[int] = set()
        self._failed = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running.values():
            self._bars.remove_task(task)
        self._bars.stop()

    def tell(self, event: "Event") -> None:
        """Show how far a cell is."""
        if event.cell in self._ended:  # told before its end, and passed on after it
            return
        if event.cell not in self._running:
            self._running[event.cell] = self._bars.add_task("", total=None, figures="")
        figures = "  ".join(f"{name} {value:.3f}" for name, value in event.figures.items())
        self._bars.update(
            self._running[event.cell],
            description=f"  {self._cells[event.cell].cell}: {event.task}",
            completed=event.done,
            total=event.total or None,
            figures=figures,
        )
        self._workers = max(self._workers, len(self._running))
        self._bars.update(self._whole, to_go=self._to_go())

    def end(self, done: "Done") -> None:
        """Take a cell off, and count it."""
        self._ended.add(done.cell)
        task = self._running.pop(done.cell, None)
        if task is not None:
            self._bars.remove_task(task)
        self._failed += done.status is not Status.OK
        self._bars.update(self._whole, advance=1, figures=f"{self._failed} without a result" if self._failed else "")

    def _to_go(self) -> float | None:
        """Seconds by the plan's estimates; None where a cell that is left has none, or all take longer than theirs."""
        elapsed = {task.id: task.elapsed or 0.0 for task in self._bars.tasks}
        spent = {number: elapsed[task] for number, task in self._running.items()}
        left = []
        for number, cell in self._cells.items():
            if number not in self._ended:
                if cell.seconds is None:
                    return None
                left.append(max(0.0, cell.seconds - spent.get(number, 0.0)))
        return max(*left, sum(left) / self._workers) or None


class _TimeToGo(TimeRemainingColumn):
    """As a bar was told, else by its speed so far."""

    def render(self, task: Task) -> Text:
        """Show it."""
        seconds = task.fields.get("to_go")
        if seconds is None:
            return super().render(task)
        return Text(str(timedelta(seconds=round(seconds))), style="progress.remaining")
