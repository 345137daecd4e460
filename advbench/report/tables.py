"""Terminal tables, from records alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from advbench.report.labels import surrogates_of
from advbench.results import CellRecord, CellSpec, Metrics, legend, marks
from advbench.types import Goal

__all__ = ["accuracy_table", "record_summary", "records_table"]

ORACLE = "† was granted the true classes of the evaluation images: an oracle, to be read as a bound"

ARROWS = {Goal.DEGRADE: "lower is stronger", Goal.ENHANCE: "higher is stronger"}


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}%"


def with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """A fraction with its 95% interval, as percentages."""
    if value is None or interval is None:
        return "-"
    return f"{100 * value:5.1f}%  [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def record_summary(record: CellRecord) -> RenderableType:
    """All that one result says, as a reader wants it: what was run, the accuracies, the sizes, the cost, the notes."""
    parts: list[RenderableType] = [_headline(record)]
    if record.spec.threat.is_oracle:
        parts.append(Text(ORACLE, style="bold magenta"))
    if record.metrics is None:
        parts.append(Text(f"{record.status}: {record.reason}", style="bold red"))
    else:
        parts += [accuracy_table(record.spec.goal, record.metrics), _figures(record.metrics)]
    parts += [Text(f"flag {flag.in_words}", style="yellow") for flag in record.flags]
    parts += [Text(f"note: {note}", style="yellow") for note in record.notes]
    return Group(*parts)


def _headline(record: CellRecord) -> Text:
    spec = record.spec
    lines = [
        f"{_attack(spec)}  {spec.goal}  {spec.budget}  threat {spec.threat.name}  seed {spec.seed}",
        f"target {spec.target.name} ({_making(spec.target.made_from)})  "
        f"dataset {spec.dataset.name} {spec.dataset.image_size} px, {spec.dataset.evaluation_images} evaluation images",
    ]
    return Text("\n".join(lines), style="bold")


def _making(made: Mapping[str, Any]) -> str:
    """Where a target's weights come from, and what they learnt from."""
    training = made["training"]
    if training["epochs"]:
        return f"{made['init']}, saw {'all' if training['images'] is None else training['images']} fit images"
    given = ":" in made["architecture"] and made["init"] == "scratch"
    return "not trained here" if given else f"{made['init']}, not trained here"


def _attack(spec: CellSpec) -> str:
    """The attack's name, and the surrogates that it was carried by."""
    surrogates = surrogates_of(spec)
    if not surrogates:
        return spec.attack
    names = "+".join(surrogate["architecture"] for surrogate in surrogates)
    fused = f" ({spec.parameters['fusion']} fused)" if len(surrogates) > 1 else ""
    taught = "substitute " if spec.parameters.get("learns") == "answers" else ""
    return f"{spec.attack} via {taught}{names}{fused}"


def accuracy_table(goal: Goal, metrics: Metrics) -> Table:
    """Accuracy and mAP of the four versions of the images."""
    table = Table(box=SIMPLE_HEAD, title=f"the target's accuracy ({ARROWS[goal]})", title_justify="left")
    table.add_column("images")
    table.add_column("accuracy  [95% interval]")
    table.add_column("mAP", justify="right")
    versions = (
        ("clean", "clean"),
        ("raw: as the method returned them", "raw"),
        ("valid: clipped to [0, 1]", "valid"),
        ("8-bit: rounded to 256 levels", "uint8"),
    )
    for words, name in versions:
        average = getattr(metrics, f"{name}_map")
        table.add_row(
            words,
            with_interval(getattr(metrics, f"{name}_accuracy"), getattr(metrics, f"{name}_accuracy_interval")),
            "-" if average is None else f"{average:.3f}",
        )
    return table


def _figures(metrics: Metrics) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    correct = with_interval(metrics.fooling_rate_of_correct, metrics.fooling_rate_of_correct_interval)
    rows = (
        ("predicted class changed", f"{with_interval(metrics.fooling_rate, metrics.fooling_rate_interval)} of all"),
        ("right before, wrong after", f"{correct} of those right before"),
        *_targeted(metrics),
        ("turned", f"{metrics.wrong_to_right} wrong to right, {metrics.right_to_wrong} right to wrong"),
        (
            "mean perturbation",
            f"L1 {metrics.mean_l1:.1f} ({metrics.mean_l1_per_pixel:.4f} a pixel)  L2 {metrics.mean_l2:.3f}  "
            f"Linf {metrics.mean_linf:.4f}  RMSD {metrics.mean_rmsd:.4f}",
        ),
        (
            "mean likeness",
            f"PSNR {'-' if metrics.mean_psnr is None else f'{metrics.mean_psnr:.1f} dB'}  SSIM {metrics.mean_ssim:.3f}",
        ),
        (
            "asked of the target",
            f"fit {metrics.fit.queries:,} queries, {metrics.fit.gradients:,} gradients; "
            f"use {metrics.perturb.queries_per_image:g} and {metrics.perturb.gradients_per_image:g} an image",
        ),
        ("time", f"fit {metrics.fit_seconds:.1f} s, use {metrics.ms_per_image:.2f} ms an image"),
    )
    for name, value in rows:
        table.add_row(Text(name, style="dim"), value)
    return table


def _targeted(metrics: Metrics) -> list[tuple[str, str]]:
    if metrics.targeted_success_rate is None:
        return []
    reached = with_interval(metrics.targeted_success_rate, metrics.targeted_success_rate_interval)
    return [("of the class to reach", f"{reached} of all")]


def records_table(records: Iterable[CellRecord]) -> Table:
    """One row a result, with the options that were given; those that were granted the true classes are marked."""
    records = list(records)
    told = legend(flag.name for record in records for flag in record.flags)
    caption = "\n".join([ORACLE] * any(record.spec.threat.is_oracle for record in records) + told)
    table = Table(box=SIMPLE_HEAD, caption=caption or None, caption_justify="left")
    for name in ("result", "run", "target", "dataset"):
        table.add_column(name, no_wrap=name == "result", overflow="fold")
    for name in ("clean", "raw", "valid"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for record in records:
        key, run, *rest = _row(record)
        given = "".join(f", {name} {value}" for name, value in record.request.get("options", {}).items())
        own = (key, f"{'† ' if record.spec.threat.is_oracle else ''}{run}{given}", *rest)
        table.add_row(*map(Text, own))
    return table


def _row(record: CellRecord) -> Sequence[str]:
    spec, metrics = record.spec, record.metrics
    accuracies = (
        ("-", "-", "-")
        if metrics is None
        else tuple(map(percent, (metrics.clean_accuracy, metrics.raw_accuracy, metrics.valid_accuracy)))
    )
    seen = spec.target.made_from["training"]["images"]
    return (
        record.key[:10],
        f"{_attack(spec)}, {spec.goal}, {spec.budget}, {spec.threat.name}, seed {spec.seed}",
        spec.target.name + (f" ({seen} images)" if seen else ""),
        f"{spec.dataset.name} {spec.dataset.image_size} px",
        *accuracies,
        f"{record.status} ⚑{letters}" if (letters := marks(flag.name for flag in record.flags)) else str(record.status),
    )
