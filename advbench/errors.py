"""Everything that advbench raises on purpose. Each message says what was expected, what came, and what to do.

::

    AdvbenchError
    ├── InvalidConfig        an option or argument that cannot be meant
    │   └── UnknownName      a name that nothing is registered under; suggests the nearest
    ├── InvalidData          images or labels that are missing, corrupt or too few
    ├── InvalidWeights       a checkpoint that is missing, unsafe, of another architecture, or not finite
    ├── AccessDenied         a method touched what its threat model does not grant
    ├── BudgetSpent          a method asked for more queries than its threat model allows
    ├── FitDiverged          a method's training left the finite numbers
    ├── InvalidPerturbation  a method returned images of a wrong shape, not finite, or over their budget
    ├── InvalidState         what a method learnt cannot be stored
    ├── ResultClaimed        another process is making this very result
    └── StorageError         a result or a cached file could not be read or written
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "AccessDenied",
    "AdvbenchError",
    "BudgetSpent",
    "FitDiverged",
    "InvalidConfig",
    "InvalidData",
    "InvalidPerturbation",
    "InvalidState",
    "InvalidWeights",
    "ResultClaimed",
    "StorageError",
    "UnknownName",
]


class AdvbenchError(Exception):
    """The root of the tree: catch this to catch whatever advbench raises on purpose."""


class InvalidConfig(AdvbenchError):
    """An option or argument that cannot be meant.

    Args:
        message: What was expected, what came, what to do.
        option: The command's option that it is about, without its dashes, where that is known.
    """

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class UnknownName(InvalidConfig):
    """A name that nothing is registered under.

    Args:
        kind: What was looked up, such as ``"attack"``.
        name: The name that was asked for.
        known: The names that exist, from which the nearest is suggested.
        option: The command's option that gave the name, or is the name, without its dashes, where that is known.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, option: str | None = None) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        spelt = {known.lower(): known for known in self.known}
        close = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.5)
        shown = self.known if len(self.known) <= 12 else [*self.known[:12], "..."]
        hint = f"did you mean '{spelt[close[0]]}'?" if close else f"known: {', '.join(shown)}"
        super().__init__(f"unknown {kind} '{name}': {hint}", option=option)


class InvalidData(AdvbenchError):
    """Images or labels that are missing, corrupt or too few."""


class InvalidWeights(AdvbenchError):
    """A checkpoint that is missing, unsafe to load, of another architecture, or not finite."""


class AccessDenied(AdvbenchError):
    """A method touched what its threat model does not grant."""


class BudgetSpent(AdvbenchError):
    """A method asked for more queries than its threat model allows."""


class InvalidPerturbation(AdvbenchError):
    """A method returned images of a wrong shape, not finite, or further from the clean ones than its budget."""


class InvalidState(AdvbenchError):
    """What a method learnt is no dictionary of tensors, and so cannot be stored."""


class ResultClaimed(AdvbenchError):
    """Another process is making this very result; wait for it, or do something else first."""


class StorageError(AdvbenchError):
    """A result or a cached file could not be read or written."""


class FitDiverged(AdvbenchError):
    """A method's training left the finite numbers."""
