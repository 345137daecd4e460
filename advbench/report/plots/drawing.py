"""How every figure looks, and what belongs to one beside its lines."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advbench.errors import StorageError
from advbench.results import CellRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "ORANGE",
    "STYLES",
    "Drawing",
    "figure_of",
    "grouped",
    "legend",
    "looks",
    "panels",
    "save",
    "tidy",
    "title_of",
]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's palette, which colour-blind readers tell apart, with a brown for its yellow, which paper swallows."""
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"
"""Lines and points are told apart by shape as well as by colour."""

SUFFIXES = (".png", ".pdf", ".svg")
UNDATED: Mapping[str, Mapping[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""Drawn again from the same results, a file is the same."""


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Args:
        figure: Matplotlib's.
        title: What it is.
        alt: What it shows, for who cannot see it.
    """

    figure: "Figure"
    title: str
    alt: str


def save(
    drawings: Mapping[str, Drawing], folder: Path, suffixes: Sequence[str] = SUFFIXES, dots: int = 200
) -> list[Path]:
    """Write figures by their names, and return the PNG files.

    Args:
        drawings: What to write.
        folder: Made where it is not there.
        suffixes: In which forms; PNG is one of them.
        dots: An inch, of PNG.

    Raises:
        StorageError: The folder cannot be made or written to.
    """
    import matplotlib as mpl  # lazy: takes most of a second

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({"svg.hashsalt": "advbench"}):
            for name, drawing in drawings.items():
                for suffix in suffixes:
                    drawing.figure.savefig(folder / f"{name}{suffix}", dpi=dots, metadata=UNDATED.get(suffix))
    except OSError as error:
        raise StorageError(
            f"cannot write figures to {folder}: {error.strerror or error}; choose another folder"
        ) from error
    return [folder / f"{name}.png" for name in drawings]


def figure_of(width: float, height: float) -> "Figure":
    """An empty figure, inches."""
    from matplotlib.figure import Figure  # lazy, and without pyplot's global state

    return Figure(figsize=(width, height), layout="constrained")


def panels(names: Sequence[str], width: float = 3.6, height: float = 2.9) -> "tuple[Figure, list[Axes]]":
    """A figure with a titled panel for each name, inches, three in a row."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = figure_of(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[len(names) :]:
        spare.remove()
    for panel, name in zip(axes, names, strict=False):
        title_of(panel, name)
        tidy(panel)
    return figure, axes[: len(names)]


def title_of(panel: "Axes", words: str) -> None:
    """Write a panel's title, on several lines where it is long."""
    # Without y, Matplotlib measures all that is above a panel whenever it lays out or draws.
    panel.set_title(textwrap.fill(words, 44), fontsize=8, fontweight="bold", y=1)


def tidy(panel: "Axes") -> None:
    """Thin grid, two axes, small print."""
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=7)
    panel.xaxis.label.set_fontsize(8)
    panel.yaxis.label.set_fontsize(8)


def legend(figure: "Figure") -> None:
    """One legend for all panels, below them and as wide as they are; each name once."""
    handles: dict[str, Artist] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        wide = figure.get_figwidth()
        names = [textwrap.fill(name, int((wide - 0.6) / 0.065)) for name in handles]
        inches = 0.6 + 0.065 * max(len(line) for name in names for line in name.splitlines())
        columns = max(1, min(len(names), int(wide / inches)))
        rows = sum(1 + name.count("\n") for name in names) / columns
        figure.set_figheight(figure.get_figheight() + 0.15 * max(0, rows - 4))  # it is not to squeeze the panels
        figure.legend(
            list(handles.values()),
            names,
            loc="outside lower center",
            ncols=columns,
            fontsize=7,
            frameon=False,
        )


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour, line style and marker for each name, the same in every panel."""
    return {
        name: {
            "color": COLOURS[position % len(COLOURS)],
            "linestyle": STYLES[position // len(COLOURS) % len(STYLES)],
            "marker": MARKERS[position % len(MARKERS)],
            "markersize": 4,
        }
        for position, name in enumerate(sorted(set(names)))
    }


def grouped(records: Iterable[CellRecord], key: Callable[[CellRecord], str]) -> dict[str, list[CellRecord]]:
    """Records by what they have in common, sorted by it."""
    groups: dict[str, list[CellRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return dict(sorted(groups.items()))
