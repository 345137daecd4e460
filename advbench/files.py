"""Where advbench keeps files, how it names their content, and how it writes them whole or not at all."""

import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from advbench.errors import ResultClaimed, StorageError
from advbench.remote import is_url

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "code_digest",
    "digest",
    "digest_state",
    "file_hash",
    "home",
    "scratch_folder",
    "write_bytes",
    "write_text",
    "writing_folder",
]


def home() -> Path:
    """The folder for what is made once and used again: ``ADVBENCH_HOME``, else the platform's cache folder.

    Where it is a URL, this is where this machine has its copies of what lies there, and its checkpoints.
    """
    named = os.environ.get("ADVBENCH_HOME")
    if named and is_url(named):
        return user_cache_path("advbench") / "copies" / digest(named.rstrip("/"))
    return Path(named or user_cache_path("advbench"))


@functools.cache  # the code that runs is what was read at the start, whatever becomes of the files
def code_digest() -> str:
    """Hash the source of everything that computes; what only shows results, or decides what runs where, is left out."""
    package = Path(__file__).parent
    sources = (path.relative_to(package) for path in package.rglob("*.py"))
    computing = sorted(path for path in sources if path.parts[0] not in ("cli", "report", "suites"))
    return digest([[path.as_posix(), (package / path).read_text()] for path in computing])


def digest(content: Any) -> str:
    """Hash anything that JSON can hold; equal content gives equal digests on every machine. 32 hex digits."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def digest_state(state: Mapping[str, "Tensor"]) -> str:
    """Hash tensors with their names, types and shapes. 32 hex digits."""
    import torch  # lazy: takes a second

    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()[:32]


def file_hash(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which appears as ``path`` only when the context ends without an error.

    Killed at any moment, it leaves either the whole folder or none; a name that begins with a dot is never a result.
    The caller holds the path's lock, so that what others left half-written is dead, and is removed.

    Raises:
        StorageError: The folder cannot be made or filled (read-only, full, ...).
    """
    for left in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    staging = path.parent / f".{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        try:
            yield staging
            _sync(staging)
            if path.exists():
                shutil.rmtree(path)
            staging.rename(path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable and has room"
        ) from error


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    staging = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_bytes(content)
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


@dataclass
class Scratch:
    """A folder for checkpoints.

    Args:
        path: Where.
        is_kept: Whether it stays once its context ends, because what it was for is still to be done.
    """

    path: Path
    is_kept: bool = False


@contextmanager
def scratch_folder(path: Path, *, wait: bool = True) -> Iterator[Scratch]:
    """Give a folder for checkpoints to one process at a time, on whatever machine.

    It outlives a kill, and is removed once the context ends without an error, unless it is to be kept. The lock on it
    is the operating system's, and goes with its process.

    Args:
        path: The folder.
        wait: For others that have it.

    Raises:
        ResultClaimed: Another process has it, and ``wait`` is false.
        StorageError: The folder cannot be made.
    """
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
        path.mkdir(exist_ok=True)
    except Timeout as error:
        raise ResultClaimed(f"another process is working in {path}") from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable"
        ) from error
    try:
        scratch = Scratch(path)
        yield scratch
        if not scratch.is_kept:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        lock.release()
