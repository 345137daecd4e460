"""Many results side by side: a table for each dataset, goal and budget that tells what is beyond chance."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from advbench.metrics import holm, mean_interval, paired_p_value, proportion
from advbench.report.answers import Answers, SampleSource, Version, answers_of, paired, version_of
from advbench.report.diagnose import comparison_flags
from advbench.results import CellRecord, Flag
from advbench.types import Goal, Status

__all__ = ["ComparedCell", "ComparedRow", "ComparedTable", "compare", "method_label", "target_label"]

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
        accuracy: Mean over seeds.
        interval: 95%, over the draw of images: Wilson's for one seed.
        spread: Lowest and highest seed.
        fooling_rate: Share of all images whose class changed, mean over seeds.
        fooling_rate_of_correct: Share of the images right before that are wrong after, mean over seeds.
        queries: Mean queries an image in use.
        gradients: Mean gradients an image in use.
        ms_per_image: Mean milliseconds an image in use.
        best: Whether it goes further towards the goal than every other method of its row, beyond chance: each paired
            test at 5% after Holm's correction over the whole table.
        flags: What makes it doubtful: what its runs earned by themselves, and what the comparison shows.
    """

    keys: list[str]
    seeds: list[int]
    status: Status
    reason: str | None = None
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    fooling_rate: float | None = None
    fooling_rate_of_correct: float | None = None
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
            right (enhance): mean over the seeds that all methods have; None where they have none in common.
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
        attacks: What a column with a name of its own is, by that name.
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
    attacks: dict[str, str] = {}
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
    latest = _newest(records)
    answers = answers_of(latest, store, version)
    flags = comparison_flags(latest, answers)
    groups = _grouped(latest, _table_key)
    return [
        _table(group, answers, flags, version, names or {})
        for _, group in sorted(groups.items(), key=lambda item: item[0])
    ]


def _newest(records: Iterable[CellRecord]) -> list[CellRecord]:
    latest = {}
    for record in sorted(records, key=lambda record: record.created):
        spec = record.spec.model_dump(mode="json", exclude={"code"})
        latest[repr(spec)] = record
    return list(latest.values())


