"""A peer's parameters as options, read from its signature."""

import inspect
import re
import types
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

__all__ = ["OPTIONS", "RESERVED", "Parameter", "parameters_of"]

# fmt: off
OPTIONS = frozenset({
    "attack", "batch", "class_seed", "data", "dataset", "device", "devices", "download", "epsilon", "fit_images",
    "goal", "help", "image_size", "init", "json", "limit", "max_fit_queries", "max_queries", "norm", "precision",
    "results", "seed", "target", "target_batch", "target_epochs", "target_images", "target_lr", "target_normalisation",
    "threat", "true_labels", "via", "via_batch", "via_epochs", "via_fusion", "via_learns", "via_lr",
    "via_normalisation", "via_weights",
})
# fmt: on
"""Options of the command, which a method's of the same name would never be given."""

RESERVED = OPTIONS | {"as_json", "label"}
"""What a peer's parameter must not hide, the adapters' own option included: it is called ``peer_NAME``."""

PLAIN = (bool, int, float, str)


class Parameter:
    """One parameter of a peer that can be given as an option.

    Args:
        name: The peer's own.
        annotation: What its value has to be.
        default: Ellipsis where it must be given.
        meaning: From the peer's documentation, or empty.
    """

    def __init__(self, name: str, annotation: Any, default: Any, meaning: str) -> None:
        self.name, self.annotation, self.default, self.meaning = name, annotation, default, meaning

    @property
    def option(self) -> str:
        """What it is called here."""
        # adv-lib writes Greek letters, which few keyboards have.
        plain = "".join(
            letter if letter.isascii() else unicodedata.name(letter).lower().removeprefix("greek small letter ")
            for letter in self.name
        )
        return f"peer_{plain}" if plain in RESERVED else plain

    @property
    def field(self) -> FieldInfo:
        """As a model's field."""
        info: FieldInfo = Field(default=self.default)
        return info


def parameters_of(function: Callable[..., Any], doc: str, hidden: Collection[str]) -> tuple[list[Parameter], list[str]]:
    """Read a signature.

    Args:
        function: A function, or a class's constructor.
        doc: Its documentation.
        hidden: Parameters that the adapter gives itself.

    Returns:
        Those that can be options; and the names of those without a default that cannot.
    """
    options, missing = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in hidden or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = _annotation(parameter, vars(inspect.getmodule(function)))
        if annotation is not None:
            options.append(Parameter(name, annotation, default, _meaning(name, doc)))
        elif default is ...:
            missing.append(name)
    return options, missing


def _annotation(parameter: inspect.Parameter, names: Mapping[str, Any]) -> Any:
    """What a value given as text is read as, or None where text cannot say it."""
    default, wanted = parameter.default, parameter.annotation
    if wanted is parameter.empty:
        # Without an annotation a whole number may stand for any: `c=1` is a weight.
        return {bool: bool, int: int | float, float: float, str: str}.get(type(default))
    if isinstance(wanted, str):
        try:
            wanted = eval(wanted, dict(names))  # not all of a signature at once, as parts of it often cannot be
        except (NameError, TypeError):  # named under TYPE_CHECKING only: never a plain value
            return None
    kept = [part for part in _parts(wanted) if part in PLAIN or get_origin(part) is Literal]
    if not kept or not (default is parameter.empty or default is None or isinstance(default, PLAIN)):
        return None
    if float in kept and int in kept and str in kept:  # ART's norms and the like
        kept.remove(str)
    if default is None or type(None) in _parts(wanted):
        kept.append(type(None))
    return Union[tuple(kept)]  # noqa: UP007


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _meaning(name: str, doc: str) -> str:
    found = re.search(rf"^\s*(?::param )?`*{re.escape(name)}`*\s*(?:\([^)\n]*\))?\s*:(.*(?:\n\s+[^:\n]+$)*)", doc, re.M)
    return re.sub(r"\s+", " ", found.group(1)).strip() if found else ""
