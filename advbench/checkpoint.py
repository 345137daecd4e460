"""Progress of a fit on disk, so that a killed one goes on where it was and ends in the same numbers."""

import os
from collections.abc import Callable, Mapping
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
        """Replace the file at once, by one that a loss of power leaves whole.

        Raises:
            StorageError: The folder is not writable or is full.
        """
        staging = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            with staging.open("wb") as opened:
                torch.save({"identity": self._identity, "state": dict(state)}, opened)
                opened.flush()
                os.fsync(opened.fileno())
            staging.replace(self._path)
        except (OSError, RuntimeError) as error:
            staging.unlink(missing_ok=True)
            raise StorageError(f"cannot write {self._path}: {error}; choose a folder with room") from error

    def load(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Give the state to go on from, or None where there is none, or where it belongs to something else.

        Args:
            say: Told of a file that cannot be read, which counts as none.
        """
        if not self._path.exists():
            return None
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            state: dict[str, Any] = content["state"]
            return state if content["identity"] == self._identity else None
        except Exception as error:  # a file that is cut off or overwritten fails in many ways
            say(f"cannot read {self._path}, so this starts again: {type(error).__name__}: {error}")
            return None
