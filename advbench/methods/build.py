"""Making a method from its registered name."""

from typing import Any

from pydantic import ValidationError

from advbench.errors import InvalidConfig, UnknownName
from advbench.methods.base import Method
from advbench.registry import ATTACKS

__all__ = ["build_method"]


def build_method(attack: str, options: dict[str, Any]) -> Method:
    """Make a method from its name and options, all of which reach it.

    Raises:
        UnknownName: There is no such attack, or it has no such option.
        InvalidConfig: An option's value does not fit.
    """
    entry = ATTACKS.entry(attack)
    kind: type[Method] = ATTACKS.load(attack)
    known = {field.alias or name for name, field in kind.model_fields.items()}
    for name in options:
        if name not in known:
            raise UnknownName(f"option of {attack}", name, known, option=name.replace("_", "-"))
    try:
        return kind(**{**entry.presets, **options})
    except ValidationError as error:
        first = error.errors()[0]
        option = "-".join(map(str, first["loc"])).replace("_", "-")
        message = f"--{option} of {attack}: {first['msg']}, got {first['input']!r}"
        raise InvalidConfig(message, option=option) from error
