"""One table in every form that a reader may want: terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from advbench.report.compare import ComparedCell, ComparedTable
from advbench.report.published import AgainstRow
from advbench.results import legend, marks
from advbench.types import Goal

__all__ = [
    "Cell",
    "Grid",
    "against_grid",
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_terminal",
    "cells_grid",
    "comparison_grid",
    "comparison_grids",
    "on_one_line",
]


@dataclass(frozen=True)
class Cell:
    """What one place of a table shows: words, what is to be read with them, whether it stands out, flags' letters."""

    text: str
    detail: str = ""
    strong: bool = False
    flags: str = ""

    @property
    def flagged(self) -> str:
        """Its words with its flags' letters."""
        return f"{self.text} ⚑{self.flags}" if self.flags else self.text

    @property
    def whole(self) -> str:
        """On one line."""
        return f"{self.flagged} {self.detail}".strip()


@dataclass(frozen=True)
class Grid:
    """A table of words.

    Args:
        title: Above it.
        header: The columns.
        rows: As wide as the header.
        notes: Below it.
        wide: The last column holds sentences.
        methods: Which method each column is of, in a comparison.
        named_by: How many of the first columns say which row it is.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    wide: bool = False
    methods: Sequence[str | None] = ()
    named_by: int = 1


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, without its sign."""
    return "-" if value is None else f"{100 * value:.1f}"


def comparison_grids(tables: Iterable[ComparedTable]) -> list[Grid]:
    """Each comparison as words: its accuracies, and what share of the images it changed and turned."""
    return [grid for table in tables for grid in (comparison_grid(table), _turned_grid(table))]


def comparison_grid(table: ComparedTable) -> Grid:
    """A comparison's accuracies: each cell its mean, its interval, and the spread where there are several seeds."""
    worst = "worst case" if table.goal is Goal.DEGRADE else "best case"
    seeds = _seeds(table)
    rows = []
    failures = []
    for row in table.rows:
        cells = [Cell(row.target), Cell(percent(row.clean))]
        for method in table.methods:
            cell = row.cells.get(method)
            cells.append(_shown(cell, seeds))
            if cell is not None and cell.reason is not None:
                failures.append(f"{row.target}, {method}: {cell.reason}")
        rows.append([*cells, Cell(percent(row.worst))])
    arrow = "lower is stronger" if table.goal is Goal.DEGRADE else "higher is stronger"
    notes = [
        f"accuracy in percent on {table.images} {table.version} images, {arrow}; [95% interval over images]"
        + ("; (lowest to highest seed)" if seeds > 1 else ""),
        "marked: beyond chance from every other method of its row (paired, Holm-corrected, 5%)",
        f"{worst}: right under {'every method' if table.goal is Goal.DEGRADE else 'any method'} of the row"
        + (", oracles aside" if table.oracles else "")
        + (", over the seeds that all of them have" if seeds > 1 else ""),
        *_called(table),
        *_granted(table),
        *legend(flag.name for row in table.rows for cell in row.cells.values() for flag in cell.flags),
        *failures,
    ]
    header = ["target", "clean", *table.methods, worst]
    return Grid(table.title, header, rows, notes, methods=[None, None, *table.methods, None], named_by=2)


def _turned_grid(table: ComparedTable) -> Grid:
    """A comparison's two denominators: the share of all images that changed, and of those that could that turned."""
    rows = [[Cell(row.target), *(_turned(row.cells.get(method)) for method in table.methods)] for row in table.rows]
    before, after = ("right", "wrong") if table.goal is Goal.DEGRADE else ("wrong", "right")
    notes = [
        f"the percent of all {table.images} {table.version} images whose class changed / "
        f"the percent {after} after, of those {before} before"
    ]
    header = ["target", *table.methods]
    return Grid(f"{table.title}: changed / turned", header, rows, notes, methods=[None, *table.methods])


def _turned(cell: ComparedCell | None) -> Cell:
    if cell is None or cell.changed is None:
        return Cell("" if cell is None else str(cell.status))
    return Cell(f"{percent(cell.changed)} / {percent(cell.turned)}")


