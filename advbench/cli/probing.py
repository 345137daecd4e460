"""``advbench probe``: what a generator's encoder knows by itself."""

from typing import TYPE_CHECKING

import click

from advbench.cli.main import main
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line

if TYPE_CHECKING:
    from rich.table import Table

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
    from advbench.bench import Workshop, linear_probe
    from advbench.results import ResultStore

    store, screen, workshop = ResultStore(results), Screen(), Workshop()
    records = [store.find(name) for name in chosen]
    with screen:
        probes = [linear_probe(record, screen, workshop) for record in records]
    screen.show(_table(records, probes))


def _table(records: "list[CellRecord]", probes: "list[LinearProbe]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from advbench.report.tables import with_interval

    table = Table(box=SIMPLE_HEAD, title="accuracy on the same images", title_justify="left")
    for column in ("result", "attack", "goal", "clean", "perturbed", "linear probe", "fitted on"):
        table.add_column(column, no_wrap=True)
    for record, found in zip(records, probes, strict=True):
        metrics = record.metrics
        clean, moved = (
            ("-", "-") if metrics is None else (f"{metrics.clean_accuracy:.1%}", f"{metrics.valid_accuracy:.1%}")
        )
        low_high = (found.accuracy.low, found.accuracy.high)
        table.add_row(
            record.key[:10], record.spec.attack, record.spec.goal, clean, moved,
            with_interval(found.accuracy.value, low_high), f"{found.images} images",
        )  # fmt: skip
    return table
