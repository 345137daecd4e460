"""Results in a folder or behind a URL: one folder each, named by its specification's hash, whole or absent.

::

    ROOT/<key>/record.json           CellRecord
               samples.parquet       one row an evaluation image
               state.safetensors     what the method learnt, or
               perturbed.safetensors what it returned, where it learns nothing
               examples.safetensors  a few images before and after, for figures
               figures/              drawn from the above at any time
    ROOT/.notes/<subject>/           what else is to be remembered about runs, a small file each
    ROOT/.work/                      checkpoints of runs under way, and the locks on them

Of results behind a URL, ``ADVBENCH_HOME`` holds a copy of what was read, and checkpoints and figures, which stay there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors import SafetensorError

from advbench.errors import StorageError, UnknownName
from advbench.files import Scratch, digest, file_hash, home, scratch_folder, write_bytes, writing_folder
from advbench.remote import Remote, is_url
from advbench.results.record import SCHEMA_VERSION, CellRecord
from advbench.types import Status

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ResultStore", "find_result"]

RECORD, SAMPLES, NOTES, PROBE = "record.json", "samples.parquet", ".notes", ".probe"


class ResultStore:
    """The results below one folder, or behind one URL.

    Args:
        location: The folder, made when the first result comes; or any URL that fsspec knows.

    Raises:
        InvalidConfig: The URL is of no known kind.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = str(location)
        self._remote = Remote(self.location) if is_url(self.location) else None
        self.root = home() / "results" / digest(self._remote.url) if self._remote else Path(location)

    def check_writable(self) -> None:
        """Find out before anything is computed whether results can be kept.

        Raises:
            StorageError: They cannot.
        """
        if self._remote is not None:
            self._remote.write(PROBE, b"advbench")
            self._remote.remove(PROBE)
        probe = self.root / PROBE
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"advbench")
            probe.unlink(missing_ok=True)  # another process may have done so
        except OSError as error:
            raise StorageError(
                f"cannot write results to {self.root}: {error.strerror}; name a writable folder with --results"
            ) from error

    def folder(self, key: str) -> Path:
        """Where a result lies, or would; of results behind a URL, their copy here."""
        return self.root / key

    def finished(self, key: str) -> CellRecord | None:
        """A finished result, or None where there is none or where it ended without metrics and may be tried again."""
        record = next(iter(self._read([key])), None)
        return record if record is not None and record.status is Status.OK else None

    def keys(self) -> list[str]:
        """All results' keys. What is half-written has a dot before its name and is none."""
        if self._remote is not None:
            return self._remote.folders_with(RECORD)
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if not path.name.startswith(".") and (path / RECORD).is_file()
        )

    def records(self) -> list[CellRecord]:
        """All results' records, oldest first."""
        return sorted(self._read(self.keys()), key=lambda record: record.created)

    def find(self, name: str) -> CellRecord:
        """Look a result up by its key, an unambiguous beginning of it, or its folder's path.

        Raises:
            UnknownName: There is none, or more than one.
        """
        wanted = Path(name).name if "/" in name else name
        keys = self.keys()
        matches = [key for key in keys if key.startswith(wanted)] if wanted else []
        if len(matches) != 1:
            raise UnknownName("result", name, matches or keys)
        return self._read(matches)[0]

    def _read(self, keys: Sequence[str]) -> list[CellRecord]:
        """The records of those keys that have one."""
        paths = {key: f"{key}/{RECORD}" for key in keys}
        if self._remote is not None:
            contents = self._remote.read(list(paths.values()))
        else:
            contents = self._read_here(paths.values())
        return [self._parsed(path, content) for path, content in contents.items()]

    def _read_here(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The content of those files that are there: another process may take one away, or replace it, at any time."""
        found = {}
        for path in paths:
            try:
                found[path] = (self.root / path).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"cannot read {self.root / path}: {error.strerror}") from error
        return found

    def _parsed(self, path: str, content: bytes) -> CellRecord:
        try:
            return CellRecord.model_validate_json(content, extra="ignore")
        except ValidationError as error:
            faults = {".".join(map(str, fault["loc"])): fault for fault in error.errors()}
            if (newer := faults.get("schema_version")) and newer["type"] == "less_than_equal":
                raise StorageError(
                    f"cannot read {self.location}/{path}: it is of a newer schema version, {newer['input']}, "
                    f"and this advbench reads {SCHEMA_VERSION}: update advbench, or name another --results"
                ) from error
            place, fault = next(iter(faults.items()))
            raise StorageError(
                f"cannot read {self.location}/{path}: {place or 'record'}: {fault['msg']}; "
                "delete its folder to run it again"
            ) from error

    def save(
        self, record: CellRecord, samples: pa.Table | None, tensors: "Mapping[str, Mapping[str, Tensor]]"
    ) -> CellRecord:
        """Store a result, replacing one of the same key.

        Args:
            record: Its ``files`` are filled in here.
            samples: One row an evaluation image.
            tensors: By file stem: ``state``, ``perturbed``, ``examples``.

        Raises:
            StorageError: The folder is not writable or is full; nothing is left of the result then.
        """
        from safetensors.torch import save_file  # lazy, as above

        try:
            with writing_folder(self.folder(record.key)) as staging:
                if samples is not None:
                    pq.write_table(samples, staging / SAMPLES, compression="zstd")
                for stem, content in tensors.items():
                    if content:
                        save_file(dict(content), staging / f"{stem}.safetensors")
                files = {path.name: file_hash(path) for path in sorted(staging.iterdir())}
                saved = record.with_files(files)
                (staging / RECORD).write_text(saved.model_dump_json(indent=2) + "\n")
        except (pa.ArrowException, SafetensorError) as error:
            raise StorageError(f"cannot write {self.folder(record.key)}: {error}") from error
        if self._remote is not None:
            self._remote.publish(self.folder(record.key), last=RECORD)
        return saved

    def samples(self, record: CellRecord, columns: Sequence[str] | None = None) -> pa.Table:
        """One row an evaluation image; all columns, or those that are named."""
        with pq.ParquetFile(self.file(record, SAMPLES)) as opened:
            return opened.read(columns)

    def tensors(self, record: CellRecord, stem: str) -> "dict[str, Tensor]":
        """A tensor file's content; empty where the result has none of that name."""
        from safetensors.torch import load_file  # lazy: torch takes a second, and most readers need no tensors

        name = f"{stem}.safetensors"
        return load_file(self.file(record, name)) if name in record.files else {}

    def file(self, record: CellRecord, name: str) -> Path:
        """One of a result's files, as it was stored; fetched first from behind a URL.

        Raises:
            StorageError: It is missing or was changed.
        """
        path = self.folder(record.key) / name
        if self._remote is not None and not (path.is_file() and file_hash(path) == record.files.get(name)):
            for content in self._remote.read([f"{record.key}/{name}"]).values():
                write_bytes(path, content)
        if not path.is_file() or file_hash(path) != record.files.get(name):
            raise StorageError(
                f"{path} is missing or was changed since it was stored; delete the result and run it again"
            )
        return path

    def write_note(self, subject: str, name: str, text: str) -> None:
        """Keep a small text, replacing the one of the same name; it appears whole.

        Raises:
            StorageError: It cannot be written.
        """
        path = f"{NOTES}/{subject}/{name}"
        if self._remote is not None:
            self._remote.write(path, text.encode())
        else:
            write_bytes(self.root / path, text.encode())

    def drop_note(self, subject: str, name: str) -> None:
        """Take a text away, if it is there."""
        path = f"{NOTES}/{subject}/{name}"
        if self._remote is not None:
            self._remote.remove(path)
        else:
            (self.root / path).unlink(missing_ok=True)

    def notes(self, subject: str) -> list[str]:
        """All texts about a subject."""
        folder = f"{NOTES}/{subject}"
        if self._remote is not None:
            contents = self._remote.read(self._remote.files_in(folder))
        else:
            contents = self._read_here(f"{folder}/{path.name}" for path in (self.root / folder).glob("[!.]*"))
        return [content.decode() for content in contents.values()]

    def work_folder(self, key: str) -> Path:
        """Where one result's checkpoints lie while it is made."""
        return self.root / ".work" / key

    @contextmanager
    def working(self, key: str, *, wait: bool = True) -> Iterator[Scratch]:
        """Hold one result against all other processes, and give the folder where its checkpoints outlive a kill.

        Args:
            key: The result's.
            wait: For others that have it.

        Raises:
            ResultClaimed: Another process has it, and ``wait`` is false.
        """
        with ExitStack() as held:
            scratch = held.enter_context(scratch_folder(self.work_folder(key), wait=wait))
            if self._remote is not None:
                held.enter_context(self._remote.claim(key, wait=wait))
            yield scratch


def find_result(name: str, location: Path | str) -> tuple[ResultStore, CellRecord]:
    """Look a result up, with its store.

    Args:
        name: Its folder's path, which says the store as well; or its key, or an unambiguous beginning of it.
        location: Of the store, where the name does not say it.

    Raises:
        UnknownName: There is none, or more than one.
    """
    parent, _, _ = name.rstrip("/").rpartition("/")
    store = ResultStore(parent or location)
    return store, store.find(name)