def cells_grid(tables: Iterable[ComparedTable]) -> Grid:
    """All comparisons as one table for programs: a row a target and method, shares as fractions."""
    header = [
        *("dataset", "image_size", "images", "version", "goal", "budget", "target", "method", "threat"),
        *("status", "accuracy", "low", "high", "lowest_seed", "highest_seed", "seeds", "best", "flags"),
        *("clean_accuracy", "changed", "turned", "robust_accuracy", "queries", "gradients", "ms_per_image", "results"),
    ]
    rows = []
    for table in tables:
        place = (table.dataset, table.image_size, table.images, table.version, table.goal, table.budget)
        for row in table.rows:
            for method, cell in row.cells.items():
                spans = (*(cell.interval or (None, None)), *(cell.spread or (None, None)))
                named = (row.target, method, " ".join(cell.threats))
                own = (*named, cell.status, cell.accuracy, *spans, len(cell.seeds), cell.best)
                flags, results = " ".join(flag.name for flag in cell.flags), " ".join(cell.keys)
                cost = (cell.queries, cell.gradients, cell.ms_per_image, results)
                values = (*place, *own, flags, row.clean, cell.changed, cell.turned, cell.robust, *cost)
                rows.append([Cell(_plain(value)) for value in values])
    return Grid("", header, rows)


def _plain(value: object) -> str:
    """For programs: six digits are more than any of these is known to."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _called(table: ComparedTable) -> list[str]:
    """What the columns are whose names do not say it."""
    names: dict[str, list[str]] = {}
    for name in table.methods:
        if not name.lower().startswith(table.attacks[name]):
            names.setdefault(table.attacks[name], []).append(name)
    return ["; ".join(f"{' | '.join(own)}: {attack}" for attack, own in names.items())] if names else []


def _granted(table: ComparedTable) -> list[str]:
    """Which columns ran under which threat models."""
    names: dict[str, list[str]] = {}
    for method in table.methods:
        own = {threat for row in table.rows if method in row.cells for threat in row.cells[method].threats}
        names.setdefault(" or ".join(sorted(own)), []).append(method)
    return ["threat models: " + "; ".join(f"{' | '.join(own)}: {threat}" for threat, own in sorted(names.items()))]


def _seeds(table: ComparedTable) -> int:
    return max((len(cell.seeds) for row in table.rows for cell in row.cells.values()), default=0)


def _shown(cell: ComparedCell | None, seeds: int) -> Cell:
    """A cell, with how many seeds it is over where others of its table are over more."""
    if cell is None:
        return Cell("")
    if cell.accuracy is None or cell.interval is None or cell.spread is None:
        return Cell(str(cell.status), flags=marks(flag.name for flag in cell.flags))
    detail = f"[{percent(cell.interval[0])}, {percent(cell.interval[1])}]"
    if len(cell.seeds) > 1:
        detail += f" ({percent(cell.spread[0])} to {percent(cell.spread[1])})"
    if len(cell.seeds) < seeds:
        detail += f" ({len(cell.seeds)} of {seeds} seeds)"
    letters = marks(flag.name for flag in cell.flags)
    return Cell(percent(cell.accuracy), detail, strong=cell.best, flags=letters)


def against_grid(rows: Sequence[AgainstRow], source: str) -> Grid:
    """Ours beside the published numbers."""
    header = [
        "table",
        "dataset",
        "goal",
        "target",
        "method",
        "ours",
        "theirs",
        "difference",
        "mAP",
        "their mAP",
        "what differs",
    ]
    return Grid(
        f"against {source}",
        header,
        [
            [
                Cell(words)
                for words in (
                    row.published.table,
                    row.published.dataset,
                    str(row.published.goal),
                    row.published.architecture,
                    row.published.attack,
                    percent(row.ours),
                    percent(row.published.accuracy),
                    f"{100 * row.difference:+.1f}",
                    "-" if row.ours_map is None else f"{row.ours_map:.3f}",
                    f"{row.published.map:.3f}",
                    "; ".join(row.differs),
                )
            ]
            for row in rows
        ],
        ["accuracy in percent and mAP on raw images, beside vanilla rows on clean ones"],
        wide=True,
        named_by=5,
    )


def as_terminal(grid: Grid) -> RenderableType:
    """For a terminal: one below the other, as many of its columns as fit side by side, each time with the rows' names.

    Only words are broken into lines, and nothing is cut off.
    """
    return _Blocks(grid)


LEAST, BETWEEN = 32, 3
"""How narrow a column of words may become, and what its table puts between two columns; characters."""


@dataclass(frozen=True)
class _Blocks:
    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.grid.title:
            yield Text(self.grid.title, style="table.title")
        for columns in self._blocks(options.max_width):
            yield self._table(columns)
        if self.grid.notes:
            yield Text("\n".join([*self.grid.notes, ""]), style="table.caption")

    def _blocks(self, width: int) -> list[list[int]]:
        """Which columns stand side by side."""
        names, *others = list(range(self.grid.named_by)), *range(self.grid.named_by, len(self.grid.header))
        least = [BETWEEN + min(LEAST, self._width(column)) for column in range(len(self.grid.header))]
        blocks = [[*names, *others[:1]]]
        for column in others[1:]:
            if 1 + sum(least[other] for other in [*blocks[-1], column]) <= width:
                blocks[-1].append(column)
            else:
                blocks.append([*names, column])
        return blocks

    def _width(self, column: int) -> int:
        """As wide as its cells' lines and its header's words."""
        lines = [line for row in self.grid.rows for line in _terminal(row[column]).plain.splitlines()]
        return max(map(cell_len, [*lines, *self.grid.header[column].split()]), default=1)

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table(box=SIMPLE_HEAD)
        for column in columns:
            table.add_column(Text(self.grid.header[column]), overflow="fold", max_width=self._width(column))
        for row in self.grid.rows:
            table.add_row(*(_terminal(row[column]) for column in columns))
        return table


def _terminal(cell: Cell) -> Text:
    shown = Text(cell.text, style="bold green" if cell.strong else "")
    shown.append(cell.flagged.removeprefix(cell.text), style="yellow")
    return shown.append("\n" + cell.detail.replace(" (", "\n("), style="dim") if cell.detail else shown


def as_markdown(grid: Grid) -> str:
    """GitHub's Markdown."""

    def escaped(text: str) -> str:
        return text.replace("|", "\\|")

    def line(words: Sequence[str]) -> str:
        return f"| {' | '.join(words)} |"

    def shown(cell: Cell) -> str:
        strong = f"**{escaped(cell.text)}**" if cell.strong else escaped(cell.text)
        return f"{strong}{cell.flagged.removeprefix(cell.text)} {cell.detail}".strip()

    rows = [line([shown(cell) for cell in row]) for row in grid.rows]
    head = [line([escaped(name) for name in grid.header]), line(["---"] * len(grid.header))]
    notes = [f"- {on_one_line(note)}" for note in grid.notes]
    return "\n".join([f"### {grid.title}", "", *head, *rows, "", *notes, ""])


