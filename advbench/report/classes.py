"""Classes in words, where data names them by numbers."""

from collections.abc import Sequence

__all__ = ["in_words"]

IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""WordNet's numbers of Imagenette's folders, in the words of its README, https://github.com/fastai/imagenette."""


def in_words(classes: Sequence[str]) -> list[str]:
    """Names to be shown: words where they are known, else as they are."""
    return [IMAGENETTE.get(name, name) for name in classes]
