"""What a method may touch, how often, and how far it may move an image."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from advbench.errors import InvalidConfig, UnknownName
from advbench.types import ALL_CAPABILITIES, Capability, Norm

__all__ = ["THREATS", "Budget", "Needs", "ThreatModel", "parse_epsilon", "threat_model"]


def parse_epsilon(text: str) -> float:
    """Read an epsilon in [0, 1] pixel scale, written as a number or a fraction such as ``8/255``."""
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise InvalidConfig(f"epsilon '{text}' is not a number or a fraction such as 8/255", option="epsilon") from None


class Budget(BaseModel):
    """How far a perturbed image may lie from the clean one.

    Args:
        norm: The norm over all channels and pixels of an image.
        epsilon: The largest norm, with pixels in [0, 1]; None is the paper's protocol, without a bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm = Norm.LINF
    epsilon: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        epsilon = self.epsilon
        if epsilon is None:
            return self
        if not math.isfinite(epsilon) or epsilon < 0:
            raise InvalidConfig(
                f"epsilon must be a finite number of at least 0, got {epsilon}; leave it out for an unbounded run",
                option="epsilon",
            )
        if self.norm is Norm.LINF and epsilon > 1:
            raise InvalidConfig(
                f"epsilon is in [0, 1] pixel scale under linf, got {epsilon:g}; "
                f"for {epsilon:g} grey levels of 255 write {epsilon:g}/255",
                option="epsilon",
            )
        return self

    def __str__(self) -> str:
        if self.epsilon is None:
            return "unbounded" if self.norm is Norm.LINF else f"unbounded, {self.norm}"
        return f"{self.norm} {_in_words(self.epsilon)}"


def _in_words(epsilon: float) -> str:
    """An epsilon as the field writes it: 16/255 rather than 0.0627451, but 0.1 as it is."""
    decimal, levels = f"{epsilon:g}", 255 * epsilon
    is_whole = round(levels) > 0 and math.isclose(levels, round(levels), rel_tol=1e-6)
    return f"{round(levels)}/255" if is_whole and len(decimal) > len("0.123") else decimal


class Needs(BaseModel):
    """What a method declares it will touch while it is fitted and while it perturbs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: frozenset[Capability] = frozenset()
    perturb: frozenset[Capability] = frozenset()


Grants = Annotated[frozenset[Capability], PlainSerializer(sorted, return_type=list[Capability], when_used="json")]
"""Written in one order, because a result's key is a hash of what is written."""


class ThreatModel(BaseModel):
    """What is granted to a method in each phase.

    Args:
        name: A preset's name, with what was added to it.
        fit: Granted while the method is fitted on the attacker's own labelled images.
        perturb: Granted while the method perturbs the evaluation images.
        max_queries: The most queries for one image while perturbing; None sets no limit.
        max_fit_queries: The most queries in all while fitting; None sets no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fit: Grants
    perturb: Grants
    max_queries: int | None = Field(default=None, ge=0)
    max_fit_queries: int | None = Field(default=None, ge=0)

    def lacks(self, needs: Needs) -> str | None:
        """Say what ``needs`` asks for and this threat model does not grant, or None when it grants all."""
        missing = [
            f"{', '.join(sorted(needed - granted))} in {phase}"
            for phase, needed, granted in (
                ("fitting", needs.fit, self.fit),
                ("perturbing", needs.perturb, self.perturb),
            )
            if needed - granted
        ]
        return f"threat model '{self.name}' does not grant {' or '.join(missing)}" if missing else None

    @property
    def is_oracle(self) -> bool:
        """Whether the evaluation's correct classes are granted."""
        return Capability.TRUE_LABELS in self.perturb

    def with_true_labels(self) -> "ThreatModel":
        """Grant the evaluation's correct classes as well: an oracle, named so in every result."""
        return self.model_copy(
            update={"name": f"{self.name}+true-labels", "perturb": self.perturb | {Capability.TRUE_LABELS}}
        )


def _preset(name: str, *capabilities: Capability) -> ThreatModel:
    granted = frozenset(capabilities)
    return ThreatModel(name=name, fit=granted | {Capability.TRUE_LABELS}, perturb=granted)


THREATS: Mapping[str, ThreatModel] = MappingProxyType(
    {
        threat.name: threat
        for threat in (
            _preset("black-box-labels", Capability.LABELS),
            _preset("black-box-scores", Capability.LABELS, Capability.SCORES),
            _preset("known-structure", Capability.LABELS, Capability.STRUCTURE),
            _preset("white-box", *(ALL_CAPABILITIES - {Capability.TRUE_LABELS})),
        )
    }
)
"""The presets, from the one that grants least to the one that grants most."""


def threat_model(name: str | None, needs: Needs) -> ThreatModel:
    """Look a preset up by name, or, without a name, take the one that grants least of those that meet ``needs``.

    True labels while perturbing are in none, and do not count here: they are granted beside one, or lacking.

    Raises:
        UnknownName: No preset has this name.
    """
    if name is not None:
        if name not in THREATS:
            raise UnknownName("threat model", name, THREATS, option="threat")
        return THREATS[name]
    grantable = needs.model_copy(update={"perturb": needs.perturb - {Capability.TRUE_LABELS}})
    return next(threat for threat in THREATS.values() if threat.lacks(grantable) is None)