def on_one_line(words: str) -> str:
    """Words that may come from anywhere, such as an error's, as a part of a Markdown line."""
    return " ".join(words.split()).replace("<", "\\<")


LATEX = str.maketrans(
    {character: f"\\{character}" for character in "%&_#${}"}
    | {"~": r"\~{}", "^": r"\^{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def as_latex(grid: Grid) -> str:
    """A LaTeX table that needs the booktabs package."""

    def line(words: Sequence[str]) -> str:
        return "    " + " & ".join(words) + r" \\"

    def shown(cell: Cell) -> str:
        text = cell.text.translate(LATEX)
        strong = rf"\textbf{{{text}}}" if cell.strong else text
        flags = rf"\textsuperscript{{{cell.flags}}}" if cell.flags else ""
        return f"{strong}{flags} {cell.detail.translate(LATEX)}".strip()

    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{grid.title.translate(LATEX)}. {'; '.join(grid.notes).translate(LATEX)}.}}",
            rf"  \begin{{tabular}}{{{_columns(grid)}}}",
            r"    \toprule",
            line([name.translate(LATEX) for name in grid.header]),
            r"    \midrule",
            *(line([shown(cell) for cell in row]) for row in grid.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _columns(grid: Grid) -> str:
    """How LaTeX is to set the columns: words left, numbers right, sentences wrapped."""
    if grid.wide:
        return "l" * (len(grid.header) - 1) + r"p{0.5\textwidth}"
    return "l" + "r" * (len(grid.header) - 1)


def as_csv(grid: Grid) -> str:
    """Comma-separated, the header first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(grid.header)
    writer.writerows([cell.whole for cell in row] for row in grid.rows)
    return out.getvalue()
