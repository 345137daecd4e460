"""Two nodes of a Ray cluster beside one worker on one core, and what a cell costs beside its work.

    python benchmarks/speed/executors.py                          # 32 cells of PGD, 3 turns of each executor
    python benchmarks/speed/executors.py --cells 10 --images 100 --repeats 1

Both nodes are on this machine, a processor each; the local worker is pinned to one. Every turn starts from an empty
folder of results, ends with the last result, and includes the start of its workers; the target is trained before, and
the cluster is up. The overhead is the time from one cell's end to the next on one worker, less the method's own
seconds in its record, for cells that do next to nothing (noise on 10 images).
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from advbench.bench import RunRequest, run_cell
from advbench.cli.main import request_of
from advbench.progress import SILENT
from advbench.results import ResultStore
from advbench.suites import Executor, run_locally, run_on_ray
from advbench.types import Status

TARGET = ["--target", "resnet18", "--target-epochs", "3", "--target-images", "300"]


def requests_of(attack: str, cells: int, images: int, results: Path) -> dict[int, RunRequest]:
    """Cells that differ in their budget alone: one target serves them all."""
    words = ["--attack", attack, *TARGET, "--device", "cpu", "--limit", str(images), "--results", str(results)]
    return {number: request_of([*words, "--epsilon", str(0.3 - 0.001 * number)]) for number in range(cells)}


def timed(execute: Executor, attack: str, cells: int, images: int) -> tuple[float, list[float]]:
    """Seconds in all, and each cell's from the end of the one before it, less its method's own."""
    with tempfile.TemporaryDirectory() as folder:
        requests = requests_of(attack, cells, images, Path(folder))
        started = last = time.perf_counter()
        gaps = {}
        for done in execute(requests, lambda _: None):
            if done.status is not Status.OK or done.key is None:
                raise click.ClickException(f"a cell ended {done.status}: {done.reason}")
            now = time.perf_counter()
            gaps[done.key], last = now - last, now
        metrics = {record.key: record.metrics for record in ResultStore(folder).records()}
        own = {key: each.fit_seconds + each.ms_per_image * images / 1000 for key, each in metrics.items() if each}
        return last - started, [gap - own[key] for key, gap in gaps.items()]


@contextmanager
def pinned() -> Iterator[None]:
    """This process and what it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_worker(attack: str, cells: int, images: int) -> tuple[float, list[float]]:
    with pinned():
        return timed(partial(run_locally, workers=1), attack, cells, images)


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Nodes on this machine, a processor each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1)
        yield made.address
    finally:
        made.shutdown()


@click.command()
@click.option("--cells", default=32, show_default=True)
@click.option("--images", default=300, show_default=True, help="A cell.")
@click.option("--repeats", default=3, show_default=True)
def main(cells: int, images: int, repeats: int) -> None:
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:  # trains the target, where it is not in the cache
        run_cell(requests_of("noise", 1, 10, Path(folder))[0], SILENT)
    seconds: dict[str, list[float]] = {"one local worker on one core": [], "two Ray nodes of one core": []}
    local, nodes = seconds.values()
    with cluster(2) as address:
        on_ray = partial(run_on_ray, address=address, processors=1, accelerators=0)
        for _ in range(repeats):
            local.append(one_worker("pgd", cells, images)[0])
            nodes.append(timed(on_ray, "pgd", cells, images)[0])
    with cluster(1) as address:  # one after the other, so that the time between two ends is one cell's
        on_ray = partial(run_on_ray, address=address, processors=1, accelerators=0)
        beside = [one_worker("noise", 40, 10)[1], timed(on_ray, "noise", 40, 10)[1]]
    table = Table(title=f"{cells} cells of PGD on {images} images, {repeats} turns; load {os.getloadavg()[0]:.1f}")
    for column in ("by", "seconds", "min - max", "faster", "ms beside the work, a cell"):
        table.add_column(column, justify="right")
    for (name, taken), over in zip(seconds.items(), beside, strict=True):
        ratios = [one / other for one, other in zip(local, taken, strict=True)]
        table.add_row(
            name,
            f"{statistics.median(taken):.1f}",
            f"{min(taken):.1f} - {max(taken):.1f}",
            f"{statistics.median(ratios):.2f} x",
            f"{1000 * statistics.median(over):.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
