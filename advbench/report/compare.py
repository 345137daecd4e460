"""Many results side by side: a table for each dataset, goal and budget that tells what is beyond chance."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from advbench.metrics import holm, mean_interval, proportion
from advbench.report.answers import Answers, SampleSource, Version, answers_of, p_of_lead, version_of
from advbench.report.diagnose import comparison_flags, is_comparable
from advbench.report.labels import grouped, method_label, target_labels, told_apart, told_by_images, use_of
from advbench.results import CellRecord, Flag, ResultStore
from advbench.types import Goal, Status

__all__ = [
    "ComparedCell",
    "ComparedRow",
    "ComparedTable",
    "compare",
    "newest",
]

SIGNIFICANT = 0.05


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComparedCell(_Model):
    """One method against one target, over its seeds. Shares are fractions.

    Args:
        keys: The results that this is from, those with metrics first.
        seeds: Seeds that ended with metrics.
        status: ``ok`` where any did; else how they ended.
        reason: Why some have no metrics.
        threats: What its runs were granted, by the threat models' names.
        accuracy: Mean over seeds.
        interval: 95%, over the draw of images: Wilson's for one seed.
        spread: Lowest and highest seed.
        changed: Share of all images whose class changed, mean over seeds.
        turned: Share of the images right before that are wrong after (degrade), or of those wrong before that are
            right after (enhance), mean over seeds; None where there are none.
        robust: To degrade, the share of all images that are right before and after, mean over seeds.
        queries: Mean queries an image in use.
        gradients: Mean gradients an image in use.
        ms_per_image: Mean milliseconds an image in use.
        best: Whether it goes further towards the goal than every other method of its row, beyond chance: each paired
            test at 5% after Holm's correction over the whole table. Oracles are not ranked.
        flags: What makes it doubtful: what its runs earned by themselves, and what the comparison shows.
    """

    keys: list[str]
    seeds: list[int]
    status: Status
    reason: str | None = None
    threats: tuple[str, ...] = ()
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    changed: float | None = None
    turned: float | None = None
    robust: float | None = None
    queries: float | None = None
    gradients: float | None = None
    ms_per_image: float | None = None
    best: bool = False
    flags: tuple[Flag, ...] = ()


class ComparedRow(_Model):
    """One target.

    Args:
        target: Its name, with what it was made from.
        clean: Its clean accuracy, mean over seeds; None where nothing ran.
        worst: The share of images that stay right under every method of the row (degrade) or that any method makes
            right (enhance), oracles aside: mean over the seeds that all have; None where they have none in common.
        cells: By method.
    """

    target: str
    clean: float | None
    worst: float | None
    cells: dict[str, ComparedCell]


class ComparedTable(_Model):
    """One dataset, goal and budget.

    Args:
        title: For people.
        dataset: Its name.
        image_size: Pixels.
        images: How many each result is over.
        goal: Degrade or enhance.
        budget: In words.
        version: Which images the accuracies are on.
        methods: The columns, in order.
        attacks: What each column is, by its name: its attack, of several all.
        oracles: The columns that were shown the truth, in any row.
        rows: One a target.
    """

    title: str
    dataset: str
    image_size: int
    images: int
    goal: Goal
    budget: str
    version: Version
    methods: list[str]
    attacks: dict[str, str]
    oracles: list[str]
    rows: list[ComparedRow]


def compare(
    records: Iterable[CellRecord],
    store: SampleSource,
    version: Version | None = None,
    names: Mapping[str, str] | None = None,
) -> list[ComparedTable]:
    """Lay results out side by side.

    Args:
        records: To be compared; of equal runs under different code the newest counts.
        store: Where their per-image results lie.
        version: Which images count; by default raw in the unbounded protocol and valid under a budget.
        names: What a suite calls the methods, by the results' keys; others are called by their attacks.
    """
    latest = newest(records)
    answers = answers_of(latest, store, version)
    flags = comparison_flags(latest, answers)
    titles = told_by_images(latest, _title)
    groups = grouped(latest, lambda record: titles[record.key])
    return [_table(title, group, answers, flags, version, names or {}) for title, group in sorted(groups.items())]


def beside_others(record: CellRecord, store: ResultStore) -> CellRecord:
    """A record with the flags that the other results of its store give it among its own.

    What is stored cannot have them: they change with what else there is.
    """
    alike = newest(other for other in store.records() if is_comparable(record, other))
    flags = comparison_flags(alike, answers_of(alike, store)).get(record.key, ())
    return record.model_copy(update={"flags": (*record.flags, *flags)})


def newest(records: Iterable[CellRecord]) -> list[CellRecord]:
    """Of equal runs under different code the last."""
    latest = {}
    for record in sorted(records, key=lambda record: record.created):
        spec = record.spec.model_dump(mode="json", exclude={"code"})
        latest[repr(spec)] = record
    return list(latest.values())


def _title(record: CellRecord) -> str:
    spec = record.spec
    return f"{spec.dataset.name}, {spec.dataset.image_size} px, {spec.goal}, {spec.budget}"


def _columns(records: Sequence[CellRecord], rows: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Each result's column: methods of one name are told apart by all in which they differ; nothing is merged."""
    labels: dict[str, str] = {}
    for label, group in grouped(records, lambda record: names.get(record.key) or method_label(record)).items():
        places = {(rows[record.key], record.spec.seed) for record in group}
        if group[0].key in names and len(places) == len(group):
            labels.update({record.key: label for record in group})
        else:
            labels.update(told_apart(label, {record.key: use_of(record) for record in group}))
    for group in grouped(records, lambda r: (rows[r.key], labels[r.key], r.spec.seed)).values():
        if len(group) > 1:
            labels.update({record.key: f"{labels[record.key]} [result {record.key[:8]}]" for record in group})
    return labels


