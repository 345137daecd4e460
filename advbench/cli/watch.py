"""One view of a suite under way: what is done, what is running with its losses, what is left."""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from advbench.types import Status

if TYPE_CHECKING:
    from advbench.suites import Done, Event, PlannedCell

__all__ = ["Watch"]


class Watch:
    """Shows a bar for the whole and one for each running cell, on standard error.

    Args:
        cells: What is to be run, by number.
    """

    def __init__(self, cells: "Mapping[int, PlannedCell]") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._cells = cells
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._whole = self._bars.add_task("cells", total=len(cells), figures="")
        self._running: dict[int, int] = {}
        self._failed = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running.values():
            self._bars.remove_task(task)  # type: ignore[arg-type]
        self._bars.stop()

    def tell(self, event: "Event") -> None:
        """Show how far a cell is."""
        if event.cell not in self._running:
            self._running[event.cell] = self._bars.add_task("", total=None, figures="")
        figures = "  ".join(f"{name} {value:.3f}" for name, value in event.figures.items())
        self._bars.update(
            self._running[event.cell],  # type: ignore[arg-type]
            description=f"  {self._cells[event.cell].cell}: {event.task}",
            completed=event.done,
            total=event.total,
            figures=figures,
        )

    def end(self, done: "Done") -> None:
        """Take a cell off, and count it."""
        task = self._running.pop(done.cell, None)
        if task is not None:
            self._bars.remove_task(task)  # type: ignore[arg-type]
        self._failed += done.status is not Status.OK
        self._bars.update(self._whole, advance=1, figures=f"{self._failed} without a result" if self._failed else "")
