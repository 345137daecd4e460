"""From a suite to what is to be run: each cell's request, whether it can run or was run, how long it may take."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from advbench.bench import RunRequest, build_method, check_names, request_identity, why_incompatible
from advbench.errors import AdvbenchError, InvalidConfig
from advbench.files import code_digest, digest
from advbench.results import CellRecord, ResultStore
from advbench.suites.suite import Suite, SuiteCell
from advbench.types import Status

__all__ = ["Parse", "PlannedCell", "State", "note_alias", "plan"]

ALIASES = "aliases"
"""Of the notes: requests that are worded otherwise than the one whose result answers them."""

Parse = Callable[[list[str]], RunRequest]
"""From what follows ``advbench run`` on a command line to the request."""


class State(StrEnum):
    """Where one cell stands."""

    STORED = "stored"
    TO_RUN = "to run"
    INCOMPATIBLE = "incompatible"
    INVALID = "invalid"


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a plan.

    Args:
        cell: Its place and options.
        state: Where it stands.
        request: What is to be run; None where the options are not understood.
        reason: Why it cannot run.
        record: Its stored result.
        seconds: How long it is likely to take, from stored results like it; None where there is none.
    """

    cell: SuiteCell
    state: State
    request: RunRequest | None = None
    reason: str | None = None
    record: CellRecord | None = None
    seconds: float | None = None


def plan(suite: Suite, parse: Parse, store: ResultStore) -> list[PlannedCell]:
    """Say of each cell what is to happen to it. Nothing is trained, and no data is read.

    Args:
        suite: What to compare.
        parse: Reads each cell's options.
        store: Where results are, or will be.
    """
    records = store.records()
    code = code_digest()
    usable = {record.key: record for record in records if record.status is Status.OK and record.spec.code == code}
    stored = {request_identity(record.request): record for record in usable.values()}
    for identity, key in map(json.loads, store.notes(ALIASES)):
        if key in usable:
            stored.setdefault(identity, usable[key])
    refused = {
        request_identity(record.request): record.reason
        for record in records
        if record.status is Status.INCOMPATIBLE and record.spec.code == code
    }
    times = _times(records)
    return [_planned(suite, cell, parse, store, stored, refused, times) for cell in suite.cells()]


def note_alias(store: ResultStore, identity: str, key: str) -> None:
    """Remember whose result answered a request, where another request had made it."""
    record = store.finished(key)
    if record is not None and request_identity(record.request) != identity:
        store.write_note(ALIASES, digest([identity, record.spec.code]), json.dumps([identity, key]))


def _planned(
    suite: Suite,
    cell: SuiteCell,
    parse: Parse,
    store: ResultStore,
    stored: Mapping[str, CellRecord],
    refused: Mapping[str, str | None],
    times: Mapping[tuple[str, ...], float],
) -> PlannedCell:
    try:
        request = parse(cell.arguments).model_copy(update={"results": store.location})
        build_method(request.attack, dict(request.options))
        reason = why_incompatible(request)
        if reason is not None:
            return PlannedCell(cell, State.INCOMPATIBLE, request, reason)
        dumped = request.model_dump(mode="json")
        identity = request_identity(dumped)
        if identity in stored:
            return PlannedCell(cell, State.STORED, request, record=stored[identity])
        if identity in refused:  # by the target, which only a run asks
            return PlannedCell(cell, State.INCOMPATIBLE, request, refused[identity])
        check_names(request)  # last, because it takes a while to import what knows them all
    except AdvbenchError as error:
        return PlannedCell(cell, State.INVALID, reason=_located(suite, cell, error))
    seconds = next((times[like] for like in _likes(dumped) if like in times), None)
    return PlannedCell(cell, State.TO_RUN, request, seconds=seconds)


def _located(suite: Suite, cell: SuiteCell, error: AdvbenchError) -> str:
    """What is wrong with a cell, with the line of the option that it is about."""
    option = error.option if isinstance(error, InvalidConfig) else None
    return suite.located(cell, option, str(error)) if option and option in cell.options else str(error)


def _likes(request: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What other runs are like this one, the most alike first."""
    attack, target, dataset = request["attack"], request["target"]["architecture"], request["dataset"]["name"]
    size = f"{request['dataset']['image_size']} px"
    return [
        (attack, target, dataset, size, request["goal"]),
        (attack, target, dataset, size),
        (attack, dataset, size),
        (attack, dataset),
    ]


def _times(records: Iterable[CellRecord]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        if record.metrics is not None:
            images = record.spec.dataset.evaluation_images
            seconds = record.metrics.fit_seconds + record.metrics.ms_per_image * images / 1000
            for like in _likes(record.request):
                found[like].append(seconds)
    return {like: median(seconds) for like, seconds in found.items()}
