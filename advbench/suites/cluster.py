"""Runs cells as tasks of a Ray cluster, which gives each its resources and tries it again where its worker died."""

import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advbench.bench import RunRequest, Workshop
from advbench.errors import AdvbenchError, InvalidConfig, StorageError
from advbench.files import code_digest
from advbench.remote import is_url
from advbench.suites.work import POLL_SECONDS, RETRIES, Done, Event, work
from advbench.types import Status

__all__ = ["run_on_ray"]


@dataclass(frozen=True)
class _Place:
    """What a worker has to have in common with the command.

    Args:
        folder: The command's working folder, which relative paths are from.
        mark: A file in the folder of results, by which a worker knows that it sees the same; None for a URL.
        home: The command's ``ADVBENCH_HOME``, where that is set.
        code: Of the package.
        threads: Of computation.
    """

    folder: Path
    mark: Path | None
    home: str | None
    code: str
    threads: int

    def settle(self) -> None:
        """Make this worker's surroundings the command's.

        Raises:
            InvalidConfig: They cannot be.
        """
        import torch

        node = os.uname().nodename
        if code_digest() != self.code:
            raise InvalidConfig(f"node {node} has another version of advbench: install the same one on all nodes")
        if self.home is not None:
            os.environ["ADVBENCH_HOME"] = self.home
        if self.folder.is_dir():
            os.chdir(self.folder)
        if self.mark is not None and not self.mark.exists():
            results = self.mark.parents[1]
            raise InvalidConfig(f"node {node} does not see {results}: name a folder that all nodes share, or a URL")
        torch.set_num_threads(self.threads)


class _Board:
    """What cells last told, for the command to fetch: an actor."""

    def __init__(self) -> None:
        self._events: dict[int, Event] = {}

    def tell(self, event: Event) -> None:
        self._events[event.cell] = event

    def take(self) -> list[Event]:
        taken, self._events = list(self._events.values()), {}
        return taken


def run_on_ray(
    requests: Mapping[int, RunRequest],
    tell: Callable[[Event], None],
    *,
    address: str,
    processors: int,
    accelerators: float | None,
) -> Iterator[Done]:
    """Run cells on an existing cluster: an ``Executor``.

    Args:
        requests: By the cells' numbers, at least one; all of one store.
        tell: Told how far the cells are.
        address: Of the cluster, ``HOST:PORT``; ``auto`` is the one that this machine is part of.
        processors: That a cell gets.
        accelerators: That a cell gets, or a part of one; None gives one where the cluster has any and cells may use it.

    Raises:
        InvalidConfig: Ray is not installed, there is no cluster, or none of its nodes has that much.
    """
    ray = _connected(address)
    try:
        if accelerators is None and all(request.runtime.device == "cpu" for request in requests.values()):
            accelerators = 0.0
        task = ray.remote(**_resources(ray.nodes(), processors, accelerators), max_retries=RETRIES)(_run)
        board = _board(ray)
        mark = _mark(next(iter(requests.values())).results)
        place = ray.put(_Place(Path.cwd(), mark, _home(), code_digest(), processors))

        def submit(number: int, wait: bool) -> Any:
            return task.remote(place, board, number, requests[number], wait)

        yield from _collect(ray, {submit(number, False): number for number in requests}, submit, board, tell)
    finally:
        ray.shutdown()


def _collect(
    ray: Any, futures: dict[Any, int], submit: Callable[[int, bool], Any], board: Any, tell: Callable[[Event], None]
) -> Iterator[Done]:
    while futures:
        ended, _ = ray.wait(list(futures), num_returns=len(futures), timeout=POLL_SECONDS)
        for event in ray.get(board.take.remote()):
            tell(event)
        for future in ended:
            number = futures.pop(future)
            try:
                done = ray.get(future)
            except ray.exceptions.RayTaskError as error:
                reason = f"{type(error.cause).__name__}: {error.cause}"
                done = Done(number, Status.FAILED, reason, None, 0.0)
            except ray.exceptions.RayError as error:
                reason = f"its worker died {RETRIES + 1} times: {str(error).splitlines()[0]}"
                done = Done(number, Status.FAILED, reason, None, 0.0)
            if done is not None:
                yield done
            else:
                futures[submit(number, True)] = number


def _board(ray: Any) -> Any:
    """A board on the command's own machine, which comes back where it dies."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    here = strategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(**options)(_Board).remote()


def _mark(results: str) -> Path | None:
    """A file by which workers know the folder of results, made the first time that it is needed."""
    if is_url(results):
        return None
    folder = Path(results).absolute() / ".work"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = next(folder.glob("mark-*"), folder / f"mark-{uuid.uuid4().hex}")
        mark.touch()
    except OSError as error:
        raise StorageError(f"cannot write to {results}: {error.strerror}; name another --results") from error
    return mark


def _connected(address: str) -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise InvalidConfig("--executor ray needs Ray: pip install 'advbench[ray]'") from error
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InvalidConfig(
            f"no Ray cluster at '{address}': {reason}; start one with 'ray start --head', or name its --address"
        ) from error
    return ray


def _resources(nodes: list[dict[str, Any]], processors: int, accelerators: float | None) -> dict[str, float]:
    """What to ask for a cell; refused where it would be waited for for ever."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    if accelerators is None:
        accelerators = float(any(node.get("GPU", 0) for node in there))
    if not any(node.get("CPU", 0) >= processors and node.get("GPU", 0) >= accelerators for node in there):
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in there)
        raise InvalidConfig(f"no node has {processors} CPUs and {accelerators:g} GPUs for a cell: they have {most}")
    return {"num_cpus": processors, "num_gpus": accelerators}


def _home() -> str | None:
    """The command's home for all nodes, a folder or a URL, where it was named; else each node has its own."""
    named = os.environ.get("ADVBENCH_HOME")
    return named if not named or is_url(named) else str(Path(named).absolute())


_workshop = Workshop()


def _run(place: _Place, board: Any, cell: int, request: RunRequest, wait: bool) -> Done | None:
    try:
        place.settle()
    except AdvbenchError as error:
        return Done(cell, Status.FAILED, str(error), None, 0.0)
    return work(cell, request, _workshop, board.tell.remote, wait=wait)
