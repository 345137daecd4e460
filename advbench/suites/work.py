"""What executors share: the worker's part, which runs one cell and never takes others down with it, and its words."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from advbench.bench import RunRequest, Workshop, run_cell
from advbench.errors import AdvbenchError, ResultClaimed
from advbench.progress import Task
from advbench.types import Status

__all__ = ["POLL_SECONDS", "RETRIES", "Done", "Event", "Executor", "work"]

RETRIES = 2
"""How often a cell is tried again whose worker died: not by its own error, which is an outcome."""

POLL_SECONDS = 0.1
"""How often an executor passes on what its workers tell."""


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


class Executor(Protocol):
    """Runs cells somewhere, and gives each as it ends.

    A worker that dies (killed, out of memory, its machine gone) takes nothing with it: what it was at is tried again,
    from the last checkpoint where that can be reached, and given up after ``RETRIES`` times. A cell that another
    process is running is left for last, and is then waited for.
    """

    def __call__(self, requests: Mapping[int, RunRequest], tell: Callable[[Event], None]) -> Iterator[Done]:
        """Run.

        Args:
            requests: By the cells' numbers.
            tell: Told how far the cells are.
        """


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


def work(
    cell: int, request: RunRequest, workshop: Workshop, tell: Callable[[Event], None], *, wait: bool
) -> Done | None:
    """Run one cell. Whatever goes wrong is its own outcome; None where another process runs it, and ``wait`` is false.

    Args:
        cell: Its number in the plan.
        request: What to run.
        workshop: What this worker has loaded.
        tell: Told how far it is.
        wait: For another process that runs it.
    """
    started = time.perf_counter()
    tell(Event(cell, "waiting for another run of it" if wait else "preparing"))
    try:
        outcome = run_cell(request, _Telling(cell, tell), workshop, wait=wait)
    except ResultClaimed:
        return None
    except AdvbenchError as error:
        return Done(cell, Status.FAILED, str(error), None, time.perf_counter() - started)
    except Exception as error:
        reason = f"{type(error).__name__}: {error} (in process {os.getpid()})"
        return Done(cell, Status.FAILED, reason, None, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if outcome is None:
        return Done(cell, Status.FAILED, "a suite runs each cell on one device: leave out --devices", None, seconds)
    return Done(cell, outcome.record.status, outcome.record.reason, outcome.record.key, seconds)
