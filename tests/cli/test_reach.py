"""Every option of the command reaches what it is for: read from the record that the command itself prints."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from advbench.cli import main
from advbench.registry import ATTACKS

TARGET = ["--target", "resnet18", "--target-images", "40", "--target-epochs", "1", "--limit", "20", "--device", "cpu"]
CHECKED = ["di-fgsm", "fgsm", "mi-fgsm", "nes", "ni-fgsm", "pgd", "si-ni-fgsm", "simba", "ti-fgsm", "vmi-fgsm"]
ODD = {"kernel": 7}
"""Values for fields that take no neighbour of their default."""


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["run", *arguments, "--json"])
    assert done.stdout, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def another(name: str, default: Any, annotation: Any) -> Any:
    """A value that is not the default."""
    if name in ODD:
        return ODD[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return next(value for value in get_args(annotation) if value != default)
    return default + 1 if isinstance(default, int) else default / 2 or 0.5


@pytest.mark.parametrize("attack", CHECKED)
def test_every_option_of_a_method_reaches_it(attack: str, tmp_path: Path) -> None:
    """A toolkit is known to parse its budget, steps and step size, and to pass none of them on."""
    kind, presets = ATTACKS.load(attack), ATTACKS.entry(attack).presets
    given = {
        name: another(name, presets.get(name, field.default), field.annotation)
        for name, field in kind.model_fields.items()
    }
    if given.get("restarts"):
        given["random_start"] = True  # restarts from one point are refused
    words = []
    for name, value in given.items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    record = run(
        "--attack", attack, *TARGET, *words, "--epsilon", "3/255", "--norm", "l2", "--seed", "0",
        "--threat", "black-box-labels", "--results", str(tmp_path),
    )  # fmt: skip
    assert record["status"] == "incompatible"  # nothing needs to run to be written down
    assert record["spec"]["parameters"] == given
    assert record["spec"]["budget"] == {"norm": "l2", "epsilon": 3 / 255}


@pytest.mark.parametrize("attack", ATTACKS.entries)
def test_no_option_of_a_method_is_taken_by_the_command(attack: str) -> None:
    """Such an option would never reach the method."""
    taken = {option for parameter in main.commands["run"].params for option in parameter.opts}
    fields = {
        f"--{(field.alias or name).replace('_', '-')}" for name, field in ATTACKS.load(attack).model_fields.items()
    }
    assert not fields & taken


class TestSurrogates:
    def test_several_and_their_fusion_reach_the_method(self, tmp_path: Path) -> None:
        record = run(
            "--attack", "fgsm", *TARGET, "--epsilon", "0.2", "--fit-images", "40", "--via", "resnet18,resnet18",
            "--via-epochs", "1", "--via-fusion", "loss", "--results", str(tmp_path),
        )  # fmt: skip
        parameters = record["spec"]["parameters"]
        assert record["status"] == "ok", record["reason"]
        assert [made["architecture"] for made in parameters["surrogates"]] == ["resnet18", "resnet18"]
        assert [made["training"]["seed"] for made in parameters["surrogates"]] == [0, 1]
        assert [made["training"]["epochs"] for made in parameters["surrogates"]] == [1, 1]
        assert parameters["fusion"] == "loss"
        assert record["metrics"]["perturb"]["queries"] == 0
        listed = CliRunner().invoke(main, ["list", "results", "--results", str(tmp_path)]).stdout
        assert "fgsm via resnet18+resnet18 (loss fused)" in " ".join(listed.split())
        verdict = CliRunner().invoke(main, ["verify", record["key"], "--results", str(tmp_path)])
        assert verdict.exit_code == 0, verdict.stdout

    def test_substitutes_ask_the_target_and_are_stored_with_the_result(self, tmp_path: Path) -> None:
        record = run(
            "--attack", "fgsm", *TARGET, "--epsilon", "0.2", "--fit-images", "40", "--via", "squeezenet1_1",
            "--via-learns", "answers", "--via-epochs", "2", "--results", str(tmp_path),
        )  # fmt: skip
        assert record["status"] == "ok", record["reason"]
        assert record["spec"]["parameters"]["learns"] == "answers"
        assert record["spec"]["threat"]["name"] == "black-box-labels"
        assert record["metrics"]["fit"]["queries"] == 2 * 40
        assert record["metrics"]["perturb"]["queries"] == 0
        listed = CliRunner().invoke(main, ["list", "results", "--results", str(tmp_path)]).stdout
        assert "fgsm via substitute squeezenet1_1" in " ".join(listed.split())
        verdict = CliRunner().invoke(main, ["verify", record["key"], "--results", str(tmp_path)])
        assert verdict.exit_code == 0, verdict.stdout

    @pytest.mark.parametrize(
        ("surrogates", "advice"),
        [
            ([], "name them with --via"),
            (["--via", "squeezenet1_1", "--via-epochs", "0"], "give --via-epochs at least 1"),
        ],
    )
    def test_nothing_that_could_learn_the_targets_answers_is_refused(
        self, surrogates: list[str], advice: str, tmp_path: Path
    ) -> None:
        refused = CliRunner().invoke(
            main, ["run", "--attack", "fgsm", *TARGET, "--epsilon", "0.1", *surrogates, "--via-learns", "answers",
                   "--results", str(tmp_path)],
        )  # fmt: skip
        assert refused.exit_code == 2
        assert advice in " ".join(refused.stderr.split())

    def test_first_weights_are_one_for_each(self, tmp_path: Path) -> None:
        refused = CliRunner().invoke(
            main, ["run", "--attack", "fgsm", *TARGET, "--epsilon", "0.1", "--via", "resnet18,vgg11",
                   "--via-weights", "a.pth", "--results", str(tmp_path)],
        )  # fmt: skip
        assert refused.exit_code == 2
        assert "--via-weights names 1 files for 2 surrogates" in refused.stderr

    def test_records_of_a_single_surrogate_are_still_read(self) -> None:
        from advbench.bench import RunRequest

        old = {"attack": "fgsm", "target": {"architecture": "resnet18"}}
        assert RunRequest.model_validate(old | {"via": None}).via == ()
        (one,) = RunRequest.model_validate(old | {"via": {"architecture": "vgg11"}}).via
        assert one.architecture == "vgg11"
