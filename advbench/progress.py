"""How long work tells whoever waits for it what it is doing, without knowing who that is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["SILENT", "Progress", "Silent", "Task"]


class Task(Protocol):
    """One piece of work that is under way."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Say that ``steps`` more are done, with the latest figures (losses, accuracies) by name."""


class Progress(Protocol):
    """Where work is announced."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:  # noqa: ARG002
        """Announce work of ``total`` steps for as long as the context lasts."""
        yield _NOWHERE

    def say(self, message: str) -> None:
        """Show one line, such as a warning."""


class _Nowhere:
    def advance(self, steps: int = 1, **figures: float) -> None:
        pass


_NOWHERE = _Nowhere()


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:  # noqa: ARG002
        """Announce nothing."""
        yield _NOWHERE

    def say(self, message: str) -> None:
        """Show nothing."""


SILENT = Silent()
