"""Runs cells in worker processes of this machine, each of which keeps what it has loaded."""

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from advbench.bench import RunRequest, Workshop
from advbench.suites.work import POLL_SECONDS, RETRIES, Done, Event, work
from advbench.types import Status

__all__ = ["processors", "run_locally"]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_locally(requests: Mapping[int, RunRequest], tell: Callable[[Event], None], *, workers: int) -> Iterator[Done]:
    """Run cells in processes of this machine: an ``Executor``.

    Args:
        requests: By the cells' numbers.
        tell: Told how far the cells are.
        workers: Processes; each gets its share of the processors.
    """
    attempts = dict.fromkeys(requests, 0)
    waiting = list(requests)
    while waiting:
        alone = [number for number in waiting if attempts[number]]  # a cell whose worker died is tried by itself
        batch = alone[:1] or waiting
        survived = set()
        for done in _pool(batch, requests, 1 if alone else min(workers, len(batch)), workers, tell):
            survived.add(done.cell)
            yield done
        left = [number for number in waiting if number not in survived]
        for number in left:
            if number in batch:
                attempts[number] += 1
        given_up = [number for number in left if attempts[number] > RETRIES]
        for number in given_up:
            reason = f"its worker process died {attempts[number]} times: killed, or out of memory; try fewer --workers"
            yield Done(number, Status.FAILED, reason, None, 0.0)
        waiting = [number for number in left if number not in given_up]


def _pool(
    numbers: Sequence[int],
    requests: Mapping[int, RunRequest],
    workers: int,
    share: int,
    tell: Callable[[Event], None],
) -> Iterator[Done]:
    """Give what ended until all has, or until a worker died."""
    spawn = multiprocessing.get_context("spawn")
    events: Any = spawn.Queue()
    devices = spawn.SimpleQueue()
    for number in range(workers):
        devices.put(number)
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start, initargs=(events, devices, max(1, processors() // share))
    ) as pool:
        futures = {pool.submit(_run, number, requests[number], False): number for number in numbers}
        try:
            while futures:
                ended, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                _pass_on(events, tell)
                for future in ended:
                    number, done = futures.pop(future), future.result()
                    if done is not None:
                        yield done
                    else:
                        futures[pool.submit(_run, number, requests[number], True)] = number
        except BrokenProcessPool:
            return
        except BaseException:
            _stop(pool)
            raise


def _pass_on(events: Any, tell: Callable[[Event], None]) -> None:
    while True:
        try:
            tell(events.get_nowait())
        except queue.Empty:
            return


def _stop(pool: ProcessPoolExecutor) -> None:
    """On Ctrl-C, end the workers at once: their checkpoints are on disk."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


_events: Any = None
_workshop = Workshop()


def _start(events: Any, devices: Any, threads: int) -> None:
    """Set a fresh worker up: its share of the processors, and its own accelerator where there are several."""
    global _events
    import torch

    threading.Thread(target=_die_with_parent, daemon=True).start()
    _events = events
    torch.set_num_threads(threads)
    number = devices.get()
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _die_with_parent() -> None:
    """A command that was killed leaves no worker behind, which would wait for more for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(cell: int, request: RunRequest, wait_for_others: bool) -> Done | None:
    return work(cell, request, _workshop, _events.put, wait=wait_for_others)
