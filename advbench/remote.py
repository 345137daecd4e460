"""Files behind a URL, through fsspec: what appears appears whole, and who makes a result says so first.

::

    URL/<key>/samples.parquet ...     the files of ``ResultStore``; ``record.json`` comes last, and makes the result
        .claims/<key>                 who is making it, renewed while they live

What holds: a result is there with all of its files or not at all, where the backend's files appear whole (those of S3,
Google Cloud and Azure do). A result is made by one process at a time, where the backend creates files
exclusively (these do). A claim that its process left behind is taken over once it has not been renewed for
``STALE_SECONDS``: of all who write their own over it, the last has it, as they find when they read it back
``SETTLE_SECONDS`` later. A process that was held up for longer than the former and then goes on makes the same result a
second time, and leaves the claim to who has it. Checkpoints stay on the machine that made them.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from advbench.errors import InvalidConfig, ResultClaimed, StorageError

__all__ = ["Remote", "is_url"]

RENEW_SECONDS, STALE_SECONDS, SETTLE_SECONDS, POLL_SECONDS = 10.0, 60.0, 5.0, 1.0

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def is_url(location: str) -> bool:
    """Tell ``s3://bucket/folder`` from a folder's path."""
    return "://" in location


def _said_in_one_line(method: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    @wraps(method)
    def guarded(*arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        try:
            return method(*arguments, **named)
        except Exception as error:  # each backend has its own
            remote: Any = arguments[0]
            raise StorageError(f"cannot reach {remote.url}: {type(error).__name__}: {error}") from error

    return guarded


class Remote:
    """The files behind one URL.

    Args:
        url: As fsspec has it: ``s3://bucket/folder``, ``gs://``, ``az://``, ``sftp://``, ...

    Raises:
        InvalidConfig: fsspec knows no such kind of URL, its package is not installed, or the URL would be a pattern.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        if set(url) & set("*?["):
            raise InvalidConfig(
                f"cannot use {url}: fsspec takes '*', '?' and '[' for patterns; name a folder without them"
            )
        try:
            self._files, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InvalidConfig(f"cannot use {url}: {error}") from error
        self._root = root.rstrip("/")

    @_said_in_one_line
    def folders_with(self, name: str) -> list[str]:
        """Folders, not hidden, that hold a file of that name."""
        self._files.invalidate_cache()
        found = self._files.glob(f"{self._root}/*/{name}")
        folders = (str(path).split("/")[-2] for path in found)
        return sorted(folder for folder in folders if not folder.startswith("."))

    @_said_in_one_line
    def files_in(self, folder: str) -> list[str]:
        """The files of one folder, as paths from the root."""
        self._files.invalidate_cache()
        return [f"{folder}/{str(path).split('/')[-1]}" for path in self._files.glob(f"{self._root}/{folder}/*")]

    @_said_in_one_line
    def read(self, paths: list[str]) -> dict[str, bytes]:
        """Files' content, fetched side by side; what is not there is left out."""
        whole = {f"{self._root}/{path}": path for path in paths}
        found = self._files.cat(list(whole), on_error="return") if whole else {}
        there = {path: found[name] for name, path in whole.items() if not isinstance(found[name], FileNotFoundError)}
        for content in there.values():
            if isinstance(content, Exception):
                raise content
        return there

    @_said_in_one_line
    def write(self, path: str, content: bytes) -> None:
        """Put a file there, whole or not at all."""
        name = f"{self._root}/{path}"
        self._files.makedirs(os.path.dirname(name), exist_ok=True)
        opened = self._files.open(name, "wb", autocommit=False)
        opened.write(content)
        opened.close()
        opened.commit()

    @_said_in_one_line
    def remove(self, path: str) -> None:
        """Take a file away, if it is there."""
        try:
            self._files.rm_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return

    def publish(self, folder: Path, last: str) -> None:
        """Put a folder's files there, under its name, one of them last."""
        files = sorted(path for path in folder.iterdir() if path.is_file())
        self.remove(f"{folder.name}/{last}")
        for path in sorted(files, key=lambda path: path.name == last):
            self.write(f"{folder.name}/{path.name}", path.read_bytes())

    @contextmanager
    def claim(self, key: str, *, wait: bool) -> Iterator[None]:
        """Hold a result against others for as long as the context lasts.

        Args:
            key: Of what is made.
            wait: For others that have it.

        Raises:
            ResultClaimed: Another process has it, and ``wait`` is false.
        """
        path, owner = f".claims/{key}", f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        seen, since = b"", time.monotonic()
        while not self._create(path, owner.encode()):
            found = self.read([path]).get(path, b"")
            if found != seen:
                seen, since = found, time.monotonic()
            if _is_dead(seen) or time.monotonic() - since > STALE_SECONDS:
                self.write(path, owner.encode())
                time.sleep(SETTLE_SECONDS)  # longer than from another's judging it stale to their writing
                if self._is_ours(path, owner):
                    break
            elif not wait:
                raise ResultClaimed(f"another process is making the result: {seen.decode(errors='replace')}")
            else:
                time.sleep(POLL_SECONDS)
        released = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(path, owner, released), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            released.set()
            renewing.join()
            if self._is_ours(path, owner):
                self.remove(path)

    @_said_in_one_line
    def _create(self, path: str, content: bytes) -> bool:
        name = f"{self._root}/{path}"
        self._files.makedirs(os.path.dirname(name), exist_ok=True)
        try:
            with self._files.open(name, "xb") as opened:
                opened.write(content)
        except FileExistsError:
            return False
        return True

    def _is_ours(self, path: str, owner: str) -> bool:
        return self.read([path]).get(path, b"").startswith(owner.encode())

    def _renew(self, path: str, owner: str, released: threading.Event) -> None:
        count = 0
        while not released.wait(RENEW_SECONDS):
            count += 1
            try:
                if not self._is_ours(path, owner):
                    return
                self.write(path, f"{owner} {count}".encode())
            except StorageError:  # tried again the next time; the result itself is what has to come through
                continue


def _is_dead(claim: bytes) -> bool:
    """Whether a claim's process was on this machine and is gone."""
    host, process, *_ = [*claim.decode(errors="replace").split(), "", ""]
    if host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
