"""Results on disk: one folder each, named by its specification's hash, whole or absent.

::

    ROOT/<key>/record.json           CellRecord
               samples.parquet       one row an evaluation image
               state.safetensors     what the method learnt, or
               perturbed.safetensors what it returned, where it learns nothing
               examples.safetensors  a few images before and after, for figures
               figures/              drawn from the above at any time
    ROOT/.work/                      checkpoints of runs under way
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from advbench.errors import StorageError, UnknownName
from advbench.files import file_hash, scratch_folder, writing_folder
from advbench.results.record import SCHEMA_VERSION, CellRecord
from advbench.types import Status

__all__ = ["ResultStore"]

RECORD, SAMPLES = "record.json", "samples.parquet"


class ResultStore:
    """The results below one folder.

    Args:
        root: The folder; made when the first result comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        """Find out before anything is computed whether results can be kept.

        Raises:
            StorageError: They cannot.
        """
        probe = self.root / f".probe-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"advbench")
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"cannot write results to {self.root}: {error.strerror}; name a writable folder with --results"
            ) from error

    def folder(self, key: str) -> Path:
        """Where a result lies, or would."""
        return self.root / key

    def finished(self, key: str) -> CellRecord | None:
        """A finished result, or None where there is none or where it ended without metrics and may be tried again."""
        if not (self.folder(key) / RECORD).is_file():
            return None
        record = self._read(key)
        return record if record.status is Status.OK else None

    def keys(self) -> list[str]:
        """All results' keys. What is half-written has a dot before its name and is none."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if not path.name.startswith(".") and (path / RECORD).is_file()
        )

    def records(self) -> list[CellRecord]:
        """All results' records, oldest first."""
        return sorted((self._read(key) for key in self.keys()), key=lambda record: record.created)

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
        return self._read(matches[0])

    def _read(self, key: str) -> CellRecord:
        path = self.folder(key) / RECORD
        try:
            record = CellRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"cannot read {path} (this advbench reads schema version {SCHEMA_VERSION}): {error}; "
                "delete the folder to run it again"
            ) from error
        return record

    def save(
        self, record: CellRecord, samples: pa.Table | None, tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> CellRecord:
        """Store a result, replacing one of the same key.

        Args:
            record: Its ``files`` are filled in here.
            samples: One row an evaluation image.
            tensors: By file stem: ``state``, ``perturbed``, ``examples``.

        Raises:
            StorageError: The folder is not writable or is full; nothing is left of the result then.
        """
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
        return saved

    def samples(self, record: CellRecord) -> pa.Table:
        """One row an evaluation image."""
        return pq.read_table(self._intact(record, SAMPLES))

    def tensors(self, record: CellRecord, stem: str) -> dict[str, Tensor]:
        """A tensor file's content; empty where the result has none of that name."""
        name = f"{stem}.safetensors"
        return load_file(self._intact(record, name)) if name in record.files else {}

    def _intact(self, record: CellRecord, name: str) -> Path:
        path = self.folder(record.key) / name
        if not path.is_file() or file_hash(path) != record.files.get(name):
            raise StorageError(
                f"{path} is missing or was changed since it was stored; delete the result and run it again"
            )
        return path

    def work_folder(self, key: str) -> Path:
        """Where one result's checkpoints lie while it is made."""
        return self.root / ".work" / key

    @contextmanager
    def working(self, key: str) -> Iterator[Path]:
        """Hold one result's work folder, where checkpoints outlive a kill, against other processes on this machine."""
        with scratch_folder(self.work_folder(key)) as folder:
            yield folder
