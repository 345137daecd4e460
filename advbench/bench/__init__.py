"""Running cells: from a request to a stored, checked result, and back again."""

from advbench.bench.cell import Outcome, run_cell
from advbench.bench.evaluate import Evaluation, accuracy, evaluate
from advbench.bench.probe import LinearProbe, check_encoder, linear_probe
from advbench.bench.regions import DecisionPlane, decision_plane
from advbench.bench.request import (
    Prepared,
    RunRequest,
    Workshop,
    check_names,
    make_target,
    prepare,
    request_identity,
    why_incompatible,
)
from advbench.bench.verify import Verdict, verify_result
from advbench.methods import build_method

__all__ = [
    "DecisionPlane",
    "Evaluation",
    "LinearProbe",
    "Outcome",
    "Prepared",
    "RunRequest",
    "Verdict",
    "Workshop",
    "accuracy",
    "build_method",
    "check_encoder",
    "check_names",
    "decision_plane",
    "evaluate",
    "linear_probe",
    "make_target",
    "prepare",
    "request_identity",
    "run_cell",
    "verify_result",
    "why_incompatible",
]
