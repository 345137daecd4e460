"""What the harness costs a cell beside its method and the target's passes.

    python benchmarks/speed/harness.py                    # 51 cells: identity, noise and fgsm, 17 seeds each
    python benchmarks/speed/harness.py --cells 300 --limit 100
    python benchmarks/speed/harness.py --profile          # and where the rest goes

One worker runs many small cells on one target, as a suite does; the clock of the overhead stands still while a method
or the target is at work. What is left is preparing, checking, measuring, aggregating and storing. The first cell, which
loads the data and makes the target, is not counted.
"""

import cProfile
import functools
import pstats
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from advbench.bench import Workshop
from advbench.cli.main import request_of
from advbench.methods.fgsm import FGSM
from advbench.methods.identity import Identity
from advbench.methods.noise import Noise
from advbench.suites.work import work
from advbench.targets import ModuleTarget
from advbench.types import Status

ATTACKS = ("identity", "noise", "fgsm")
WATCHED = ((ModuleTarget, ("scores", "jacobian")), *((kind, ("fit", "perturb")) for kind in (Identity, Noise, FGSM)))


def now() -> NDArray[np.float64]:
    """Seconds: of the clock on the wall, and of this process's processors."""
    return np.array([time.perf_counter(), time.process_time()])


class Stopwatch:
    """The time spent in watched calls, each moment counted once however deep they are nested: wall and processor."""

    def __init__(self) -> None:
        self.spent, self._depth = np.zeros(2), 0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*arguments: Any, **options: Any) -> Any:
            self._depth += 1
            started = now()
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.spent += now() - started

        return watched


def measure(target: str, cells: int, limit: int, results: str) -> NDArray[np.float64]:
    """Milliseconds, wall and processor, of each cell but the first, in all and in the harness: ``(cells, 2, 2)``."""
    watch, workshop = Stopwatch(), Workshop()
    found = []
    for kind, names in WATCHED:
        for name in names:
            setattr(kind, name, watch.watch(getattr(kind, name)))
    for number in range(cells + 1):
        options = {"attack": ATTACKS[number % len(ATTACKS)], "target": target, "target-epochs": 1, "epsilon": "0.1",
                   "limit": limit, "seed": 0, "results": results, "device": "cpu"}  # fmt: skip
        request = request_of([f"--{name}={value}" for name, value in options.items()])
        # The target's training takes the seed as well; here all cells are to share it.
        before, started = watch.spent.copy(), now()
        done = work(number, request.model_copy(update={"seed": number}), workshop, lambda _: None, wait=True)
        if done is None or done.status is not Status.OK:
            raise click.ClickException(f"cell {number} left no result: {done}")
        whole = now() - started
        found.append([whole, whole - (watch.spent - before)])
    return 1000 * np.array(found[1:])


@click.command()
@click.option("--target", default="resnet18", show_default=True)
@click.option("--cells", default=51, show_default=True, type=click.IntRange(1))
@click.option("--limit", default=100, show_default=True, help="Images a cell.")
@click.option("--profile", is_flag=True, help="Show the calls that took longest.")
def main(target: str, cells: int, limit: int, profile: bool) -> None:
    """Time cells less their methods and the target's passes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        profiler = stack.enter_context(cProfile.Profile()) if profile else None
        found = measure(target, cells, limit, str(Path(folder)))
    click.echo(f"{cells} cells of {limit} images on {target}, one worker, one thread; ms, median [lowest, highest]")
    for row, name in enumerate(("whole cell", "harness alone")):
        for column, clock in enumerate(("wall", "processor")):
            each = found[:, row, column]
            click.echo(f"  {name:13}  {clock:9}  {np.median(each):6.1f} [{each.min():.1f}, {each.max():.1f}]")
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
