"""What only several results side by side show to be doubtful: flags by result."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from advbench.errors import AdvbenchError
from advbench.report.answers import Answers, p_of_lead, paired
from advbench.results import CellRecord, CellSpec, Flag
from advbench.types import Capability, Goal

__all__ = ["comparison_flags", "is_comparable"]

EFFORT = ("steps", "max_steps", "queries", "epochs", "restarts")
"""Parameters of which more is to help."""

CONTROLS = ("identity", "jpeg", "noise")
"""They look at nothing, so nothing about them can fail."""

CHANCE = 0.05


@dataclass(frozen=True)
class _Setting:
    """One method as it was asked for, under one budget, over its seeds.

    Args:
        records: Its results.
        answers: Which images each got right, by seed; to degrade, which of those that were right before.
    """

    records: Sequence[CellRecord]
    answers: dict[int, Answers]

    @property
    def spec(self) -> CellSpec:
        return self.records[0].spec

    @property
    def epsilon(self) -> float:
        return math.inf if self.spec.budget.epsilon is None else self.spec.budget.epsilon

    @property
    def share(self) -> float:
        """Of the images that are right, or still are, over all seeds."""
        return float(np.mean([answers.right.mean() for answers in self.answers.values()]))

    def in_words(self, share: float) -> str:
        return f"{share:.1%} {'still ' if self.spec.goal is Goal.DEGRADE else ''}right"

    @property
    def follows_gradients(self) -> bool:
        """Of each image: one perturbation for all of them may well lose to a search for each."""
        return any(record.metrics is not None and record.metrics.perturb.gradients for record in self.records)

    @property
    def is_blind(self) -> bool:
        """Whether it saw neither gradients nor weights of the target."""
        spent = [metrics for record in self.records if (metrics := record.metrics) is not None]
        gradients = sum(metrics.fit.gradients + metrics.perturb.gradients for metrics in spent)
        granted = self.spec.threat.fit | self.spec.threat.perturb
        return not gradients and (Capability.WEIGHTS not in granted or not _wants_weights(self.spec))

    def shares_beside(self, other: "_Setting") -> tuple[float, float] | None:
        """Its share and the other's, on the seeds and images that both have; None without any."""
        pair = paired(self.answers, other.answers)
        return None if pair is None else (float(pair[0].mean()), float(pair[1].mean()))

    def fails_beside(self, other: "_Setting") -> tuple[float, float] | None:
        """The same where it leaves images to turn, and goes no further than the other; else None."""
        shares = self.shares_beside(other)
        if shares is None:
            return None
        own, others = shares
        fails = 0 < own >= others if self.spec.goal is Goal.DEGRADE else 1 > own <= others
        return shares if fails else None


def _wants_weights(spec: CellSpec) -> bool:
    """Whether a method that was granted the target's weights looks at them."""
    from advbench.registry import ATTACKS  # lazy: loads PyTorch

    try:
        kind = ATTACKS.load(spec.attack)
        own = {name: value for name, value in spec.parameters.items() if name in kind.model_fields}
        needs = kind(**own).needs(spec.goal)
    except (AdvbenchError, ValidationError):  # of a package that is gone, or of another version
        return True
    return Capability.WEIGHTS in needs.fit | needs.perturb


_Earned = Iterator[tuple[_Setting, Flag]]


def comparison_flags(records: Iterable[CellRecord], answers: Mapping[str, Answers]) -> dict[str, list[Flag]]:
    """Look for attacks that others, or they themselves with less, show to have failed.

    Set side by side are runs on the same images, against the same target, with the same goal and norm.

    Args:
        records: What is compared.
        answers: Which images each result got right, by its key.

    Returns:
        Flags by the key of the result that earned them.
    """
    found: dict[str, list[Flag]] = defaultdict(list)
    for place in _grouped([record for record in records if record.key in answers], _place):
        settings = [
            _Setting(group, {record.spec.seed: answers[record.key].judged(record.spec.goal) for record in group})
            for group in _grouped(place, lambda record: (str(record.spec.budget), _asked(record)))
        ]
        for setting, flag in (*_useless_effort(settings), *_useless_epsilon(settings), *_beaten(settings)):
            for record in setting.records:
                found[record.key].append(flag)
    return found


_Item = TypeVar("_Item")


