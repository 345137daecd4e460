"""How the cells of a suite ended that left no result, kept beside the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advbench.suites.plan import PlannedCell, State, request_identity
from advbench.suites.suite import Suite
from advbench.suites.work import Done
from advbench.types import Status

__all__ = ["Journal"]


@dataclass(frozen=True)
class Journal:
    """One suite's outcomes in one folder of results, a line each.

    Args:
        path: The file.
    """

    path: Path

    @classmethod
    def of(cls, suite: Suite, results: Path) -> "Journal":
        """The journal of a suite."""
        return cls(results / ".suites" / f"{suite.identity}.jsonl")

    def add(self, planned: PlannedCell, done: Done) -> None:
        """Write one outcome down; a line is appended whole, whoever else writes."""
        if planned.request is None:
            return
        line = {
            "cell": str(planned.cell),
            "identity": request_identity(planned.request.model_dump(mode="json")),
            "status": str(done.status),
            "reason": done.reason,
            "key": done.key,
            "seconds": round(done.seconds, 3),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as opened:
            opened.write(json.dumps(line) + "\n")

    def failures(self) -> Mapping[str, str]:
        """Why cells have no result, by their request's identity: the latest word on each."""
        if not self.path.is_file():
            return {}
        latest = {}
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed
                continue
            latest[entry["identity"]] = entry
        return {
            identity: f"{entry['status']}: {entry['reason']}"
            for identity, entry in latest.items()
            if entry["status"] != Status.OK
        }

    def failures_of(self, planned: Sequence[PlannedCell]) -> list[tuple[PlannedCell, str]]:
        """The cells that are still to run because they ended without a result, and why."""
        failures = self.failures()
        found = []
        for cell in planned:
            if cell.request is not None and cell.state is State.TO_RUN:
                reason = failures.get(request_identity(cell.request.model_dump(mode="json")))
                if reason is not None:
                    found.append((cell, reason))
        return found
