"""SQL over all results, by DuckDB on the stored files."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from advbench.errors import InvalidConfig
from advbench.results import CellRecord, ResultStore

__all__ = ["Answer", "ask"]


@dataclass(frozen=True)
class Answer:
    """What a query found.

    Args:
        columns: Names.
        rows: Values, one tuple a row.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]

    @property
    def as_json(self) -> str:
        """A list with an object a row; null where a number is not finite, and text where JSON has no such type."""
        rows = [dict(zip(self.columns, map(_finite, row), strict=True)) for row in self.rows]
        return json.dumps(rows, default=str, indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ask(sql: str, store: ResultStore) -> Answer:
    """Answer one query.

    ``results`` has a row a run: ``key``, ``status``, ``reason``, ``attack``, ``goal``, ``target``, ``architecture``,
    ``dataset``, ``image_size``, ``threat``, ``norm``, ``epsilon``, ``seed``, ``created``, ``parameters`` (JSON) and
    every metric. ``samples`` has a row an image, with ``key``: ``id``, ``label``, predictions, sizes, and the
    ``queries`` and ``gradients`` that perturbing it took.

    Raises:
        InvalidConfig: The query is not understood, or asks for nothing.
    """
    import duckdb  # lazy: only this needs it
    import pyarrow as pa

    records = store.records()
    rows = [_row(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["key"]
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    # Any whole number may be a seed; Arrow's have 64 bits.
    given = "* replace (try_cast(seed as hugeint) as seed)" if records else "*"
    with duckdb.connect(":memory:") as connection:
        connection.register("stored", table)
        connection.execute(f"create view results as select {given} from stored")
        if re.search(r"\bsamples\b", sql, re.IGNORECASE):
            connection.execute(_samples_view(store, records))
        try:
            statements = connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise InvalidConfig("a query asks and changes nothing: one statement that starts with 'select'")
            relation = connection.sql(sql)
            columns, found = list(relation.columns), relation.fetchall()
        except duckdb.Error as error:
            if not records:
                raise InvalidConfig(
                    f"there are no results in {store.location} yet: run something first, or name another --results"
                ) from error
            raise InvalidConfig(f"the query was not understood: {str(error).splitlines()[0]}") from error
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise InvalidConfig(f"the query has several columns named '{twice[0]}': give each a name of its own with 'as'")
    return Answer(columns, found)


def _row(record: CellRecord) -> dict[str, Any]:
    spec = record.spec
    row: dict[str, Any] = {
        "key": record.key,
        "status": str(record.status),
        "reason": record.reason,
        "attack": spec.attack,
        "goal": str(spec.goal),
        "target": spec.target.name,
        "architecture": spec.target.architecture,
        "dataset": spec.dataset.name,
        "image_size": spec.dataset.image_size,
        "threat": spec.threat.name,
        "norm": str(spec.budget.norm),
        "epsilon": spec.budget.epsilon,
        "seed": str(spec.seed),
        "created": record.created,
        "parameters": json.dumps(spec.parameters),
    }
    if record.metrics is None:
        return row
    for name, value in record.metrics.model_dump().items():
        if isinstance(value, dict):
            row |= {f"{name}_{inner}": figure for inner, figure in value.items()}
        elif not isinstance(value, tuple):
            row[name] = value
        else:
            row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
    return row


def _samples_view(store: ResultStore, records: list[CellRecord]) -> str:
    paths = [store.file(record, "samples.parquet") for record in records if record.metrics is not None]
    if not paths:
        raise InvalidConfig("no result has samples yet")
    listed = ", ".join(f"'{str(path).replace(chr(39), chr(39) * 2)}'" for path in paths)
    key = "string_split(filename, '/')[-2]"
    return (
        f"create view samples as select {key} as key, * exclude (filename) "
        f"from read_parquet([{listed}], filename = true, union_by_name = true)"
    )