def _table(
    title: str,
    records: list[CellRecord],
    known: Mapping[str, Answers],
    flags: Mapping[str, Sequence[Flag]],
    version: Version | None,
    names: Mapping[str, str],
) -> ComparedTable:
    spec = records[0].spec
    targets = target_labels(records)
    columns = _columns(records, targets, names)
    attacks = {
        column: " | ".join(sorted({method_label(record) for record in group}))
        for column, group in grouped(records, lambda record: columns[record.key]).items()
    }
    oracles = {(targets[record.key], columns[record.key]) for record in records if record.spec.threat.is_oracle}
    cells: dict[tuple[str, str], ComparedCell] = {}
    right: dict[tuple[str, str], dict[int, Answers]] = {}
    clean: dict[str, dict[int, float]] = defaultdict(dict)
    for place, group in grouped(records, lambda record: (targets[record.key], columns[record.key])).items():
        answers = {record.spec.seed: known[record.key] for record in group if record.key in known}
        right[place] = answers
        earned = [flag for record in group for flag in (*record.flags, *flags.get(record.key, ()))]
        cells[place] = _cell(group, answers, spec.goal).model_copy(update={"flags": _one_each(earned)})
        clean[place[0]] |= {r.spec.seed: r.metrics.clean_accuracy for r in group if r.metrics is not None}
    methods = sorted({method for _, method in cells}, key=lambda method: (attacks[method].startswith("pgn"), method))
    ranked = {place: cell for place, cell in cells.items() if place not in oracles}
    best = _best(ranked, right, spec.goal)
    rows = [
        ComparedRow(
            target=target,
            clean=float(np.mean(list(clean[target].values()))) if clean[target] else None,
            worst=_worst([right[place] for place in ranked if place[0] == target and right[place]], spec.goal),
            cells={
                method: cells[target, method].model_copy(update={"best": (target, method) in best})
                for method in methods
                if (target, method) in cells
            },
        )
        for target in sorted({target for target, _ in cells})
    ]
    dataset = spec.dataset
    return ComparedTable(
        title=title,
        dataset=dataset.name,
        image_size=dataset.image_size,
        images=dataset.evaluation_images,
        goal=spec.goal,
        budget=str(spec.budget),
        version=version or version_of(records[0]),
        methods=methods,
        oracles=[method for method in methods if method in {method for _, method in oracles}],
        attacks=attacks,
        rows=rows,
    )


