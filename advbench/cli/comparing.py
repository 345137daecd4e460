"""``advbench compare`` and ``advbench query``: what stored results say together."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advbench.cli.main import main, request_of
from advbench.cli.options import RESULTS
from advbench.cli.screen import Screen, errors_in_one_line, garbage_kept
from advbench.cli.suites import SCALE, results_of
from advbench.errors import InvalidConfig

if TYPE_CHECKING:
    from advbench.results import CellRecord, ResultStore
    from advbench.threat import ThreatModel

__all__ = ["compare", "query"]


@main.command()
@click.argument("chosen", nargs=-1, metavar="[RESULT]...")
@RESULTS
@click.option(
    "--suite", "file", type=click.Path(path_type=Path), metavar="FILE", help="This suite's results, instead of RESULTs."
)
@SCALE
@click.option("--dataset", metavar="NAME", help="Only this dataset's results.")
@click.option("--threat", metavar="NAME", help="Only results of attackers who were granted no more than this.")
@click.option("--images", type=click.Choice(["raw", "valid", "uint8"]), help="Which images count; see below.")
@click.option("--against", "published", metavar="NAME", help="Beside published numbers: butterfly.")
@click.option(
    "--format",
    "form",
    default="terminal",
    show_default=True,
    type=click.Choice(["terminal", "markdown", "latex", "csv", "json"]),
)
@click.option("--figures", type=click.Path(path_type=Path), metavar="DIR", help="Draw figures into DIR.")
@errors_in_one_line
@garbage_kept()
def compare(
    chosen: tuple[str, ...],
    results: str,
    file: Path | None,
    scale: str | None,
    dataset: str | None,
    threat: str | None,
    images: Any,
    published: str | None,
    form: str,
    figures: Path | None,
) -> None:
    """Compare stored results: a table for each dataset, goal and budget, rows targets, columns methods.

    Accuracies are on raw images where a run had no bound, as in the paper, and on valid ones under a budget, unless
    --images says otherwise. RESULT: keys, or their beginnings; all results, if left out.
    """
    from advbench.report import formats
    from advbench.report.compare import compare as compared
    from advbench.report.compare import newest
    from advbench.report.published import PUBLISHED, against
    from advbench.results import ResultStore

    if published is not None and images is not None:
        raise InvalidConfig("published numbers are on raw images: leave out --images", option="images")
    store = ResultStore(results)
    found, names = _records(store, chosen, file, scale)
    records = [
        record
        for record in found
        if dataset in (None, record.spec.dataset.name) and (threat is None or _is_within(record.spec.threat, threat))
    ]
    if not records:
        raise InvalidConfig(
            f"there is nothing to compare in {results}: run something first, or name another --results"
            if not found
            else f"none of the {len(found)} results fits --dataset and --threat: see 'advbench list results'"
        )
    tables = compared(records, store, images, names) if published is None or figures is not None else []
    if published is not None:
        rows = against(newest(records), published)
        grids = [formats.against_grid(rows, PUBLISHED[published])]
        for_programs = grids[0]
        plain = json.dumps([row.model_dump(mode="json") for row in rows], indent=2)
    else:
        grids = formats.comparison_grids(tables)
        for_programs = formats.cells_grid(tables)
        plain = json.dumps([table.model_dump(mode="json") for table in tables], indent=2)
    screen = Screen()
    if figures is not None:
        from advbench.report.plots import comparison_figures, save

        for drawn in save(comparison_figures(records, tables, store), figures):
            screen.say(f"figure {drawn}")
    for grid in grids if form not in ("csv", "json") else []:
        if form == "terminal":
            screen.show(formats.as_terminal(grid))
        else:
            click.echo(formats.as_markdown(grid) if form == "markdown" else formats.as_latex(grid))
    if form == "json":
        click.echo(plain)
    elif form == "csv":
        click.echo(formats.as_csv(for_programs), nl=False)


def _is_within(own: "ThreatModel", name: str) -> bool:
    from advbench.threat import Needs, threat_model

    return threat_model(name, Needs()).lacks(Needs(fit=own.fit, perturb=own.perturb)) is None


def _records(
    store: "ResultStore", chosen: tuple[str, ...], file: Path | None, scale: str | None
) -> "tuple[list[CellRecord], dict[str, str]]":
    if file is None:
        if scale is not None:
            raise InvalidConfig(f"--scale {scale} is a suite's: name the suite by --suite", option="scale")
        return [store.find(name) for name in chosen] if chosen else store.records(), {}
    if chosen:
        raise InvalidConfig("name results or a suite, not both")
    from advbench.suites import load_suite, plan

    return results_of(plan(load_suite(file, scale), request_of, store))


@main.command()
@click.argument("sql")
@RESULTS
@click.option("--format", "form", default="terminal", show_default=True, type=click.Choice(["terminal", "csv", "json"]))
@errors_in_one_line
def query(sql: str, results: str, form: str) -> None:
    """Ask all stored results in SQL: the tables are 'results', one row a run, and 'samples', one row an image.

    advbench query "select attack, target, avg(valid_accuracy) from results group by all"
    """
    from advbench.report import formats
    from advbench.report.query import ask
    from advbench.results import ResultStore

    answer = ask(sql, ResultStore(results))
    if form == "json":
        click.echo(answer.as_json)
        return
    rows = [[formats.Cell("" if value is None else str(value)) for value in row] for row in answer.rows]
    grid = formats.Grid("", answer.columns, rows)
    if form == "csv":
        click.echo(formats.as_csv(grid), nl=False)
    else:
        Screen().show(formats.as_terminal(grid))
