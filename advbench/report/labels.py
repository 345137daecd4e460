"""What results are called: their targets, methods and images, told apart by all in which they differ."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from advbench.results import CellRecord, CellSpec

__all__ = [
    "flat",
    "grouped",
    "method_label",
    "surrogates_of",
    "target_label",
    "target_labels",
    "told_apart",
    "told_by_images",
    "use_of",
]


def surrogates_of(spec: CellSpec) -> list[dict[str, Any]]:
    """What a method was carried by: each surrogate as it was asked for."""
    if "surrogate" in spec.parameters:  # as records held it before there could be several
        return [spec.parameters["surrogate"]]
    return list(spec.parameters.get("surrogates", []))


def target_label(record: CellRecord) -> str:
    """A target's name, with its first weights where it had any and how many images it saw."""
    made = record.spec.target.made_from
    seen = made["training"]["images"]
    notes = [] if made["init"] == "scratch" else [str(made["init"]).rpartition("/")[2]]
    notes += [f"saw {seen}"] if seen else []
    return record.spec.target.name + (f" ({', '.join(notes)})" if notes else "")


def method_label(record: CellRecord) -> str:
    """A method's name, what it went through, and whether it was shown the truth."""
    surrogates = surrogates_of(record.spec)
    taught = "substitute " if record.spec.parameters.get("learns") == "answers" else ""
    via = f" via {taught}{'+'.join(each['architecture'] for each in surrogates)}" if surrogates else ""
    return f"{record.spec.attack}{via}{' (oracle: true labels)' if record.spec.threat.is_oracle else ''}"


def target_labels(records: Sequence[CellRecord]) -> dict[str, str]:
    """Each result's target: on the same images, those of one name are told apart by how they were made, or by weights.

    With ``told_by_images``, this is what one setting is, for tables and figures alike.
    """
    labels: dict[str, str] = {}
    for same_images in grouped(records, lambda record: record.spec.dataset.digest).values():
        for label, group in grouped(same_images, target_label).items():
            labels.update(told_apart(label, {record.key: flat(record.spec.target.made_from) for record in group}))
        for group in grouped(same_images, lambda record: (labels[record.key], record.spec.seed)).values():
            if len({record.spec.target.fingerprint for record in group}) > 1:
                labels.update({r.key: f"{labels[r.key]} [weights {r.spec.target.fingerprint[:8]}]" for r in group})
    return labels


def told_by_images(records: Sequence[CellRecord], label: Callable[[CellRecord], str]) -> dict[str, str]:
    """Each result's label: those on other images are told apart by size and number, or else by the images' hash."""
    labels: dict[str, str] = {}
    for name, group in grouped(records, label).items():
        datasets = {record.key: record.spec.dataset for record in group}
        values = {key: {"px": own.image_size, "images": own.evaluation_images} for key, own in datasets.items()}
        labels.update(told_apart(name, values))
    for group in grouped(records, lambda record: labels[record.key]).values():
        if len({record.spec.dataset.digest for record in group}) > 1:
            labels.update({r.key: f"{labels[r.key]} [digest {r.spec.dataset.digest[:8]}]" for r in group})
    return labels


def use_of(record: CellRecord) -> dict[str, Any]:
    """All that tells two uses of one method apart, by its name."""
    spec = record.spec
    limits = {"max queries": spec.threat.max_queries, "max fit queries": spec.threat.max_fit_queries}
    circumstances = {"threat": spec.threat.name, "fit images": spec.dataset.fit_images, "precision": spec.precision}
    return flat(spec.parameters) | limits | circumstances | {"processes": spec.processes}


def told_apart(label: str, values: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Add to a label, for each result, in what those that share it differ; that their seeds differ is no news."""
    names = sorted({name for own in values.values() for name in own if not name.endswith("seed")})
    differing = [name for name in names if len({repr(own.get(name)) for own in values.values()}) > 1]
    told = {
        key: ", ".join(f"{name.removeprefix('training.').replace('_', '-')} {own.get(name)}" for name in differing)
        for key, own in values.items()
    }
    return {key: f"{label} [{words}]" if words else label for key, words in told.items()}


def flat(value: Any, way: str = "") -> dict[str, Any]:
    """Every single value by the way to it, such as ``surrogates.0.training.seed``."""
    if not isinstance(value, dict | list):
        return {way: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return {leaf: own for name, part in inner for leaf, own in flat(part, f"{way}.{name}".lstrip(".")).items()}


def grouped(records: Iterable[CellRecord], key: Callable[[CellRecord], Any]) -> dict[Any, list[CellRecord]]:
    """Records by what they have in common."""
    groups: dict[Any, list[CellRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups
