"""``advbench regions``: figures that need the classifiers again."""

from pathlib import Path

import click

from advbench.cli.main import main
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line

__all__ = ["regions"]


@main.command()
@click.argument("chosen", nargs=-1, required=True, metavar="RESULT...")
@RESULTS
@click.option("--image", default=0, show_default=True, help="Which of the evaluation images, from 0 on.")
@click.option("--reach", default=0.5, show_default=True, help="How far to go each way, RMS of pixels in [0, 1].")
@click.option("--points", default=61, show_default=True, type=click.IntRange(3), help="Along each axis.")
@click.option("--figures", type=click.Path(path_type=Path), default=Path("figures"), show_default=True, metavar="DIR")
@errors_in_one_line
def regions(chosen: tuple[str, ...], results: Path, image: int, reach: float, points: int, figures: Path) -> None:
    """Draw decision regions around one image, for the targets of one or several RESULTs.

    The plane is spanned by the gradient of the first one's loss and a random direction, the same for all.
    """
    from advbench.bench import decision_plane
    from advbench.report.plots import regions as drawn
    from advbench.report.plots import save
    from advbench.results import ResultStore

    store = ResultStore(results)
    records = [store.find(name) for name in chosen]
    screen = Screen()
    with screen:
        plane = decision_plane(records, image, reach, points, screen)
    drawing = drawn(plane.predictions, plane.positions, plane.label, records[0].classes)
    for path in save({"regions": drawing}, figures):
        screen.show(f"figure {path}")
