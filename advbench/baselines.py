"""Baselines: cited configurations of attacks, each a file that says where it is from and what it is checked against.

The files lie in the repository's ``baselines/``, not in the installed package. ``baseline:NAME`` is looked up in the
folder that ``ADVBENCH_BASELINES`` names, or in ``baselines/`` of the working directory; ``baseline:PATH.toml`` is that
file.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from advbench.errors import InvalidConfig, UnknownName
from advbench.threat import Budget, parse_epsilon
from advbench.types import Goal, Norm

__all__ = [
    "PREFIX",
    "Attack",
    "Baseline",
    "Check",
    "Citation",
    "CrossCheck",
    "Number",
    "baseline_files",
    "find_baseline",
    "read_baseline",
]

PREFIX = "baseline:"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Bounded(_Part):
    norm: Norm
    epsilon: float | None = None

    @field_validator("epsilon", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        """Read a number, or a fraction as text: ``"8/255"``."""
        with _told_of_the_file():
            return parse_epsilon(value) if isinstance(value, str) else value

    @field_validator("epsilon")
    @classmethod
    def _bound(cls, epsilon: float | None, others: ValidationInfo) -> float | None:
        with _told_of_the_file():
            Budget(norm=others.data.get("norm", Norm.L2), epsilon=epsilon)
        return epsilon


@contextmanager
def _told_of_the_file() -> Iterator[None]:
    """Turn what refuses a value into what pydantic tells with the value's place."""
    try:
        yield
    except InvalidConfig as error:
        raise ValueError(str(error)) from error


class Citation(_Part):
    """Where a method was published.

    Args:
        paper: Authors, year and title.
        link: To it.
    """

    paper: str
    link: str = Field(pattern="^https?://")


class Attack(_Bounded):
    """The cited configuration.

    Args:
        name: As in ``advbench list attacks``.
        parameters: What it is given; what is left out stays at the method's default.
        norm: What it was published with.
        epsilon: The same, a number or a fraction as text; None is a shortest perturbation, or no bound.
        note: Where the configuration is from, and what differs from it.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    note: str = ""


class Check(_Bounded):
    """The setting of the cross-checks, small enough for a test.

    Args:
        norm: The budget's.
        epsilon: The budget's, or None.
        images: How many.
        goal: Degrade or enhance.
        parameters: Ours, over those of the cited configuration.
    """

    images: int = Field(default=32, ge=1)
    goal: Goal = Goal.DEGRADE
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        """As a budget."""
        return Budget(norm=self.norm, epsilon=self.epsilon)


class CrossCheck(_Part):
    """One peer that ours is held to.

    Args:
        attack: The peer's name, such as ``foolbox:L2DeepFoolAttack``.
        parameters: The peer's.
        success: How much smaller our share of changed predictions may be.
        norm: Our largest mean norm as a multiple of the peer's, over the images that both changed; None where norms say
            nothing.
    """

    attack: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    success: float = Field(ge=0, le=1)
    norm: float | None = Field(default=None, gt=0)


class Number(_Part):
    """A figure, published or ours.

    Args:
        source: The paper and table, or the command that made it.
        setting: On what it was measured.
        metric: What was measured, with its unit.
        value: The figure.
    """

    source: str
    setting: str
    metric: str
    value: float


class Baseline(_Part):
    """One file.

    Args:
        title: For people.
        citation: Where it was published; several where it needs them.
        attack: The cited configuration.
        check: The cross-checks' setting, where there are any.
        peers: The cross-checks.
        published: Numbers that others measured.
        ours: Numbers of this package.
    """

    title: str
    citation: list[Citation] = Field(min_length=1)
    attack: Attack
    check: Check | None = None
    peers: list[CrossCheck] = Field(default_factory=list)
    published: list[Number] = Field(default_factory=list)
    ours: list[Number] = Field(default_factory=list)


def baseline_files() -> dict[str, Path]:
    """The files by their names.

    Raises:
        InvalidConfig: There is no folder of them.
    """
    given = os.environ.get("ADVBENCH_BASELINES")
    folder = Path(given) if given else Path("baselines")
    if not folder.is_dir():
        raise InvalidConfig(
            f"there is no folder '{folder}' of baselines: run where the repository's baselines/ lies, "
            "let ADVBENCH_BASELINES name it, or give a file: baseline:PATH.toml"
        )
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_baseline(attack: str) -> Baseline | None:
    """The baseline that an attack's name means, or None where it has another prefix or none.

    Raises:
        UnknownName: No file has this name.
        InvalidConfig: There is no folder, or the file is not valid.
    """
    if not attack.startswith(PREFIX):
        return None
    name = attack.removeprefix(PREFIX)
    if name.endswith(".toml"):
        return read_baseline(Path(name))
    files = baseline_files()
    if name not in files:
        raise UnknownName("baseline", name, files)
    return read_baseline(files[name])


def read_baseline(path: Path) -> Baseline:
    """Read and check a file.

    Raises:
        InvalidConfig: It is missing, no TOML, or not as described here; with the line where it can be told.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Baseline.model_validate(tomllib.loads(text))
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is no valid TOML, which is UTF-8: {error}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path} is no valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidConfig(
            f"{path}:{_line(text, first['loc'])}: {place}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _line(text: str, place: tuple[str | int, ...]) -> int:
    """The line of a value, or of the last table or key on the way to it that is there."""
    best, depth = 1, 0
    for number, found in _places(text):
        same = len([1 for one, other in zip(found, place, strict=False) if one == other])
        if same == min(len(found), len(place)) and same > depth:
            best, depth = number, same
    return best


def _places(text: str) -> Iterator[tuple[int, tuple[str | int, ...]]]:
    """Lines on which a table or key begins, with the way to it; inline tables count as one value."""
    table: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)([\w.-]+)\]", line):
            kind, name = header.groups()
            counts[name] = counts.get(name, -1) + 1
            table = (*name.split("."), counts[name]) if kind == "[[" else tuple(name.split("."))
            yield number, table
        elif key := re.match(r"\s*([\w-]+)\s*=", line):
            yield number, (*table, key.group(1))