def _one_each(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """What several seeds earned is told once, with the first one's figures."""
    return tuple({flag.name: flag for flag in reversed(flags)}.values())[::-1]


def _cell(group: Sequence[CellRecord], answers: dict[int, Answers], goal: Goal) -> ComparedCell:
    done = [record for record in group if record.metrics is not None]
    rest = [record for record in group if record.metrics is None]
    reason = next((f"{record.status}: {record.reason}" for record in rest), None)
    keys = [record.key for record in [*done, *rest]]
    threats = tuple(sorted({record.spec.threat.name for record in group}))
    if not done:
        return ComparedCell(keys=keys, seeds=[], status=rest[0].status, reason=rest[0].reason, threats=threats)
    metrics = [record.metrics for record in done if record.metrics is not None]
    shares = [float(each.right.mean()) for each in answers.values()]
    turned = [share for each in answers.values() if (share := each.turned(goal)) is not None]
    return ComparedCell(
        keys=keys,
        seeds=sorted(answers),
        status=Status.OK,
        reason=reason,
        threats=threats,
        accuracy=float(np.mean(shares)),
        interval=_interval(list(answers.values())),
        spread=(min(shares), max(shares)),
        changed=float(np.mean([each.changed.mean() for each in answers.values()])),
        turned=float(np.mean(turned)) if turned else None,
        robust=float(np.mean([each.judged(goal).right.mean() for each in answers.values()]))
        if goal is Goal.DEGRADE
        else None,
        queries=float(np.mean([each.perturb.queries_per_image for each in metrics])),
        gradients=float(np.mean([each.perturb.gradients_per_image for each in metrics])),
        ms_per_image=float(np.mean([each.ms_per_image for each in metrics])),
    )


def _interval(answers: list[Answers]) -> tuple[float, float]:
    if len(answers) == 1 or len({each.ids for each in answers}) > 1:
        share = proportion(np.concatenate([each.right for each in answers]))
        return share.low, share.high
    return mean_interval(np.stack([each.right for each in answers]))


def _best(
    cells: dict[tuple[str, str], ComparedCell], right: dict[tuple[str, str], dict[int, Answers]], goal: Goal
) -> set[tuple[str, str]]:
    """The places whose method goes further than every other of its row, beyond chance."""
    leaders: dict[str, tuple[str, str]] = {}
    tests: list[tuple[str, float]] = []
    for target in {place[0] for place in cells}:
        ranked = sorted(
            (place for place in cells if place[0] == target and cells[place].accuracy is not None),
            key=lambda place: cells[place].accuracy or 0.0,
            reverse=goal is Goal.ENHANCE,
        )
        if len(ranked) < 2:
            continue
        leaders[target] = ranked[0]
        tests += [(target, p_of_lead(right[ranked[0]], right[other], goal)) for other in ranked[1:]]
    corrected = holm([value for _, value in tests])
    tied = {target for (target, _), value in zip(tests, corrected, strict=True) if value >= SIGNIFICANT}
    return {place for target, place in leaders.items() if target not in tied}


def _worst(answers: list[dict[int, Answers]], goal: Goal) -> float | None:
    seeds = set.intersection(*(set(each) for each in answers)) if answers else set()
    shares = []
    for seed in seeds:
        if len({each[seed].ids for each in answers}) > 1:
            continue
        right = np.stack([each[seed].right for each in answers])
        shares.append((right.all(axis=0) if goal is Goal.DEGRADE else right.any(axis=0)).mean())
    return float(np.mean(shares)) if shares else None