def _grouped(records: Iterable[CellRecord], key: Callable[[CellRecord], Any]) -> dict[Any, list[CellRecord]]:
    groups: dict[Any, list[CellRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def _table_key(record: CellRecord) -> tuple[str, str, str, str]:
    spec = record.spec
    return spec.dataset.name, spec.dataset.digest, spec.goal, f"{spec.budget} {spec.budget.norm}"


def target_label(record: CellRecord) -> str:
    """A target's name, with its first weights where it had any and how many images it saw."""
    made = record.spec.target.made_from
    seen = made["training"]["images"]
    notes = [] if made["init"] == "scratch" else [str(made["init"]).rpartition("/")[2]]
    notes += [f"saw {seen}"] if seen else []
    return record.spec.target.name + (f" ({', '.join(notes)})" if notes else "")


def method_label(record: CellRecord) -> str:
    """A method's name, what it went through, and whether it was shown the truth."""
    parameters = record.spec.parameters
    surrogates = parameters.get("surrogates") or ([parameters["surrogate"]] if "surrogate" in parameters else [])
    via = f" via {'+'.join(each['architecture'] for each in surrogates)}" if surrogates else ""
    oracle = " (oracle: true labels)" if record.spec.threat.name.endswith("+true-labels") else ""
    return f"{record.spec.attack}{via}{oracle}"


def _labels(records: Sequence[CellRecord], names: Mapping[str, str]) -> dict[str, str]:
    """Each result's column; methods of one name are told apart by the parameters in which they differ."""
    labels: dict[str, str] = {}
    for label, group in _grouped(records, lambda record: names.get(record.key) or method_label(record)).items():
        places = {(target_label(record), record.spec.seed) for record in group}
        if group[0].key in names and len(places) == len(group):
            labels |= {record.key: label for record in group}
            continue
        flat = {record.key: _flat(record.spec.parameters) | {"threat": record.spec.threat.name} for record in group}
        parameters = sorted({name for values in flat.values() for name in values})
        differing = [name for name in parameters if len({repr(values.get(name)) for values in flat.values()}) > 1]
        differing = [name for name in differing if not name.endswith("seed")]
        for key, values in flat.items():
            told = ", ".join(f"{name.replace('_', '-')} {values.get(name)}" for name in differing)
            labels[key] = f"{label} [{told}]" if told else label
    return labels


def _flat(value: Any, way: str = "") -> dict[str, Any]:
    """Every single value by the way to it, such as ``surrogates.0.training.seed``."""
    if not isinstance(value, dict | list):
        return {way: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return {leaf: own for name, part in inner for leaf, own in _flat(part, f"{way}.{name}".lstrip(".")).items()}


def _table(
    records: list[CellRecord],
    known: Mapping[str, Answers],
    flags: Mapping[str, Sequence[Flag]],
    version: Version | None,
    names: Mapping[str, str],
) -> ComparedTable:
    spec = records[0].spec
    columns = _labels(records, names)
    attacks = {columns[record.key]: method_label(record) for record in records}
    cells: dict[tuple[str, str], ComparedCell] = {}
    right: dict[tuple[str, str], dict[int, Answers]] = {}
    clean: dict[str, list[float]] = defaultdict(list)
    for place, group in _grouped(records, lambda record: (target_label(record), columns[record.key])).items():
        answers = {record.spec.seed: known[record.key] for record in group if record.key in known}
        right[place] = answers
        earned = [flag for record in group for flag in (*record.flags, *flags.get(record.key, ()))]
        cells[place] = _cell(group, answers).model_copy(update={"flags": _one_each(earned)})
        clean[place[0]] += [record.metrics.clean_accuracy for record in group if record.metrics is not None]
    methods = sorted({method for _, method in cells}, key=lambda method: (attacks[method].startswith("pgn"), method))
    best = _best(cells, right, spec.goal)
    rows = [
        ComparedRow(
            target=target,
            clean=float(np.mean(clean[target])) if clean[target] else None,
            worst=_worst([right[place] for place in cells if place[0] == target and right[place]], spec.goal),
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
        title=f"{dataset.name}, {dataset.image_size} px, {spec.goal}, {spec.budget}",
        dataset=dataset.name,
        image_size=dataset.image_size,
        images=dataset.evaluation_images,
        goal=spec.goal,
        budget=str(spec.budget),
        version=version or version_of(records[0]),
        methods=methods,
        attacks={name: attack for name, attack in attacks.items() if not name.lower().startswith(attack)},
        rows=rows,
    )


def _one_each(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """What several seeds earned is told once, with the first one's figures."""
    return tuple({flag.name: flag for flag in reversed(flags)}.values())[::-1]


def _cell(group: Sequence[CellRecord], answers: dict[int, Answers]) -> ComparedCell:
    done = [record for record in group if record.metrics is not None]
    rest = [record for record in group if record.metrics is None]
    reason = next((f"{record.status}: {record.reason}" for record in rest), None)
    keys = [record.key for record in [*done, *rest]]
    if not done:
        return ComparedCell(keys=keys, seeds=[], status=rest[0].status, reason=rest[0].reason)
    metrics = [record.metrics for record in done if record.metrics is not None]
    shares = [float(each.right.mean()) for each in answers.values()]

    def mean(name: str) -> float | None:
        values = [getattr(each, name) for each in metrics]
        return None if None in values else float(np.mean(values))

    return ComparedCell(
        keys=keys,
        seeds=sorted(answers),
        status=Status.OK,
        reason=reason,
        accuracy=float(np.mean(shares)),
        interval=_interval(list(answers.values())),
        spread=(min(shares), max(shares)),
        fooling_rate=mean("fooling_rate"),
        fooling_rate_of_correct=mean("fooling_rate_of_correct"),
        queries=float(np.mean([each.perturb.queries_per_image for each in metrics])),
        gradients=float(np.mean([each.perturb.gradients_per_image for each in metrics])),
        ms_per_image=mean("ms_per_image"),
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
        for other in ranked[1:]:
            pair = paired(right[ranked[0]], right[other])
            tests.append((target, 1.0 if pair is None else paired_p_value(*pair)))
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
