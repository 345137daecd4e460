"""One cell of what is reported."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from advbench.results import CellRecord

__all__ = ["Run", "each_once", "method_names"]


class Run(BaseModel):
    """One cell of what is reported.

    Args:
        names: Its place on each axis of its suite.
        command: What makes its result.
        state: ``stored``, or why there is no result.
        reason: Why there is none.
        record: Its result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, str | int]
    command: str
    state: str
    reason: str | None = None
    record: CellRecord | None = None

    @property
    def name(self) -> str:
        """Its place, in words."""
        return ", ".join(map(str, self.names.values()))


def each_once(records: Iterable[CellRecord]) -> list[CellRecord]:
    """Results without those that came before: two cells that ask for the same have one."""
    return list({record.key: record for record in records}.values())


def method_names(found: Iterable[tuple[Mapping[str, Any], CellRecord]]) -> dict[str, str]:
    """What their suite calls the methods, by the results' keys; all its names for one, where it has several.

    Args:
        found: Each cell's place on the axes of its suite, and its result.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for place, record in found:
        if "method" in place:
            names[record.key].append(str(place["method"]))
    return {key: " = ".join(dict.fromkeys(own)) for key, own in names.items()}
