"""The real command, killed without warning: nothing half-done is ever listed, and the end is the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RUN = ["run", "--attack", "pgn-b", "--target", "resnet18", "--target-images", "200", "--target-epochs", "2",
       "--epsilon", "0.3", "--epochs", "3", "--backbone", "scratch", "--decoder-width", "0.05", "--fit-images", "128",
       "--discriminator", "squeezenet1_1", "--limit", "50", "--device", "cpu", "--json"]  # fmt: skip


class Machine:
    """A home and a results folder of their own."""

    def __init__(self, root: Path) -> None:
        self.results = root / "results"
        self.environment = os.environ | {"ADVBENCH_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"}

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "advbench", *RUN, "--results", str(self.results)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> dict[str, Any]:
        process = self.start()
        out, said = process.communicate(timeout=280)
        assert process.returncode == 0, said
        record: dict[str, Any] = json.loads(out)
        return record

    def listed(self) -> list[Path]:
        if not self.results.is_dir():
            return []
        return [path for path in self.results.iterdir() if not path.name.startswith(".")]


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """All but times."""
    timing = ("fit_seconds", "ms_per_image")
    metrics = {name: value for name, value in record["metrics"].items() if name not in timing}
    return {"key": record["key"], "metrics": metrics, "history": record["history"]}


def undisturbed_and_killed(tmp_path: Path, kills: int) -> None:
    whole = Machine(tmp_path / "whole")
    started = time.perf_counter()
    expected = whole.finish()
    duration = time.perf_counter() - started
    killed = Machine(tmp_path / "killed")
    chance = random.Random(0)
    for _ in range(kills):
        process = killed.start()
        time.sleep(chance.uniform(0.3, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in killed.listed():  # whole, or not there at all
            record = json.loads((path / "record.json").read_text())
            assert all((path / name).is_file() for name in record["files"])
            assert record["status"] == "ok"
    found = killed.finish()
    assert comparable(found) == comparable(expected)
    assert killed.listed() == [killed.results / expected["key"]]
    assert found["files"]["state.safetensors"] == expected["files"]["state.safetensors"]


def test_killed_once(tmp_path: Path) -> None:
    undisturbed_and_killed(tmp_path, 1)


@pytest.mark.slow
def test_killed_ten_times(tmp_path: Path) -> None:
    undisturbed_and_killed(tmp_path, 10)


def test_interrupted_by_hand_it_says_what_is_kept(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    process = machine.start()
    assert process.stderr is not None
    process.stderr.readline()  # it has begun: before that, nothing is imported that could say anything
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=280)
    if process.returncode == 0:
        pytest.skip("it had finished before the signal came")
    assert process.returncode == 130
    assert "interrupted: finished epochs and results are kept" in said
    assert "Traceback" not in said


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full: the perturbed images do not fit under it."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from advbench.cli import main\n"
        "sys.argv[0] = 'advbench'\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "main()"
    )
    factory = tmp_path / "simple.py"
    factory.write_text(
        "import torch\n"
        "def linear(classes):\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, classes))\n"
    )
    command = [sys.executable, "-c", code, "run", "--attack", "noise", "--epsilon", "0.1", "--target", "simple:linear",
               "--device", "cpu", "--results", str(tmp_path / "results")]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ADVBENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cannot write" in errors[0]
    assert "Traceback" not in done.stderr
    left = [path for path in (tmp_path / "results").iterdir() if path.name != ".work"]
    assert left == []
