"""What another package adds as a dataset: whether it can be one."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from advbench.datasets.base import Dataset, LabelledImages
from advbench.errors import AdvbenchError, InvalidData

__all__ = ["fault_of", "load_foreign"]


def fault_of(found: Any) -> str | None:
    """Say what keeps it from being a dataset's loader; None where nothing does.

    Args:
        found: What the package's entry point names.
    """
    if callable(found):
        return None
    return f"is of type {type(found).__name__}, expected a function from a DatasetSpec to a Dataset"


def load_foreign(whose: str, load: Callable[[], Any], image_size: int | None) -> Dataset:
    """Call another package's loader, and look at the labels and the first image of each part that it gives.

    Args:
        whose: The dataset and its package, for messages.
        load: The loader, given its specification.
        image_size: Which was asked for; None leaves it to the loader.

    Raises:
        InvalidData: It raises, or gives something else than a dataset.
    """
    try:
        loaded = load()
        if not isinstance(loaded, Dataset):
            raise InvalidData(f"{whose}: expected its loader to return a Dataset, got {_described(loaded)}")
        if image_size not in (None, loaded.image_size):
            raise InvalidData(f"{whose}: expected images of --image-size {image_size}, got {loaded.image_size}")
        for part in ("fit", "validation", "evaluation"):
            _check_part(f"{whose}, {part} part", getattr(loaded, part), len(loaded.classes), loaded.image_size)
    except AdvbenchError:
        raise
    except Exception as error:  # its own code runs here, and may raise anything
        raise InvalidData(f"{whose}: it raised {type(error).__name__}: {error}") from error
    return loaded


def _check_part(whose: str, part: Any, classes: int, size: int) -> None:
    if not isinstance(part, LabelledImages) or not len(part):
        came = "none" if isinstance(part, LabelledImages) else _described(part)
        raise InvalidData(f"{whose}: expected LabelledImages with at least one image, got {came}")
    expected = f"int64 ({len(part)},)"
    for name, numbers in (("labels", part.labels), ("rows", part.rows)):
        if _described(numbers) != expected:
            came = _described(numbers)
            raise InvalidData(f"{whose}: expected {name} as a tensor, {expected}, one for each id; got {came}")
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= classes:
        raise InvalidData(
            f"{whose}: expected labels from 0 to {classes - 1}, as it names {classes} classes; got {low} to {high}"
        )
    expected, came = f"uint8 (1, 3, {size}, {size})", _described(part.pixels.fetch(part.rows[:1]))
    if came != expected:
        raise InvalidData(f"{whose}: expected its first image as a tensor, {expected}, from 0 to 255; got {came}")


def _described(value: Any) -> str:
    """A tensor's type and shape, and what anything else is."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
