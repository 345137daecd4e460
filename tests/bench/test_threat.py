"""Threat models: what they grant, and that they are written down in one order."""

import subprocess
import sys

import pytest

from advbench.errors import UnknownName
from advbench.threat import THREATS, Budget, Needs, parse_epsilon, threat_model
from advbench.types import Capability, Norm


def test_a_threat_model_is_written_alike_by_every_process() -> None:
    """Sets have another order in each process; a result's key must not."""
    code = "from advbench.threat import THREATS\nfor threat in THREATS.values(): print(threat.model_dump_json())"
    written = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        ).stdout
        for seed in range(4)
    }
    assert len(written) == 1


def test_presets_grant_the_attackers_labels_in_fitting_and_never_the_evaluations() -> None:
    for threat in THREATS.values():
        assert Capability.TRUE_LABELS in threat.fit
        assert Capability.TRUE_LABELS not in threat.perturb


@pytest.mark.parametrize(
    ("needed", "least"),
    [
        ([], "black-box-labels"),
        ([Capability.LABELS], "black-box-labels"),
        ([Capability.SCORES], "black-box-scores"),
        ([Capability.STRUCTURE], "known-structure"),
        ([Capability.INPUT_GRADIENTS], "white-box"),
    ],
)
def test_without_a_name_the_least_that_suffices_is_taken(needed: list[Capability], least: str) -> None:
    needs = Needs(fit=frozenset(needed))
    assert threat_model(None, needs).name == least
    assert threat_model(None, needs).lacks(needs) is None


def test_true_labels_beside_do_not_change_what_is_least() -> None:
    needs = Needs(perturb=frozenset({Capability.SCORES, Capability.TRUE_LABELS}))
    least = threat_model(None, needs)
    assert least.name == "black-box-scores"
    assert least.lacks(needs) == "threat model 'black-box-scores' does not grant true-labels in perturbing"
    assert least.with_true_labels().lacks(needs) is None


def test_what_is_lacking_is_said() -> None:
    needs = Needs(fit=frozenset({Capability.WEIGHTS}), perturb=frozenset({Capability.SCORES}))
    lacks = THREATS["black-box-labels"].lacks(needs)
    assert lacks == "threat model 'black-box-labels' does not grant weights in fitting or scores in perturbing"


def test_unknown_threat_models_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'white-box'"):
        threat_model("whitebox", Needs())


@pytest.mark.parametrize(("text", "value"), [("0.3", 0.3), ("8/255", 8 / 255), ("1e-2", 0.01), ("0", 0.0)])
def test_epsilons_are_read(text: str, value: float) -> None:
    assert parse_epsilon(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(), "unbounded"),
        (Budget(epsilon=16 / 255), "linf 16/255"),
        (Budget(epsilon=parse_epsilon("8/255")), "linf 8/255"),
        (Budget(epsilon=0.031), "linf 0.031"),
        (Budget(epsilon=0.3), "linf 0.3"),
        (Budget(epsilon=0.2), "linf 0.2"),  # 51/255, and shorter
        (Budget(epsilon=1.0), "linf 1"),
        (Budget(epsilon=0.0), "linf 0"),
        (Budget(epsilon=0.5 / 255), "linf 0.00196078"),
        (Budget(norm=Norm.L2, epsilon=128 / 255), "l2 128/255"),
        (Budget(norm=Norm.L2, epsilon=3.0), "l2 3"),
    ],
)
def test_a_budget_is_written_as_the_field_writes_it(budget: Budget, words: str) -> None:
    assert str(budget) == words
