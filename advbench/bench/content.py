"""What stands in a request for local files and for code that is not advbench's own: hashes and versions."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from advbench.datasets import FIXED, listing
from advbench.errors import UnknownName
from advbench.files import file_hash
from advbench.registry import ATTACKS
from advbench.targets import own_source

__all__ = ["by_content", "foreign_code", "hashes_of"]


def hashes_of(given: Mapping[str, Any]) -> dict[str, str]:
    """Hash the local files that a request names, by these names; a method from elsewhere stands by its own."""
    made = [given["target"], *given["via"]]
    named = [*given["options"].values(), *(spec.init for spec in made)]
    files = {name: Path(name) for name in named if isinstance(name, str) and Path(name).suffix}
    files |= {spec.architecture: source for spec in made if spec.is_own and (source := own_source(spec.architecture))}
    hashes = {name: _hash_of(path, path.stat().st_mtime_ns) for name, path in files.items() if path.is_file()}
    dataset = given["dataset"]
    if dataset.name not in FIXED and dataset.folder.is_dir():
        hashes[str(dataset.folder)] = _listing_of(dataset.folder, _stamp(dataset.folder))
    if foreign := foreign_code(given["attack"]):
        hashes[given["attack"]] = foreign
    return hashes


def foreign_code(attack: str) -> str | None:
    """What stands for a method's code that is not in advbench's own hash; None where it is.

    That is the name and version of a peer's library, or the hash of the file in another package.
    """
    try:
        entry = ATTACKS.entry(attack)
    except UnknownName:  # told when the method is made
        return None
    if entry.distribution is not None:
        return _installed(entry.distribution)
    source = None if entry.location.startswith("advbench.") else own_source(entry.location)
    if source is None or not source.is_file():
        return None
    return f"sha256:{_hash_of(source, source.stat().st_mtime_ns)}"


def _installed(distribution: str) -> str | None:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:  # told when the method is made
        return None


def _stamp(folder: Path) -> tuple[int, ...]:
    """When anything was last added to a folder's classes, or taken away."""
    inner = [path for path in folder.iterdir() if path.is_dir()]
    deeper = [path for each in inner for path in each.iterdir() if path.is_dir()]
    return tuple(path.stat().st_mtime_ns for path in (folder, *sorted(inner), *sorted(deeper)))


@cache
def _listing_of(folder: Path, stamp: tuple[int, ...]) -> str:  # noqa: ARG001
    """Once a folder and state of it: a suite has many cells."""
    return listing(folder)


@cache
def _hash_of(path: Path, changed: int) -> str:  # noqa: ARG001
    """Once a file and state of it: all cells of a suite may name the same."""
    return file_hash(path)


def by_content(parameters: dict[str, Any]) -> dict[str, Any]:
    """Name local files by their content, so that a result is of the weights and not of where they lay."""

    def name(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: name(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [name(inner) for inner in value]
        if isinstance(value, str) and Path(value).suffix and Path(value).is_file():
            return f"{Path(value).name} sha256:{file_hash(Path(value))}"
        return value

    return {key: name(value) for key, value in parameters.items()}
