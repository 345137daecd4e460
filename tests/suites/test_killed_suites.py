"""Suites under SIGKILL, here and on a Ray cluster: the end is that of an undisturbed run, and nothing is done twice."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SUITE = """\
title = "Short cells and long ones"
seeds = [0, 1, 2, 3]

[defaults]
limit = 40
device = "cpu"
epsilon = 0.3
target-epochs = 5

[targets.small]
target = "quick_targets:plain"

[methods.noise]
attack = "noise"

[methods.prompt]
attack = "prompt"

[methods.pgn-b]
attack = "pgn-b"
epochs = 3
fit-images = 100
backbone = "scratch"
decoder-width = 0.05
"""
CELLS = 12
TIMINGS = ("fit_seconds", "ms_per_image")


class Machine:
    """A suite with a home and a folder of results of their own."""

    def __init__(self, root: Path, *options: str) -> None:
        self.results, self.home = root / "results", root / "home"
        root.mkdir()
        file = root / "suite.toml"
        file.write_text(SUITE)
        self._command = [sys.executable, "-m", "advbench", "suite", "run", str(file), "--results", str(self.results)]
        self._command += options
        self._seen: dict[Path, int] = {}

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"ADVBENCH_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self._command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str] | None = None) -> dict[str, Any]:
        """Run to the end, and give all results without their timings."""
        process = process or self.start()
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        assert f"{CELLS} cells: {CELLS} stored" in said
        self.check()
        assert {path.name for path in self.results.glob(".*")} <= {".work", ".notes", ".probe"}
        return {path.parent.name: comparable(path) for path in self.results.glob("*/record.json")}

    def check(self) -> int:
        """What is listed is whole, and what was there before has not been made again; says how much there is."""
        weights = [path for path in self.home.glob("classifiers/*/weights.safetensors") if path.parent.name[0] != "."]
        records = [path for path in self.results.glob("*/record.json") if path.parent.name[0] != "."]
        for path in records:
            record = json.loads(path.read_text())
            assert record["status"] == "ok"
            assert all((path.parent / name).is_file() for name in record["files"])
        now = {path: path.stat().st_mtime_ns for path in [*weights, *records]}
        assert self._seen.items() <= now.items()
        self._seen = now
        return len(records)


def comparable(path: Path) -> Any:
    record = json.loads(path.read_text())
    metrics = {name: value for name, value in record["metrics"].items() if name not in TIMINGS}
    return {"metrics": metrics, "history": record["history"], "state": record["files"].get("state.safetensors")}


def all_gone(group: int) -> bool:
    """Whether every process of a command is gone, some seconds after its first was killed."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@dataclass(frozen=True)
class Undisturbed:
    """What a run that nobody kills finds, and how many seconds it takes."""

    results: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(factories: str, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    started = time.perf_counter()
    results = Machine(tmp_path_factory.mktemp("undisturbed") / "machine", "--workers", "2").finish()
    return Undisturbed(results, time.perf_counter() - started)


def killed(kills: int, root: Path, undisturbed: Undisturbed, *options: str) -> None:
    """Kill the command at random moments; where it comes to its end before that often, begin another.

    Only its first process is killed: the others are to go by themselves.
    """
    chance, left, number = random.Random(0), kills, 0
    machine = Machine(root / "0", *options)
    while left:
        process = machine.start()
        try:
            process.wait(chance.uniform(0.05, 0.9) * undisturbed.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            left -= 1
            assert all_gone(process.pid)
            print(f"kill {kills - left}: {machine.check()} of {CELLS} results", flush=True)
            continue
        assert machine.finish(process) == undisturbed.results
        number += 1
        machine = Machine(root / str(number), *options)
    assert machine.finish() == undisturbed.results


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times(tmp_path: Path, undisturbed: Undisturbed) -> None:
    killed(20, tmp_path, undisturbed, "--workers", "2")


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster of two nodes on this machine, and its address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()
        del cluster
        gc.collect()  # Ray leaves files open, and the test that made it is the one that overlooks it


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_killed_twenty_times_on_a_cluster(tmp_path: Path, undisturbed: Undisturbed) -> None:
    pytest.importorskip("ray")
    with two_nodes() as cluster:
        killed(20, tmp_path, undisturbed, "--executor", "ray", "--address", cluster.address)


def kill_a_worker(cluster: Any) -> None:
    """Kill one process that is at a cell, on whichever node."""
    raylets = [info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]]
    children = [int(child) for raylet in raylets for child in children_of(raylet)]
    at_work = [child for child in children if Path(f"/proc/{child}/cmdline").read_text().startswith("ray::_run")]
    assert at_work
    os.kill(at_work[0], signal.SIGKILL)


def children_of(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def kill_a_node(cluster: Any) -> None:
    """Kill all processes of the node that the command is not on, and give the cluster another after a while."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    time.sleep(3)
    cluster.add_node(num_cpus=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kill", [kill_a_worker, kill_a_node])
def test_a_cluster_that_loses_a_part(kill: Callable[[Any], None], tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Twice mid-suite, after some results and before the last: the command itself goes on and ends well."""
    pytest.importorskip("ray")
    with two_nodes() as cluster:
        machine = Machine(tmp_path / "machine", "--executor", "ray", "--address", cluster.address)
        process = machine.start()
        for results in (2, 6):
            while machine.check() < results:
                assert process.poll() is None
                time.sleep(0.2)
            kill(cluster)
            assert machine.check() < CELLS
        assert machine.finish(process) == undisturbed.results
