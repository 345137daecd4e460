"""Progress of a fit on disk, so that a killed one goes on where it was and ends in the same numbers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from advbench.errors import StorageError

__all__ = ["Checkpoint"]


class Checkpoint:
    """One file with the state after the last whole epoch.

    Args:
        path: The file; its folder exists.
        identity: What is being fitted, as a digest: a file of another fit is never resumed.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file at once.

        Raises:
            StorageError: The folder is not writable or is full.
        """
        staging = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            torch.save({"identity": self._identity, "state": dict(state)}, staging)
            staging.replace(self._path)
        except (OSError, RuntimeError) as error:
            staging.unlink(missing_ok=True)
            raise StorageError(f"cannot write {self._path}: {error}; choose a folder with room") from error

    def load(self) -> dict[str, Any] | None:
        """Give the state to go on from, or None where there is none, or where it belongs to something else."""
        if not self._path.exists():
            return None
        content = torch.load(self._path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = content["state"]
        return state if content["identity"] == self._identity else None
