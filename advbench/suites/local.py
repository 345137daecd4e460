"""Runs cells in worker processes of this machine, each of which keeps what it has loaded."""

import multiprocessing
import os
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import cycle
from typing import Any

from advbench.bench import RunRequest, Workshop
from advbench.suites.work import POLL_SECONDS, RETRIES, Done, Event, work
from advbench.types import Status

__all__ = ["run_locally"]

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_locally(
    requests: Mapping[int, RunRequest], tell: Callable[[Event], None], *, workers: int | None = None
) -> Iterator[Done]:
    """Run cells in processes of this machine: an ``Executor``.

    Args:
        requests: By the cells' numbers.
        tell: Told how far the cells are.
        workers: Processes; each gets its share of the processors, and of the accelerators. None starts one for each
            accelerator where cells would use one, else one for each processor.
    """
    accelerators = _accelerators(requests.values())
    workers = min(workers or len(accelerators), len(requests))
    threads = max(1, _processors() // max(1, workers))
    seen = cycle(accelerators)
    idle = [_Worker(next(seen), threads) for _ in range(workers)]
    running: dict[Future[Done | None], tuple[int, _Worker]] = {}
    waiting = deque((number, False) for number in requests)
    suspects: deque[int] = deque()  # cells whose worker died are left for last, each by itself in a fresh one
    deaths: Counter[int] = Counter()
    try:
        while waiting or suspects or running:
            if not waiting and not running:
                _stop(idle)
                idle = [_Worker(next(seen), threads)]
                waiting.append((suspects.popleft(), False))
            while idle and waiting:
                worker, (number, for_others) = idle.pop(), waiting.popleft()
                running[worker.begin(number, requests[number], for_others)] = number, worker
            ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for _, worker in running.values():
                worker.pass_on(tell)
            for future in ended:
                number, worker = running.pop(future)
                idle.append(worker)
                if isinstance(future.exception(), BrokenProcessPool):
                    deaths[number] += 1
                    if deaths[number] > RETRIES:
                        yield _given_up(number)
                    else:
                        suspects.append(number)
                        tell(Event(number, "its worker died: left for last"))
                elif (done := future.result()) is None:
                    waiting.append((number, True))
                else:
                    yield done
    finally:
        _stop([*idle, *(worker for _, worker in running.values())])


def _accelerators(requests: Iterable[RunRequest]) -> list[str | None]:
    """For each worker that there is room for, CUDA's name of the only accelerator that it is to see, or None."""
    runtimes = {request.runtime for request in requests}
    by_processor: list[str | None] = [None] * _processors()
    if all(runtime.device == "cpu" for runtime in runtimes):
        return by_processor
    if any(runtime.devices > 1 or runtime.device not in ("auto", "cpu", "cuda") for runtime in runtimes):
        return [None]  # cells that take several accelerators, or name theirs, are run one after the other
    import torch  # lazy: takes seconds

    count = torch.cuda.device_count()
    named = os.environ.get(_VISIBLE)
    names: list[str | None] = [*named.split(",")[:count]] if named else [str(place) for place in range(count)]
    return names or by_processor


def _given_up(cell: int) -> Done:
    reason = f"its worker process died {RETRIES + 1} times: killed, or out of memory; try fewer --workers"
    return Done(cell, Status.FAILED, reason, None, 0.0)


class _Worker:
    """One process that is at one cell at a time, so that its death is known by its cell; and another where it died.

    Args:
        accelerator: The only one that it is to see, or None for whatever there is.
        threads: Of computation.
    """

    def __init__(self, accelerator: str | None, threads: int) -> None:
        self._accelerator, self._threads = accelerator, threads
        self._open()

    def _open(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._events: Any = spawn.Queue()
        self._pool = ProcessPoolExecutor(1, spawn, _start, (self._events, self._accelerator, self._threads))

    def begin(self, cell: int, request: RunRequest, for_others: bool) -> "Future[Done | None]":
        try:
            return self._pool.submit(_run, cell, request, for_others)
        except BrokenProcessPool:
            self._open()
            return self._pool.submit(_run, cell, request, for_others)

    def pass_on(self, tell: Callable[[Event], None]) -> None:
        while True:
            try:
                tell(self._events.get_nowait())
            except queue.Empty:
                return

    def stop(self) -> None:
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _stop(workers: Iterable[_Worker]) -> None:
    """End workers at once: results and checkpoints are on disk."""
    for worker in workers:
        worker.stop()


_events: Any = None
_workshop = Workshop()


def _start(events: Any, accelerator: str | None, threads: int) -> None:
    """Set a fresh worker up: its share of the processors, and its accelerator, before CUDA counts what there is."""
    global _events
    import torch

    threading.Thread(target=_die_with_parent, daemon=True).start()
    _events = events
    torch.set_num_threads(threads)
    if accelerator is not None:
        os.environ[_VISIBLE] = accelerator


def _die_with_parent() -> None:
    """A command that was killed leaves no worker behind, which would wait for more for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(cell: int, request: RunRequest, wait_for_others: bool) -> Done | None:
    return work(cell, request, _workshop, _events.put, wait=wait_for_others)
