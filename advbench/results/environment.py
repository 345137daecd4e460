"""What a result was computed with."""

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["environment"]

PACKAGES = ("advbench", "torch", "torchvision", "numpy", "lightning-fabric", "scikit-learn", "timm")


def environment(device: "torch.device") -> dict[str, Any]:
    """Versions, device, threads, and the git revision of the folder that the command was run in."""
    import torch  # lazy: those who read results need none

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": dict(_versions()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "git": None if (git := _git()) is None else dict(git),
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@functools.cache  # two processes are started for it, and many runs share one
def _git() -> dict[str, Any] | None:
    """The user's own checkout, where there is one: the revision their results go with."""
    try:
        revision = _run_git("rev-parse", "HEAD")
        changed = bool(_run_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "changed": changed}


def _run_git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
