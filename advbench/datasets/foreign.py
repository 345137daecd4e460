"""What another package adds as a dataset: whether it can be one."""

from typing import Any

__all__ = ["fault_of"]


def fault_of(found: Any) -> str | None:
    """Say what keeps it from being a dataset's loader; None where nothing does.

    Args:
        found: What the package's entry point names.
    """
    if callable(found):
        return None
    return f"is of type {type(found).__name__}, expected a function from a DatasetSpec to a Dataset"
