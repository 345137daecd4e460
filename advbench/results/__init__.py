"""The seam between running and reporting: records of what was run and found, and their store."""

from advbench.results.diagnostics import DIAGNOSTICS, Diagnostic, Flag, legend, marks
from advbench.results.environment import environment
from advbench.results.record import (
    SCHEMA_VERSION,
    CellRecord,
    CellSpec,
    DatasetIdentity,
    Metrics,
    Phase,
    TargetIdentity,
)
from advbench.results.store import ResultStore, find_result

__all__ = [
    "DIAGNOSTICS",
    "SCHEMA_VERSION",
    "CellRecord",
    "CellSpec",
    "DatasetIdentity",
    "Diagnostic",
    "Flag",
    "Metrics",
    "Phase",
    "ResultStore",
    "TargetIdentity",
    "environment",
    "find_result",
    "legend",
    "marks",
]
