"""One cell of what is reported."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from advbench.results import CellRecord

__all__ = ["Run", "method_names"]


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


def method_names(runs: Sequence[Run]) -> dict[str, str]:
    """What their suite calls the methods, by the results' keys."""
    return {
        run.record.key: str(run.names["method"]) for run in runs if run.record is not None and "method" in run.names
    }
