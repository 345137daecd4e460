"""Where advbench keeps files, how it names their content, and how it writes them whole or not at all."""

import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_cache_path

from advbench.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "code_digest",
    "digest",
    "digest_state",
    "file_hash",
    "home",
    "scratch_folder",
    "write_text",
    "writing_folder",
]


def home() -> Path:
    """The folder for what is made once and used again: ``ADVBENCH_HOME``, else the platform's cache folder."""
    return Path(os.environ.get("ADVBENCH_HOME") or user_cache_path("advbench"))


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
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        hasher.update(tensor.flatten().view(tensor.dtype).numpy().tobytes())
    return hasher.hexdigest()[:32]


def file_hash(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which appears as ``path`` only when the context ends without an error.

    Killed at any moment, it leaves either the whole folder or none; a name that begins with a dot is never a result.

    Raises:
        StorageError: The folder cannot be made or filled (read-only, full, ...).
    """
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
    """Write a file whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    staging = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text)
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give a folder for checkpoints to one process at a time.

    It outlives a kill, and is removed once the context ends without an error. Others that ask for it wait.

    Raises:
        StorageError: The folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable"
        ) from error
    try:
        yield path
        shutil.rmtree(path, ignore_errors=True)
    finally:
        lock.release()
