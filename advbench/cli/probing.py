"""``advbench probe``: what a generator's encoder knows by itself."""

from typing import TYPE_CHECKING

import click

from advbench.cli.main import main
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from advbench.bench import LinearProbe
    from advbench.results import CellRecord

__all__ = ["probe"]


@main.command()
@click.argument("chosen", nargs=-1, required=True, metavar="RESULT...")
@RESULTS
@errors_in_one_line
def probe(chosen: tuple[str, ...], results: str) -> None:
    """Set RESULTs of a generator beside a linear probe of its encoder on the same images.

    An enhanced accuracy below the probe's is what the encoder knows of the classes, put into a perturbation.
    """
    from advbench.bench import Workshop, check_encoder, linear_probe
    from advbench.results import find_result

    screen, workshop = Screen(), Workshop()
    records = [find_result(name, results)[1] for name in chosen]
    for record in records:
        check_encoder(record)
    with screen:
        probes = [linear_probe(record, screen, workshop) for record in records]
    screen.show(_table(records, probes))


def _table(records: "list[CellRecord]", probes: "list[LinearProbe]") -> "RenderableType":
    from advbench.report.formats import Cell, Grid, as_terminal
    from advbench.report.tables import percent, with_interval

    rows = []
    for record, found in zip(records, probes, strict=True):
        metrics = record.metrics
        clean, moved = (None, None) if metrics is None else (metrics.clean_accuracy, metrics.valid_accuracy)
        probed = with_interval(found.accuracy.value, (found.accuracy.low, found.accuracy.high))
        named = (record.key[:10], record.spec.attack, str(record.spec.goal))
        rows.append([*named, percent(clean), percent(moved), probed.strip(), f"{found.images} images"])
    header = ["result", "attack", "goal", "clean", "perturbed", "linear probe", "fitted on"]
    cells = [[Cell(words) for words in row] for row in rows]
    return as_terminal(Grid("accuracy on the same images", header, cells, named_by=3))
