"""Every flag that one run can earn: by a target or attack that earns it, and by none that does not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from advbench.bench.diagnose import target_flags
from advbench.cli import main
from advbench.results import DIAGNOSTICS
from advbench.targets import FunctionTarget, ModuleTarget

TARGETS = """
import torch
from advbench.targets import FunctionTarget

class Linear(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(192, classes)

    def forward(self, images):
        return self.last(torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))

class Rounded(Linear):
    def forward(self, images):
        return super().forward((images * 4).round() / 4)

class Randomised(Linear):
    def forward(self, images):
        scores = super().forward(images)
        return scores + 0.3 * torch.randn_like(scores)

class Company(Linear):
    def forward(self, images):
        return super().forward(images - images.mean(0, keepdim=True))

def by_company(classes):
    network = Company(classes)
    return FunctionTarget(lambda images: network(images).argmax(1), classes, "labels")

class Softmax(Linear):
    def forward(self, images):
        return super().forward(images).softmax(1)

class Rooted(Linear):
    def forward(self, images):
        return super().forward(images) + (0 * images).sum((1, 2, 3)).sqrt()[:, None]

class Saturated(Linear):
    def forward(self, images):
        return 150 * super().forward(images)

class Confident(Linear):
    def forward(self, images):
        return 1000 * super().forward(images)

class Overflowing(Linear):
    def forward(self, images):
        return 1e5 * super().forward(images)

def wavering(classes):
    return FunctionTarget(lambda images: torch.randint(0, classes, (len(images),)), classes, "labels")
"""


@pytest.fixture(scope="module", autouse=True)
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("targets")
    (folder / "flagged_targets.py").write_text(TARGETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(target: str, attack: str, *options: str) -> dict[str, Any]:
        arguments = ["run", "--target", f"flagged_targets:{target}", "--attack", attack, "--epsilon", "0.1", "--limit",
                     "20", "--results", str(tmp_path), "--json", *options]  # fmt: skip
        record: dict[str, Any] = json.loads(CliRunner().invoke(main, arguments).stdout)
        return record

    return run


def names(record: dict[str, Any]) -> set[str]:
    return {flag["name"] for flag in record["flags"]}


@pytest.mark.parametrize("attack", ["fgsm", "square", "noise", "identity"])
def test_a_sound_run_has_no_flag(run: Callable[..., dict[str, Any]], attack: str) -> None:
    record = run("Linear", attack)
    assert record["status"] == "ok"
    assert names(record) == set()


@pytest.mark.parametrize(
    ("target", "attack", "flags"),
    [
        ("Rounded", "fgsm", {"zero-gradients", "loss-does-not-rise"}),
        ("Rounded", "square", set()),  # masked gradients are nothing to one that uses none
        ("Randomised", "noise", {"randomised-target"}),
        ("wavering", "noise", {"randomised-target"}),
        ("Company", "noise", {"batch-dependent-target"}),
        ("by_company", "noise", {"batch-dependent-target"}),
        ("Softmax", "fgsm", {"probabilities"}),
        ("Softmax", "noise", {"probabilities"}),  # its mAP is of the softmax of a softmax
        ("Saturated", "fgsm", {"vanishing-gradients"}),
        ("Overflowing", "fgsm", {"vanishing-gradients", "loss-does-not-rise"}),  # zero, but not of the logits
        ("Rooted", "fgsm", {"nan-gradients", "loss-does-not-rise"}),
    ],
)
def test_a_doubtful_run_is_flagged(
    run: Callable[..., dict[str, Any]], target: str, attack: str, flags: set[str]
) -> None:
    record = run(target, attack)
    assert record["status"] == "ok"
    assert names(record) == flags
    assert all(flag["found"] for flag in record["flags"])


def test_what_the_target_earned_is_told_where_the_attack_then_fails(run: Callable[..., dict[str, Any]]) -> None:
    record = run("Rounded", "pgd", "--max-queries", "1")
    assert record["status"] == "budget-spent"
    assert names(record) == {"zero-gradients"}


def test_an_enhancer_whose_loss_does_not_fall_is_flagged(run: Callable[..., dict[str, Any]]) -> None:
    assert names(run("Rounded", "fgsm", "--goal", "enhance")) == {"zero-gradients", "loss-does-not-rise"}
    assert names(run("Linear", "fgsm", "--goal", "enhance", "--true-labels", "--label", "true")) == set()


def test_a_loss_that_rises_out_of_sight_of_float32_has_risen(run: Callable[..., dict[str, Any]]) -> None:
    """Margins are over 17 and under 100: the stored softmax is 1 before and after, and the other classes tell."""
    record = run("Confident", "apgd-dlr", "--steps", "5", "--epsilon", "0.0001", "--limit", "100")
    assert record["metrics"]["valid_accuracy"] == record["clean_accuracy"] > 0, "this budget is to turn nothing"
    assert "loss-does-not-rise" not in names(record)


def test_a_target_that_answers_at_random_does_so_by_the_seed(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def precisions(folder: str, seed: int) -> list[float]:
        record = run(
            "Randomised", "square", "--queries", "20", "--results", str(tmp_path / folder), "--seed", str(seed)
        )
        verdict = CliRunner().invoke(main, ["verify", record["key"], "--results", str(tmp_path / folder), "--json"])
        assert json.loads(verdict.stdout)["holds"], verdict.stdout
        return [record["metrics"][f"{version}_map"] for version in ("clean", "raw", "valid", "uint8")]

    once = precisions("once", 0)
    torch.rand(100)  # whatever else the process draws
    assert precisions("again", 0) == once
    assert precisions("other", 1) != once


def test_a_robust_target_is_no_failure_of_autoattack(run: Callable[..., dict[str, Any]]) -> None:
    quick = ("--epsilon", "0.0001", "--steps", "5", "--queries", "10", "--targets", "2")
    record = run("Linear", "autoattack", *quick)
    assert record["metrics"]["valid_accuracy"] == record["clean_accuracy"], "this budget is to turn nothing"
    assert names(record) == set()


def test_one_look_at_a_target_costs_few_queries_and_is_no_methods() -> None:
    asked = []

    def count(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return images.mean((2, 3))

    assert target_flags(FunctionTarget(count, 3, "scores"), torch.rand(32, 3, 4, 4)) == []
    assert asked == [32, 32, 4]


def test_the_trained_target_that_the_other_tests_attack_is_sound(target: ModuleTarget, digits: Any) -> None:
    assert target_flags(target, digits.evaluation.images(slice(0, 32))) == []


def test_each_flag_has_its_own_letter_and_a_remedy() -> None:
    assert len({told.mark for told in DIAGNOSTICS.values()}) == len(DIAGNOSTICS)
    assert all(told.remedy and told.meaning for told in DIAGNOSTICS.values())
