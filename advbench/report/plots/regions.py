"""Decision regions around one image, as in figure 3 of Liu et al. 2016."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from advbench.report.classes import in_words
from advbench.report.labels import target_labels
from advbench.report.plots.drawing import COLOURS, Drawing, panels
from advbench.results import CellRecord

__all__ = ["regions"]

OTHER = "#DDDDDD"


def regions(
    predictions: Sequence[tuple[CellRecord, NDArray[np.int64]]],
    positions: NDArray[np.float64],
    truth: int,
    classes: Sequence[str],
) -> Drawing:
    """A panel for each target, a colour for each class, the image itself in the middle.

    Args:
        predictions: For each target a result, and ``(positions, positions)`` classes; the gradient is along the
            columns.
        positions: Along both axes, pixels in [0, 1] as a root mean square.
        truth: The image's true class.
        classes: Names, as the data has them.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    classes = in_words(classes)
    largest = np.bincount(np.concatenate([each.ravel() for _, each in predictions]), minlength=len(classes))
    named = [int(each) for each in np.argsort(-largest, kind="stable") if largest[each]][: len(COLOURS)]
    code = np.full(len(classes), len(named))
    code[named] = np.arange(len(named))
    colours = [*COLOURS[: len(named)], OTHER]
    palette, steps = ListedColormap(colours), BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    targets = target_labels([record for record, _ in predictions])
    names = [targets[record.key] for record, _ in predictions]
    names = [f"{name}, {n}" if name in names[: n - 1] else name for n, name in enumerate(names, start=1)]
    figure, axes = panels(names, width=2.9, height=2.9)
    reach = float(positions[-1])
    kept = {}
    for panel, name, (_, predicted) in zip(axes, names, predictions, strict=True):
        panel.imshow(
            code[predicted], cmap=palette, norm=steps, origin="lower", extent=(-reach, reach, -reach, reach),
            interpolation="nearest",
        )  # fmt: skip
        panel.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=2)
        panel.set(xlabel="along the gradient, RMS", ylabel="a random direction, RMS")
        panel.grid(visible=False)
        kept[name] = float((predicted == truth).mean())
    shown = [Patch(color=colour, label=classes[each]) for each, colour in zip(named, colours, strict=False)]
    shown += [Patch(color=OTHER, label="others")] if (largest > 0).sum() > len(named) else []
    wide = max(1, int(figure.get_figwidth() / (0.5 + 0.065 * max(len(classes[each]) for each in named))))
    figure.legend(handles=shown, loc="outside lower center", ncols=min(len(shown), wide), fontsize=7, frameon=False)
    words = "; ".join(f"{name} sees {classes[truth]} on {share:.0%} of it" for name, share in kept.items())
    return Drawing(figure, f"Decision regions around a {classes[truth]}", f"The plane through one image: {words}.")
