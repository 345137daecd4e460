"""``advbench regions``: figures that need the classifiers again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from advbench.cli.main import main
from advbench.cli.options import RATE, RESULTS
from advbench.cli.screen import Screen, errors_in_one_line
from advbench.errors import AdvbenchError

if TYPE_CHECKING:
    from advbench.report.plots import Drawing
    from advbench.results import CellRecord

__all__ = ["POINTS", "REACH", "region_drawings", "regions"]

REACH, POINTS = 0.5, 61
"""How far a plane goes each way, RMS of pixels in [0, 1], and along each axis how many images are asked about."""


@main.command()
@click.argument("chosen", nargs=-1, required=True, metavar="RESULT...")
@RESULTS
@click.option("--image", default=0, show_default=True, help="Which of the evaluation images, from 0 on.")
@click.option(
    "--reach",
    default=REACH,
    show_default=True,
    type=RATE,
    help="How far to go each way, RMS of pixels in [0, 1].",
)
@click.option("--points", default=POINTS, show_default=True, type=click.IntRange(3), help="Along each axis.")
@click.option("--figures", type=click.Path(path_type=Path), default=Path("figures"), show_default=True, metavar="DIR")
@errors_in_one_line
def regions(chosen: tuple[str, ...], results: Path, image: int, reach: float, points: int, figures: Path) -> None:
    """Draw decision regions around one image, for the targets of one or several RESULTs.

    The plane is spanned by the gradient of the first one's loss and a random direction, the same for all.
    """
    from advbench.bench import decision_plane
    from advbench.report.plots import regions as drawn
    from advbench.report.plots import save
    from advbench.results import find_result

    records = [find_result(name, results)[1] for name in chosen]
    screen = Screen()
    with screen:
        plane = decision_plane(records, image, reach, points, screen)
    drawing = drawn(plane.predictions, plane.positions, plane.label, records[0].classes)
    for path in save({"regions": drawing}, figures):
        screen.show(f"figure {path}")


def region_drawings(records: "Sequence[CellRecord]", images: int, screen: Screen) -> "dict[str, Drawing]":
    """Decision regions around the first images of each dataset, one figure an image with a panel for each target.

    A target is asked once, whatever its results' seeds. Where targets cannot be asked again, that is said.
    """
    from advbench.bench import decision_plane
    from advbench.report.labels import target_labels, told_by_images
    from advbench.report.plots import regions as drawn

    names, images_of = target_labels(records), told_by_images(records, lambda record: record.spec.dataset.name)
    datasets: dict[str, dict[str, CellRecord]] = {}
    for record in records if images else ():
        datasets.setdefault(images_of[record.key], {}).setdefault(names[record.key], record)
    drawings: dict[str, Drawing] = {}
    for dataset, targets in datasets.items():
        own = list(targets.values())
        for image in range(images):
            try:
                with screen:
                    plane = decision_plane(own, image, REACH, POINTS, screen)
            except AdvbenchError as error:
                screen.say(f"no decision regions around image {image} of {dataset}: {error}")
                break
            drawing = drawn(plane.predictions, plane.positions, plane.label, own[0].classes)
            title = f"{drawing.title}, image {image} of {dataset}, {own[0].spec.dataset.image_size} px"
            drawings[f"regions-{len(drawings) + 1}"] = replace(drawing, title=title)
    return drawings
