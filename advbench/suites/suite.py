"""Suites: one file that says what to compare, as sets of options of ``advbench run`` and their product.

::

    title = "Which method degrades digits most?"
    scale = "mini"                   # which of the scales below to apply where none is named
    goals = ["degrade"]
    seeds = [0, 1, 2]

    [defaults]                       # options of every run
    limit = 100

    [sets.lasting]                   # options under a name, for any place that says ``use = "lasting"``
    epochs = 40

    [targets.resnet18]               # each axis names sets of options
    target = "resnet18"

    [budgets."linf 0.3"]
    epsilon = 0.3

    [methods."fgsm, transferred"]
    attack = "fgsm"
    via = "resnet18"

    [methods.pgn-b]
    use = "lasting"
    attack = "pgn-b"

    [[exclude]]                      # cells that are not wanted, by the names on their axes; * stands for anything
    method = "*, transferred"
    budget = "unbounded"

    [scales.mini.targets.resnet18]   # what a scale adds or changes
    image-size = 32

    [scales.paper.targets.resnet18]  # ``--scale paper``
    image-size = 224
"""

import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from advbench.errors import InvalidConfig, UnknownName
from advbench.files import digest
from advbench.types import Goal

__all__ = ["AXES", "Suite", "SuiteCell", "fits", "load_suite"]

AXES = {
    "datasets": "dataset",
    "targets": "target",
    "threats": "threat",
    "budgets": "budget",
    "goals": "goal",
    "methods": "method",
    "seeds": "seed",
}
"""Each axis, and what one place on it is called. Later ones win where two give the same option."""

OPTION_AXES = ("datasets", "targets", "threats", "budgets", "methods")
"""Those whose places are sets of options."""

USE = "use"
"""The option of a place that names the set of options it builds on, or several, of which the last wins."""

ELSEWHERE = {
    "goal": "goals are an axis of their own: goals = [...]",
    "seed": "seeds are an axis of their own: seeds = [...]",
    "results": "where results go is said on the command line, by --results",
    "devices": "a suite runs each cell on one device, and several side by side",
    "json": "a suite's results are shown by compare, which has --format json",
    "help": "it shows the options, and runs nothing",
}
"""Options of ``advbench run`` that no place may give, with what to do instead."""

Options = dict[str, str | bool | int | FiniteFloat | list[str | int | FiniteFloat]]
"""Options of ``advbench run`` by their long names, without the dashes."""


