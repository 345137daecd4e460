"""How the cells of a suite ended that left no result, kept beside the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advbench.bench import request_identity
from advbench.files import digest
from advbench.results import ResultStore
from advbench.suites.plan import PlannedCell, State, note_alias
from advbench.suites.suite import Suite
from advbench.suites.work import Done
from advbench.types import Status

__all__ = ["Journal"]

SUBJECT = "failures"
"""Of the notes."""


@dataclass(frozen=True)
class Journal:
    """Failures beside the results: a note each, the latest word on its cell, in whichever suite that stands.

    Args:
        store: The results.
        suite: The title of the suite that is run, which its notes say.
    """

    store: ResultStore
    suite: str

    @classmethod
    def of(cls, suite: Suite, store: ResultStore) -> "Journal":
        """The journal that a suite reads, and adds to."""
        return cls(store, suite.title)

    def add(self, planned: PlannedCell, done: Done) -> None:
        """Write one failure down; of a cell that has a result, its record tells, or that of the request it repeats."""
        if planned.request is None:
            return
        identity = request_identity(planned.request.model_dump(mode="json"))
        if done.status is Status.OK:
            self.store.drop_note(SUBJECT, digest(identity))
            if done.key is not None:
                note_alias(self.store, identity, done.key)
            return
        content = {
            "identity": identity,
            "suite": self.suite,
            "cell": str(planned.cell),
            "status": str(done.status),
            "reason": done.reason,
        }
        self.store.write_note(SUBJECT, digest(identity), json.dumps(content))

    def failures(self) -> Mapping[str, str]:
        """Why cells ended without a result, by their request's identity."""
        notes = map(json.loads, self.store.notes(SUBJECT))
        return {note["identity"]: f"{note['status']}: {note['reason']}" for note in notes}

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
