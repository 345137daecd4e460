"""The shape of the house: who may import whom, what is public, what is installed."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import advbench

PACKAGE = Path(advbench.__file__).parent
ROOT = PACKAGE.parent

BASE = {"types", "errors", "files"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "remote": {"errors"},
    "files": {"errors", "remote"},
    "kept": {"files", "remote"},
    "tensors": set(),
    "progress": set(),
    "registry": {"errors"},
    "seeding": {"tensors"},
    "runtime": {"errors"},
    "checkpoint": {"errors"},
    "threat": BASE,
    "baselines": BASE | {"threat"},
    "metrics": {"types", "tensors"},
    "datasets": BASE | {"tensors", "registry"},
    "targets": BASE | {"tensors", "registry", "datasets", "progress", "runtime", "seeding", "checkpoint", "kept"},
    "access": BASE | {"tensors", "threat", "targets"},
    "methods": BASE
    | {"tensors", "threat", "targets", "datasets", "access", "progress", "runtime", "seeding", "checkpoint"}
    | {"registry"},  # a table of names that imports nothing: for methods made of another that is named
    "results": BASE | {"threat", "remote"},
    "report": {"results", "metrics", "types", "errors", "files"}
    | {"registry"},  # which asks a method by its name what it looks at
    "bench": BASE
    | {"tensors", "threat", "targets", "datasets", "access", "methods", "metrics", "results", "registry"}
    | {"progress", "runtime", "seeding", "kept"},
    "suites": BASE | {"results", "bench", "progress", "remote"},
    "cli": {path.stem for path in PACKAGE.iterdir()},
    "__init__": set(),
    "__main__": {"cli"},
}
"""What each module or package may import of the others; the design's order of layers, which makes cycles impossible."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("advbench.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: say what it may import"
    assert imported_parts(path) <= MAY_IMPORT[part] | {part}


def test_the_order_of_layers_has_no_cycle() -> None:
    order: list[str] = []
    left = {part: set(allowed) - {part} for part, allowed in MAY_IMPORT.items() if part != "cli"}
    while left:
        free = sorted(part for part, allowed in left.items() if not allowed & left.keys())
        assert free, f"these import each other: {sorted(left)}"
        order += free
        left = {part: allowed for part, allowed in left.items() if part not in free}
    assert order


def public_modules() -> list[str]:
    names = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "advbench.")]
    return ["advbench", *(name for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", public_modules())
def test_public_names_are_declared_sorted_and_there(name: str) -> None:
    module = importlib.import_module(name)
    declared = module.__all__
    assert declared == sorted(declared, key=lambda public: (not public.isupper(), not public[0].isupper(), public))
    assert all(hasattr(module, public) for public in declared)
    assert module.__doc__


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_long(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{path}:{node.lineno} {node.name}"


def test_listing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from advbench.cli import main\n"
        "main(['list', 'attacks'], standalone_mode=False)\n"
        "heavy = {'torch', 'torchvision', 'art', 'foolbox', 'sklearn', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pgn-b" in done.stdout


def test_a_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        if (ROOT / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", str(sources), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"advbench"}
    assert "advbench/py.typed" in names
