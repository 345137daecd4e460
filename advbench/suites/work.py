"""What a worker does with one cell: run it, tell how far it is, and never take others down with it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from advbench.bench import RunRequest, Workshop, run_cell
from advbench.errors import AdvbenchError
from advbench.progress import Task
from advbench.types import Status

__all__ = ["Done", "Event", "work"]


@dataclass(frozen=True)
class Event:
    """How far a cell is.

    Args:
        cell: Its number in the plan.
        task: What it is doing.
        done: Steps done.
        total: Of so many.
        figures: The latest losses and accuracies by name.
    """

    cell: int
    task: str
    done: int = 0
    total: int = 0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """How a cell ended.

    Args:
        cell: Its number in the plan.
        status: As in its record; ``failed`` also where it has none.
        reason: Why it is not ``ok``.
        key: Of its record, where it has one.
        seconds: Wall time.
    """

    cell: int
    status: Status
    reason: str | None
    key: str | None
    seconds: float


EVERY_SECONDS = 0.25
"""How often a cell tells how far it is: often enough to be watched, too seldom to cost anything."""


class _Telling:
    """Progress that becomes events."""

    def __init__(self, cell: int, tell: Callable[[Event], None]) -> None:
        self._cell, self._tell = cell, tell

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        self._tell(Event(self._cell, name, 0, total))
        yield _TellingTask(Event(self._cell, name, 0, total), self._tell)

    def say(self, message: str) -> None:
        """What a run has to say stands in its record."""


class _TellingTask:
    def __init__(self, event: Event, tell: Callable[[Event], None]) -> None:
        self._event, self._tell, self._told = event, tell, 0.0

    def advance(self, steps: int = 1, **figures: float) -> None:
        event = self._event
        self._event = Event(event.cell, event.task, event.done + steps, event.total, event.figures | figures)
        if time.monotonic() - self._told > EVERY_SECONDS:
            self._tell(self._event)
            self._told = time.monotonic()


def work(cell: int, request: RunRequest, workshop: Workshop, tell: Callable[[Event], None]) -> Done:
    """Run one cell. Whatever goes wrong is its own outcome."""
    started = time.perf_counter()
    try:
        outcome = run_cell(request, _Telling(cell, tell), workshop)
    except AdvbenchError as error:
        return Done(cell, Status.FAILED, str(error), None, time.perf_counter() - started)
    except Exception as error:
        reason = f"{type(error).__name__}: {error} (in process {os.getpid()})"
        return Done(cell, Status.FAILED, reason, None, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if outcome is None:
        return Done(cell, Status.FAILED, "a suite runs each cell on one device: leave out --devices", None, seconds)
    return Done(cell, outcome.record.status, outcome.record.reason, outcome.record.key, seconds)