@dataclass(frozen=True)
class _File:
    """Where a suite was read.

    Args:
        path: For people.
        text: All of it.
        scale: The one that was applied.
    """

    path: Path
    text: str
    scale: str | None

    def located(self, where: list[str], complaint: str) -> str:
        """A complaint after the line of what it is about."""
        return f"{self.path}, line {self._line(where)}: {complaint}"

    def _line(self, where: list[str]) -> int:
        """The line of the longest beginning of ``where`` that the file spells out, 1 where it spells none.

        What the scale says counts before what the rest of the file says.
        """
        best, depth, table = 1, 0, []
        listed: Counter[str] = Counter()
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*(\[+)(.+?)\]+\s*(#.*)?$", line)
            key = re.match(r"\s*([\w\"'. -]+?)\s*=", line)
            if header:
                table = _parts(header[2])
                if header[1] == "[[":
                    table.append(str(listed[header[2]]))
                    listed[header[2]] += 1
                spelt = table
            elif key:
                spelt = [*table, *_parts(key[1])]
            else:
                continue
            scaled = spelt[:2] == ["scales", self.scale]
            spelt = spelt[2:] if scaled else spelt
            pairs = zip(spelt, where, strict=False)
            common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            if common > depth or (scaled and common == depth > 0):
                best, depth = number, common
        return best


class Suite(BaseModel):
    """What to compare.

    Args:
        title: For people.
        question: What it is to answer.
        defaults: Options of every run.
        sets: Options that several places share: one that says ``use = "NAME"``, or
            ``use = ["NAME", "NAME"]``, has them, and what it says itself goes before.
        datasets: Option sets by name; likewise the others. An axis that is left out is not varied.
        targets: The classifiers.
        threats: What is granted.
        budgets: How far an image may be moved.
        goals: Degrade, enhance or both.
        methods: The methods, with their own options.
        seeds: Of everything random.
        exclude: Cells that are not wanted: the names on some axes, or lists of names, ``*`` for anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    question: str = ""
    defaults: Options = Field(default_factory=dict)
    sets: dict[str, Options] = Field(default_factory=dict)
    datasets: dict[str, Options] = Field(default_factory=dict)
    targets: dict[str, Options] = Field(default_factory=dict)
    threats: dict[str, Options] = Field(default_factory=dict)
    budgets: dict[str, Options] = Field(default_factory=dict)
    goals: list[Goal] = Field(default_factory=lambda: [Goal.DEGRADE], min_length=1)
    methods: dict[str, Options] = Field(min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    exclude: list[dict[str, str | int | list[str | int]]] = Field(default_factory=list)

    _file: "_File | None" = None

    def cells(self) -> Iterator["SuiteCell"]:
        """The product of the axes, less what is excluded."""
        sets: dict[str, dict[Any, Options]] = {
            "datasets": self.datasets,
            "targets": self.targets,
            "threats": self.threats,
            "budgets": self.budgets,
            "goals": {str(goal): {"goal": str(goal)} for goal in self.goals},
            "methods": self.methods,
            "seeds": {seed: {"seed": seed} for seed in self.seeds},
        }
        axes = [axis for axis in AXES if sets[axis]]
        for places in itertools.product(*(sets[axis] for axis in axes)):
            names = {AXES[axis]: place for axis, place in zip(axes, places, strict=True)}
            if any(_matches(names, unwanted) for unwanted in self.exclude):
                continue
            options = dict(self.defaults)
            for axis, place in zip(axes, places, strict=True):
                own = sets[axis][place]
                for used in _used(own):
                    options |= self.sets[used]
                options |= {option: value for option, value in own.items() if option != USE}
            yield SuiteCell(names, options)

    def located(self, cell: "SuiteCell", option: str, complaint: str) -> str:
        """A complaint about an option of a cell, after the line of the file that gives the cell this option."""
        where = ["defaults", option]
        for axis in OPTION_AXES:
            place = cell.names.get(AXES[axis])
            own: Options = getattr(self, axis).get(place, {})
            if option in own:
                where = [axis, str(place), option]
            elif giving := [used for used in _used(own) if option in self.sets[used]]:
                where = ["sets", giving[-1], option]
        return self._file.located(where, complaint) if self._file else complaint

    @property
    def identity(self) -> str:
        """A hash of what is compared, under which a suite's progress is kept."""
        return digest(self.model_dump(mode="json"))


@dataclass(frozen=True)
class SuiteCell:
    """One run of a suite.

    Args:
        names: Its place on each axis.
        options: Options of ``advbench run``.
    """

    names: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def arguments(self) -> list[str]:
        """What follows ``advbench run`` on a command line that does the same."""
        words: list[str] = []
        for name, value in self.options.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            elif isinstance(value, list):
                words += [f"--{name}", ",".join(map(str, value))]
            else:
                words += [f"--{name}", str(value)]
        return words

    def __str__(self) -> str:
        return ", ".join(str(name) for name in self.names.values())


def _matches(names: Mapping[str, Any], unwanted: Mapping[str, Any]) -> bool:
    return all(any(fits(names.get(axis), wanted) for wanted in _listed(own)) for axis, own in unwanted.items())


def _used(own: Mapping[Any, Any]) -> list[str]:
    """The sets that a place builds on."""
    return [str(name) for name in _listed(own.get(USE, []))]


def fits(name: Any, wanted: Any) -> bool:
    """Whether a place has the name that is wanted, or one that the pattern stands for."""
    return str(name) == str(wanted) or fnmatchcase(str(name), str(wanted))


def _listed(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def load_suite(path: Path, scale: str | None = None) -> Suite:
    """Read a suite.

    Args:
        path: A TOML file.
        scale: Which of its ``scales`` to apply; None applies the one that the file names as its ``scale``, or none.

    Raises:
        InvalidConfig: The file is not there, is no TOML, or says something that is not understood; with the line.
        UnknownName: It has no such scale.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read the suite {path}: {getattr(error, 'strerror', error)}") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path}: {error}") from error
    scales = content.pop("scales", {})
    usual = content.pop("scale", None)
    file = _File(path, text, scale)
    if not isinstance(scales, dict) or not all(isinstance(changes, dict) for changes in scales.values()):
        raise InvalidConfig(file.located(["scales"], "scales: expected a table for each name"))
    if not isinstance(usual, str | None):
        raise InvalidConfig(file.located(["scale"], "scale: expected the name of one of the scales"))
    scale = scale or usual
    if scale is not None:
        if scale not in scales:
            raise UnknownName(f"scale of {path}", scale, scales)
        content = _merged(content, scales[scale])
        file = _File(path, text, scale)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        raise InvalidConfig(file.located(where, f"{'.'.join(where)}: {first['msg']}")) from error
    for where, complaint in _dangling(suite):
        raise InvalidConfig(file.located(where, complaint))
    suite._file = file
    return suite


def _dangling(suite: Suite) -> Iterator[tuple[list[str], str]]:
    """Names that stand for nothing, and options that would do nothing: where, and what to say of it."""
    for axis in OPTION_AXES:
        for place, options in getattr(suite, axis).items():
            for used in _used(options):
                if used not in suite.sets:
                    yield [axis, place, USE], f"'{place}' uses the set '{used}', which is not there"
    for name, options in suite.sets.items():
        if USE in options:
            yield ["sets", name, USE], f'the set \'{name}\' uses another, which only places can: use = ["A", "B"]'
    for way, options in _option_sets(suite):
        for option, instead in ELSEWHERE.items():
            if option in options:
                yield [*way, option], f"{'.'.join(way)}.{option}: {instead}"
    known: dict[str, list[Any]] = {
        "goal": [str(goal) for goal in suite.goals],
        "seed": suite.seeds,
        **{AXES[axis]: list(getattr(suite, axis)) for axis in OPTION_AXES},
    }
    for number, unwanted in enumerate(suite.exclude):
        for axis, own in unwanted.items():
            for wanted in _listed(own):
                if not any(fits(place, wanted) for place in known.get(axis, [])):
                    yield ["exclude", str(number), axis], f"an exclusion names {axis} '{wanted}', which is not there"


def _option_sets(suite: Suite) -> Iterator[tuple[list[str], Options]]:
    """Every set of options, with where it stands."""
    yield ["defaults"], suite.defaults
    for axis in ("sets", *OPTION_AXES):
        for place, options in getattr(suite, axis).items():
            yield [axis, place], options


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted)]
