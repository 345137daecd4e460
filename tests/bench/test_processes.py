"""One fit shared by two processes: the real command, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = ["run", "--attack", "pgn-b", "--target", "resnet18", "--target-images", "100", "--target-epochs", "1",
       "--epsilon", "0.3", "--epochs", "2", "--backbone", "scratch", "--decoder-width", "0.05", "--fit-images", "100",
       "--limit", "40", "--device", "cpu", "--json"]  # fmt: skip


@pytest.mark.slow
def test_two_processes_share_a_fit_and_count_together(tmp_path: Path) -> None:
    environment = os.environ | {"ADVBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    metrics = {}
    for devices in ("1", "2"):
        command = [sys.executable, "-m", "advbench", *RUN, "--devices", devices, "--results", str(tmp_path / devices)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout)
        metrics[devices] = record["metrics"]
        assert record["spec"]["processes"] == int(devices)
        assert len(record["history"]) == 2
    assert metrics["1"]["fit"]["queries"] == metrics["2"]["fit"]["queries"] == 3 * 100 + 2 * 144
    assert metrics["1"]["clean_accuracy"] == metrics["2"]["clean_accuracy"]
