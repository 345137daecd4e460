"""One fit shared by two processes: the real command, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advbench.runtime import Runtime

RUN = ["run", "--attack", "pgn-b", "--target", "resnet18", "--target-images", "100", "--target-epochs", "1",
       "--epsilon", "0.3", "--epochs", "2", "--backbone", "scratch", "--decoder-width", "0.05", "--fit-images", "100",
       "--limit", "40", "--device", "cpu", "--json"]  # fmt: skip


def test_float32_is_float32_on_every_device() -> None:
    """PyTorch lets a GPU's convolutions use TF32, which no result's name would tell."""
    assert Runtime(device="cpu").fabric is not None
    assert not torch.backends.cudnn.allow_tf32


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
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
        assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
        assert "Traceback" not in again.stderr
    assert metrics["1"]["fit"]["queries"] == metrics["2"]["fit"]["queries"] == 3 * 100 + 2 * 144
    assert metrics["1"]["clean_accuracy"] == metrics["2"]["clean_accuracy"]


UNSOUND = """
import torch

class Unsound(torch.nn.Module):
    def forward(self, images):
        raise ValueError("out of order")

def unsound(classes):
    return Unsound()
"""


@pytest.mark.slow
def test_where_the_first_process_gives_up_the_others_do_not_wait(tmp_path: Path) -> None:
    (tmp_path / "unsound_target.py").write_text(UNSOUND)
    run = ["run", "--attack", "noise", "--target", "unsound_target:unsound", "--epsilon", "0.1", "--limit", "20"]
    command = [sys.executable, "-m", "advbench", *run, "--device", "cpu", "--devices", "2", "--results", "results"]
    environment = os.environ | {"ADVBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 1
    assert "ValueError: out of order" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