def _grouped(items: Iterable[_Item], key: Callable[[_Item], Any]) -> list[list[_Item]]:
    groups: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        groups[repr(key(item))].append(item)
    return list(groups.values())


def is_comparable(first: CellRecord, second: CellRecord) -> bool:
    """Whether two results can be set side by side: same images, target, goal and norm, and both have answers."""
    return first.metrics is not None and second.metrics is not None and _place(first) == _place(second)


def _place(record: CellRecord) -> tuple[Any, ...]:
    spec = record.spec
    return spec.dataset.digest, spec.target.name, _seedless(spec.target.made_from), spec.goal, spec.budget.norm


def _asked(record: CellRecord, but: str = "") -> tuple[Any, ...]:
    """The method as it was asked for, less one option: what it made of the others depends on the budget."""
    spec, request = record.spec, _seedless(record.request)
    options = sorted((name, value) for name, value in request.get("options", {}).items() if name != but)
    others = [request.get(name) for name in ("via", "via_fusion", "max_queries", "max_fit_queries")]
    others.append(request.get("via_learns", "truth"))  # as records held it before there was a choice
    return spec.attack, spec.threat.name, spec.dataset.fit_digest, spec.precision, options, others


def _seedless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _seedless(inner) for name, inner in value.items() if name != "seed"}
    return [_seedless(inner) for inner in value] if isinstance(value, list) else value


def _useless_effort(settings: Sequence[_Setting]) -> _Earned:
    for name in EFFORT:
        given = [setting for setting in settings if isinstance(setting.spec.parameters.get(name), int)]
        for family in _grouped(given, partial(_but_for, name)):
            for less, more in pairwise(sorted(family, key=partial(_effort, name))):
                before, after = _effort(name, less), _effort(name, more)
                if before < after and (shares := more.fails_beside(less)):
                    words = f"{more.in_words(shares[0])} with {after} {name}, {shares[1]:.1%} with {before}"
                    yield more, Flag(name="steps-do-not-help", found=words)


def _effort(name: str, setting: _Setting) -> int:
    return int(setting.spec.parameters[name])


def _but_for(name: str, setting: _Setting) -> tuple[Any, ...]:
    return setting.epsilon, _asked(setting.records[0], name)


def _useless_epsilon(settings: Sequence[_Setting]) -> _Earned:
    bounded = [each for each in settings if each.spec.attack not in CONTROLS and math.isfinite(each.epsilon)]
    for family in _grouped(bounded, lambda each: _asked(each.records[0])):
        for less, more in pairwise(sorted(family, key=lambda each: each.epsilon)):
            if shares := more.fails_beside(less):
                words = f"{more.in_words(shares[0])} with {more.epsilon:g}, {shares[1]:.1%} with {less.epsilon:g}"
                yield more, Flag(name="epsilon-does-not-help", found=words)


def _beaten(settings: Sequence[_Setting]) -> _Earned:
    """By noise, or, though it follows gradients, by what sees none: under each bound by itself."""
    for within in _grouped([each for each in settings if math.isfinite(each.epsilon)], lambda each: each.epsilon):
        attacks = [each for each in within if each.spec.attack not in CONTROLS]
        for noise in [each for each in within if each.spec.attack == "noise"][:1]:
            for attack in attacks:
                if shares := attack.fails_beside(noise):
                    words = f"{attack.in_words(shares[0])}, {shares[1]:.1%} under noise"
                    yield attack, Flag(name="noise-is-stronger", found=words)
        for alike in _grouped(attacks, lambda each: each.spec.threat.is_oracle):
            yield from _beaten_blindly(alike)


def _beaten_blindly(attacks: Sequence[_Setting]) -> _Earned:
    seeing = [attack for attack in attacks if attack.follows_gradients]
    if not seeing:
        return
    goal = seeing[0].spec.goal
    furthest = min if goal is Goal.DEGRADE else max
    best = furthest(seeing, key=lambda attack: attack.share)
    beating = [each for each in attacks if each.is_blind and p_of_lead(each.answers, best.answers, goal) < CHANCE]
    if beating:
        by = furthest(beating, key=lambda attack: attack.share)
        shares = best.shares_beside(by)
        assert shares is not None  # it leads beyond chance on what both have
        words = f"{best.in_words(shares[0])}, {shares[1]:.1%} under {by.spec.attack}"
        yield best, Flag(name="black-box-is-stronger", found=words)
