"""Commands over a suite of a thousand stored cells: wall time, processor time and peak memory, as a user runs them.

    python benchmarks/speed/scale.py                       # 1,000 stored cells
    python benchmarks/speed/scale.py --plan-only --cells 10000

The results are made up: one true result on the digits is stored again under every cell's own key, with the files that
these commands read.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from advbench.bench import Workshop, prepare
from advbench.cli.main import request_of
from advbench.files import write_text
from advbench.progress import SILENT
from advbench.results import ResultStore
from advbench.suites import load_suite
from advbench.suites.work import work

METHODS = ("identity", "noise", "fgsm", "pgd", "mi-fgsm", "ni-fgsm", "apgd-ce", "apgd-dlr", "square", "simba")
EPSILONS = ("1/255", "2/255", "4/255", "8/255", "16/255")
TARGETS = 4
"""Methods, budgets and targets of the suite; its seeds are as many as the cells need."""

TARGET_MODULE = """
import torch

class Small(torch.nn.Module):
    def __init__(self, classes, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.last = torch.nn.Linear(192, classes)

    def forward(self, images):
        return self.last(torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))
""" + "".join(f"\ndef small{number}(classes):\n    return Small(classes, {number})\n" for number in range(TARGETS))


def suite_text(cells: int) -> str:
    seeds = max(1, cells // (len(METHODS) * len(EPSILONS) * TARGETS))
    lines = ['title = "Scale"', f"seeds = {list(range(seeds))}", "[defaults]", "limit = 100"]
    for number in range(TARGETS):
        lines += [f"[targets.small{number}]", f'target = "scale_targets:small{number}"']
    for epsilon in EPSILONS:
        lines += [f'[budgets."{epsilon}"]', f'epsilon = "{epsilon}"']
    for method in METHODS:
        lines += [f"[methods.{method}]", f'attack = "{method}"']
    return "\n".join(lines) + "\n"


def fabricate(suite: Path, store: ResultStore) -> int:
    """Store a result for every cell; returns how many."""
    workshop = Workshop()
    requests = [request_of(cell.arguments) for cell in load_suite(suite).cells()]
    quick = next(request for request in requests if request.attack == "fgsm")
    done = work(0, quick.model_copy(update={"results": store.location}), workshop, lambda _: None, wait=True)
    if done is None or done.key is None:
        raise click.ClickException(f"no result to store again: {done}")
    record = store.find(done.key)
    samples, examples = store.samples(record), store.tensors(record, "examples")
    for request in requests:
        spec = prepare(request, SILENT, workshop).spec
        changes = {"key": spec.key, "spec": spec, "request": request.model_dump(mode="json")}
        store.save(record.model_copy(update=changes), samples, {"examples": examples})
    return len(requests)


MEASURED = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
wall, used = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
print(json.dumps([wall, used, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)]))
"""
"""A small process between this one and a command, which would else count as at least as large as this one."""


def measure(words: list[str], folder: Path) -> tuple[float, float, float, int]:
    """Seconds on the wall and of processors, peak MiB and exit status of one command."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "advbench", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    wall, used, size, status = json.loads(done.stdout)
    return wall, used, size, status


@click.command()
@click.option("--cells", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--plan-only", is_flag=True, help="Store nothing, and plan alone.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep everything here, and use it again.")
@click.option("--repeats", default=2, show_default=True, help="The fastest is shown: the first warms the disk's cache.")
def main(cells: int, plan_only: bool, folder: Path | None, repeats: int) -> None:
    """Measure the commands."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = (folder or Path(scratch)).absolute()
        suite, store = folder / "scale.toml", ResultStore(folder / "results")
        write_text(suite, suite_text(cells))
        write_text(folder / "scale_targets.py", TARGET_MODULE)
        sys.path.insert(0, str(folder))
        if not plan_only and not store.keys():
            click.echo(f"{fabricate(suite, store)} results stored")
        at = ["--results", store.location]
        commands = [["suite", "plan", str(suite), *at]]
        if not plan_only:
            commands += [
                ["suite", "status", str(suite), *at],
                ["suite", "run", str(suite), *at],
                ["compare", *at],
                ["report", str(suite), *at, "--html", str(folder / "page.html")],
                ["query", "select attack, avg(valid_accuracy) from results group by all", *at],
            ]
        click.echo(f"{sum(1 for _ in load_suite(suite).cells())} cells, {len(store.keys())} stored")
        for words in commands:
            wall, used, size, status = min(measure(words, folder) for _ in range(repeats))
            name = " ".join(words[: 2 if words[0] == "suite" else 1])
            click.echo(f"  {name:13} {wall:6.2f} s  {used:6.2f} s of processors  {size:6.0f} MiB  exit {status}")
        if not plan_only:
            click.echo(f"  the page has {(folder / 'page.html').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
