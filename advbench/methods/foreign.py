"""What another package adds as an attack: whether it can be one."""

from typing import Any

from advbench.methods.adapters import OPTIONS
from advbench.methods.base import Method

__all__ = ["fault_of"]


def fault_of(found: Any) -> str | None:
    """Say what keeps it from being a method; None where nothing does.

    Args:
        found: What the package's entry point names.
    """
    if not isinstance(found, type):
        return f"is of type {type(found).__name__}, expected a subclass of advbench's Method"
    if not issubclass(found, Method):
        return f"is the class {found.__name__}, expected a subclass of advbench's Method"
    missing = [f"the method `{name}`" for name in sorted(found.__abstractmethods__)]
    if missing:
        return f"lacks {', '.join(missing)}, which every method has to define"
    for name, field in found.model_fields.items():
        option = field.alias or name
        if option.replace("-", "_") in OPTIONS:
            return (
                f"has the field '{option}', which cannot be given, as 'advbench run' has an option of this name: "
                f"rename it, or give it an alias, such as Field(alias='own_{option}')"
            )
    return None
