"""The command as a user meets it: results, refusals, and what is printed where."""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from advbench.cli import main
from advbench.cli.screen import Screen
from advbench.cli.watch import Watch
from advbench.suites import Event, PlannedCell, State, SuiteCell
from advbench.targets import build_network

TARGET = ["--target", "resnet18", "--target-images", "200", "--target-epochs", "2", "--limit", "60", "--device", "cpu"]
SMALL_PGN = ["--attack", "pgn-b", "--epochs", "2", "--backbone", "scratch", "--decoder-width", "0.02",
             "--fit-images", "128", "--epsilon", "0.3"]  # fmt: skip


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def record_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def pgn(results: Path) -> dict[str, Any]:
    return record_of(call("run", *TARGET, *SMALL_PGN, "--results", str(results), "--json"))


@pytest.fixture(scope="module")
def fgsm(results: Path) -> dict[str, Any]:
    return record_of(
        call("run", *TARGET, "--attack", "fgsm", "--epsilon", "8/255", "--results", str(results), "--json")
    )


class TestRun:
    def test_json_is_the_whole_record_and_nothing_else(self, pgn: dict[str, Any], results: Path) -> None:
        assert pgn["status"] == "ok"
        assert pgn["reason"] is None
        assert pgn["schema_version"] == 1
        assert pgn["clean_accuracy"] == pgn["metrics"]["clean_accuracy"]
        assert {"spec", "environment", "metrics", "history", "files"} <= pgn.keys()
        metrics = pgn["metrics"]
        for name in ("clean", "raw", "valid", "uint8"):
            low, high = metrics[f"{name}_accuracy_interval"]
            assert 0 <= low <= metrics[f"{name}_accuracy"] <= high <= 1
        assert {"mean_l1", "mean_l2", "mean_linf", "ms_per_image", "fit_seconds"} <= metrics.keys()
        assert metrics["max_linf"] <= 0.3 + 1e-6
        assert metrics["fit"] == {
            "queries": 3 * 128 + 2 * 144,
            "gradients": 0,
            "queries_per_image": pytest.approx((3 * 128 + 2 * 144) / 272),
            "gradients_per_image": 0,
        }
        assert metrics["perturb"]["queries"] == 0
        assert json.loads((results / pgn["key"] / "record.json").read_text()) == pgn

    def test_every_number_can_be_computed_again_from_the_samples(self, pgn: dict[str, Any], results: Path) -> None:
        samples = pq.read_table(results / pgn["key"] / "samples.parquet").to_pydict()
        labels = np.array(samples["label"])
        metrics = pgn["metrics"]
        assert len(labels) == 60
        for name in ("clean", "raw", "valid", "uint8"):
            predicted = np.array(samples[f"{name}_prediction"])
            assert metrics[f"{name}_accuracy"] == pytest.approx((predicted == labels).mean())
            assert (np.array(samples[f"{name}_scores"]).argmax(axis=1) == predicted).all()
        before, after = (np.array(samples[f"{name}_prediction"]) for name in ("clean", "valid"))
        assert metrics["fooling_rate"] == pytest.approx((before != after).mean())
        right = before == labels
        assert metrics["fooling_rate_of_correct"] == pytest.approx((after != labels)[right].mean())
        assert metrics["right_to_wrong"] == (right & (after != labels)).sum()
        assert metrics["wrong_to_right"] == (~right & (after == labels)).sum()
        for size in ("l1", "l2", "linf"):
            assert metrics[f"mean_{size}"] == pytest.approx(np.mean(samples[size]))

    def test_a_second_identical_run_is_answered_from_the_store(self, pgn: dict[str, Any], results: Path) -> None:
        again = call("run", *TARGET, *SMALL_PGN, "--results", str(results))
        assert again.exit_code == 0
        assert "answered from the store" in again.stdout
        assert pgn["key"][:10] in again.stdout
        assert not list((results / ".work").glob("*/*"))

    def test_another_seed_is_another_result(self, fgsm: dict[str, Any], results: Path) -> None:
        other = record_of(
            call(
                "run",
                *TARGET,
                "--attack",
                "fgsm",
                "--epsilon",
                "8/255",
                "--seed",
                "1",
                "--results",
                str(results),
                "--json",
            )
        )
        assert other["key"] != fgsm["key"]

    def test_an_alias_is_the_same_result(self, fgsm: dict[str, Any], results: Path) -> None:
        alias = call("run", *TARGET, "--attack", "eha", "--epsilon", "8/255", "--results", str(results))
        assert "answered from the store" in alias.stdout

    def test_the_table_says_all_that_counts(self, pgn: dict[str, Any], results: Path) -> None:
        shown = call("show", pgn["key"][:8], "--results", str(results)).stdout
        for words in (
            "clean",
            "raw",
            "valid",
            "8-bit",
            "mAP",
            "PSNR",
            "SSIM",
            "RMSD",
            "queries",
            "ms an image",
            "fit ",
        ):
            assert words in shown

    def test_figures_are_drawn(self, pgn: dict[str, Any], results: Path) -> None:
        folder = results / pgn["key"] / "figures"
        call("show", pgn["key"], "--results", str(results))
        for name in ("triplets.png", "triplets.pdf", "convergence.png", "convergence.pdf"):
            assert (folder / name).stat().st_size > 5000
        with Image.open(folder / "convergence.png") as image:
            assert min(image.size) > 600

    def test_figures_that_cannot_be_kept_are_said_beneath_the_result(self, fgsm: dict[str, Any], results: Path) -> None:
        figures = results / fgsm["key"] / "figures"
        shutil.rmtree(figures)
        figures.touch()
        run = ("run", *TARGET, "--attack", "fgsm", "--epsilon", "8/255")
        for words in (run, ("show", fgsm["key"])):
            shown = call(*words, "--results", str(results))
            assert shown.exit_code == 0, shown.stderr
            assert f"result {fgsm['key'][:10]}" in shown.stdout
            assert f"no figures: cannot write figures to {figures}: File exists" in shown.stderr
        figures.unlink()

    def test_every_option_reaches_the_method(self, pgn: dict[str, Any]) -> None:
        parameters = pgn["spec"]["parameters"]
        assert parameters["epochs"] == 2
        assert parameters["backbone"] == "scratch"
        assert parameters["decoder_width"] == 0.02
        assert pgn["spec"]["dataset"]["fit_images"] == 128
        assert pgn["spec"]["target"]["made_from"]["training"]["images"] == 200

    def test_a_method_that_is_not_granted_enough_is_incompatible_and_has_no_numbers(self, results: Path) -> None:
        refused = call(
            "run", *TARGET, "--attack", "fgsm", "--epsilon", "0.1", "--threat", "black-box-labels", "--json",
            "--results", str(results),
        )  # fmt: skip
        assert refused.exit_code == 1
        record = json.loads(refused.stdout)
        assert record["status"] == "incompatible"
        assert "input-gradients" in record["reason"]
        assert record["metrics"] is None

    def test_a_spent_budget_is_said_and_has_no_numbers(self, results: Path) -> None:
        spent = call("run", *TARGET, *SMALL_PGN, "--max-fit-queries", "100", "--results", str(results), "--json")
        assert spent.exit_code == 1
        record = json.loads(spent.stdout)
        assert (record["status"], record["metrics"]) == ("budget-spent", None)
        assert 0 < record["clean_accuracy"] < 1

    def test_a_target_that_raises_is_a_failure_and_no_robustness(
        self, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "failing.py").write_text(
            "from advbench.targets import FunctionTarget\n"
            "def api(classes):\n"
            "    def answer(images):\n        raise ConnectionError('the service is down')\n"
            "    return FunctionTarget(answer, classes)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        failed = call(
            "run", "--target", "failing:api", "--attack", "noise", "--epsilon", "0.1", "--limit", "20", "--json",
            "--results", str(results),
        )  # fmt: skip
        record = json.loads(failed.stdout)
        assert failed.exit_code == 1
        assert (record["status"], record["metrics"]) == ("failed", None)
        assert "the service is down" in record["reason"]

    def test_a_function_is_a_target_for_black_box_threats(
        self, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "service.py").write_text(
            "from advbench.targets import FunctionTarget\n"
            "def api(classes):\n"
            "    return FunctionTarget(lambda x: (x.mean((1, 2, 3)) * classes).long(), classes, name='means')\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        general = ["--target", "service:api", "--limit", "20", "--results", str(results), "--json"]
        record = record_of(call("run", *general, *SMALL_PGN))
        assert record["metrics"]["clean_map"] is None
        assert "target means (not trained here)" in call("show", record["key"], "--results", str(results)).stdout
        refused = call("run", *general, "--attack", "fgsm", "--epsilon", "0.1")
        assert "does not offer input-gradients" in json.loads(refused.stdout)["reason"]

    def test_oracles_are_marked(self, results: Path) -> None:
        record = record_of(
            call("run", *TARGET, "--attack", "fgsm", "--label", "true", "--true-labels", "--goal", "enhance",
                 "--epsilon", "0.1", "--results", str(results), "--json")
        )  # fmt: skip
        assert record["spec"]["threat"]["name"] == "white-box+true-labels"
        mark = "was granted the true classes of the evaluation images"
        shown = " ".join(call("show", record["key"], "--results", str(results)).stdout.split())
        assert mark in shown
        assert "target resnet18 (scratch, saw 200 fit images)" in shown
        listed = call("list", "results", "--results", str(results)).stdout
        assert [line.split()[0] for line in listed.splitlines() if " † " in line] == [record["key"][:10]]
        assert record["metrics"]["valid_accuracy"] > record["metrics"]["clean_accuracy"]


class TestVerify:
    def test_a_sound_result_holds(self, pgn: dict[str, Any], fgsm: dict[str, Any], results: Path) -> None:
        for record, source in ((pgn, "state"), (fgsm, "perturbed")):
            verdict = json.loads(call("verify", record["key"], "--results", str(results), "--json").stdout)
            assert verdict == {"holds": True, "source": source, "findings": []}

    def test_a_result_is_found_by_the_path_that_a_run_prints(
        self, fgsm: dict[str, Any], results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(results.parent)
        for path in (f"{results.name}/{fgsm['key']}", f"{results}/{fgsm['key']}/"):
            shown = call("show", path, "--json")
            assert json.loads(shown.stdout) == fgsm, shown.stderr
            assert json.loads(call("verify", path, "--json").stdout)["holds"]

    def test_a_changed_file_is_noticed(self, fgsm: dict[str, Any], results: Path, tmp_path: Path) -> None:
        copy = tmp_path / fgsm["key"]
        shutil.copytree(results / fgsm["key"], copy)
        content = load_file(copy / "perturbed.safetensors")
        save_file({"perturbed": content["perturbed"] * 0.9}, copy / "perturbed.safetensors")
        changed = call("verify", fgsm["key"], "--results", str(tmp_path))
        assert changed.exit_code == 2
        assert "was changed" in changed.stderr

    def test_a_made_up_result_does_not_hold(self, fgsm: dict[str, Any], results: Path, tmp_path: Path) -> None:
        """Predictions that the perturbed images do not give, under hashes that fit."""
        import hashlib

        copy = tmp_path / fgsm["key"]
        shutil.copytree(results / fgsm["key"], copy)
        samples = pq.read_table(copy / "samples.parquet")
        flipped = [(value + 1) % 10 for value in samples["valid_prediction"].to_pylist()]
        index = samples.column_names.index("valid_prediction")
        pq.write_table(samples.set_column(index, "valid_prediction", [flipped]), copy / "samples.parquet")
        record = json.loads((copy / "record.json").read_text())
        record["files"]["samples.parquet"] = hashlib.sha256((copy / "samples.parquet").read_bytes()).hexdigest()
        (copy / "record.json").write_text(json.dumps(record))
        refuted = call("verify", fgsm["key"], "--results", str(tmp_path))
        assert refuted.exit_code == 1
        assert "60 of 60 valid predictions differ" in refuted.stdout
        assert "metrics are not those of its per-image results" in refuted.stdout

    def test_made_up_metrics_do_not_hold(self, fgsm: dict[str, Any], results: Path, tmp_path: Path) -> None:
        copy = tmp_path / fgsm["key"]
        shutil.copytree(results / fgsm["key"], copy)
        record = json.loads((copy / "record.json").read_text())
        record["metrics"]["valid_accuracy"] = 0.0
        (copy / "record.json").write_text(json.dumps(record))
        refuted = call("verify", fgsm["key"], "--results", str(tmp_path))
        assert refuted.exit_code == 1
        assert "metrics are not those of its per-image results" in refuted.stdout


class TestLists:
    @pytest.mark.parametrize(
        ("what", "expected"),
        [
            ("attacks", ["pgn-b", "pgn-50", "pgn-101", "fgsm", "eha", "noise"]),
            ("targets", ["resnet50", "vgg16", "densenet169"]),
            ("datasets", ["digits", "stl10", "imagenet-N", "imagefolder"]),
            ("threats", ["white-box", "black-box-labels", "black-box-scores", "known-structure"]),
        ],
    )
    def test_names(self, what: str, expected: list[str]) -> None:
        shown = call("list", what).stdout
        assert all(name in shown for name in expected)

    def test_results(self, pgn: dict[str, Any], fgsm: dict[str, Any], results: Path) -> None:
        shown = call("list", "results", "--results", str(results)).stdout
        assert pgn["key"][:10] in shown
        assert fgsm["key"][:10] in shown

    def test_no_results_are_no_error(self, tmp_path: Path) -> None:
        assert call("list", "results", "--results", str(tmp_path / "none")).exit_code == 0

    def test_a_method_describes_every_option_it_has(self) -> None:
        from advbench.methods.pgn import PGN

        shown = call("describe", "pgn-b").stdout
        for name, field in PGN.model_fields.items():
            option = (field.alias or name).replace("_", "-")
            assert f"--{option}" in shown

    @pytest.mark.parametrize(
        ("attack", "option", "default"),
        [
            ("pgn-b", "objective", "by goal, size (logistic, least-squares)"),
            ("pgn-b", "discriminator", "by target (resnet34, resnet18)"),
            ("pgn-b", "gamma", "by goal, bound (3.0, 0.0, 0.0001)"),
            ("pgn-b", "label-aware", "True"),  # whatever the setting
            ("pgn-b", "patience", "-"),  # nothing fills it in
            ("gap-universal", "valid-pixels", "True"),  # it needs a bound
        ],
    )
    def test_a_default_says_what_it_depends_on(self, attack: str, option: str, default: str) -> None:
        (row,) = re.findall(rf"^  --{option} .*$", call("describe", attack).stdout, flags=re.MULTILINE)
        assert re.split(r"\s{2,}", row.strip())[1] == default


def test_probe_says_what_the_encoder_knows_by_itself(pgn: dict[str, Any], fgsm: dict[str, Any], results: Path) -> None:
    """Of an encoder with random weights: on the digits, more than chance and less than a network learns."""
    found = call("probe", pgn["key"], "--results", str(results))
    assert found.exit_code == 0, found.stderr
    row = next(line for line in found.stdout.splitlines() if pgn["key"][:10] in line)
    clean, perturbed, probed, *_ = re.findall(r"(\d+\.\d)%", row)
    assert float(clean) == pytest.approx(100 * pgn["metrics"]["clean_accuracy"], abs=0.05)
    assert float(perturbed) == pytest.approx(100 * pgn["metrics"]["valid_accuracy"], abs=0.05)
    assert 25 < float(probed) < 99
    assert "128 images" in row
    refused = call("probe", pgn["key"], fgsm["key"], "--results", str(results))
    assert refused.exit_code == 2
    assert "looking at images" not in refused.stderr
    assert "fgsm has no generator whose encoder could be probed" in refused.stderr


@pytest.mark.parametrize("words", ["no images in [data/x]", "/runs[/2]/abc", "mine:smile:net"])
def test_words_are_shown_as_they_are(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say(words)
    screen.show(words)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (f"{words}\n", f"{words}\n")
    with Watch({0: PlannedCell(SuiteCell({"method": words}, {}), State.TO_RUN)}) as watch:
        watch.tell(Event(0, words, 1, 2, {}))
        Console(file=(drawn := io.StringIO()), width=160).print(watch._bars.get_renderable())
    assert f"{words}: {words}" in drawn.getvalue()


def test_train_keeps_the_target_and_says_how_good_it_is(home: Path) -> None:
    arguments = ["train", "--target", "resnet18", "--target-images", "200", "--target-epochs", "2", "--device", "cpu"]
    first = call(*arguments)
    assert first.exit_code == 0
    assert "evaluation accuracy" in first.stdout
    assert "359 images" in first.stdout
    again = call(*arguments)
    assert "trained target" not in again.stderr
    assert first.stdout.splitlines()[-1] == again.stdout.splitlines()[-1]


def test_a_trained_target_is_saved_for_another_to_start_from(home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "weights" / "digits.safetensors"
    recipe = ["train", "--target", "squeezenet1_1", "--device", "cpu"]
    trained = call(*recipe, "--target-epochs", "1", "--target-images", "100", "--save", str(saved))
    taken = call(*recipe, "--init", str(saved))
    assert taken.stdout == trained.stdout, "the same fingerprint and accuracies, without an epoch"
    refused = call(*recipe, "--save", "weights.pth")
    assert refused.exit_code == 2
    assert "ends in .safetensors, got 'weights.pth'" in refused.stderr


class TestRefusals:
    """Each bad input: one clear line on standard error, nothing on standard output, a non-zero status."""

    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        yield

    def refused(self, *arguments: str) -> str:
        result = call(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "Traceback" not in result.stderr
        return lines[0]

    def run(self, *arguments: str, attack: str = "fgsm", target: str = "resnet18") -> str:
        general = ["--target-images", "40", "--target-epochs", "1", "--limit", "20"]
        return self.refused("run", "--attack", attack, "--target", target, *general, *arguments)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"attack": "pgn-c"}, "unknown attack 'pgn-c': did you mean 'pgn-b'"),
            ({"target": "densnet169"}, "unknown target 'densnet169': did you mean 'densenet169'"),
        ],
    )
    def test_unknown_names(self, arguments: dict[str, str], words: str) -> None:
        assert words in self.run("--epsilon", "0.1", **arguments)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--dataset", "digit", "--epsilon", "0.1"], "unknown dataset 'digit': did you mean 'digits'"),
            (["--threat", "blackbox-labels", "--epsilon", "0.1"], "did you mean 'black-box-labels'"),
            (["--epsilon", "-0.1"], "at least 0, got -0.1"),
            (["--epsilon", "nan"], "finite number of at least 0, got nan"),
            (["--epsilon", "inf"], "finite number of at least 0, got inf"),
            (["--epsilon", "8"], "[0, 1] pixel scale under linf, got 8; for 8 grey levels of 255 write 8/255"),
            (["--epsilon", "eight"], "not a number or a fraction such as 8/255"),
            ([], "needs a budget: give --epsilon"),
            (["--epsilon", "0.1", "--gama", "3"], "unknown option"),
            (["--epsilon", "0.1", "--labl", "true"], "did you mean '--label'"),
            (["--epsilon", "0.1", "--epsilom", "2"], "did you mean '--epsilon'"),
            (["--epsilon", "0.1", "--label"], "--label needs a value"),
            (["--epsilon", "0.1", "--label", "wrong"], "--label of fgsm: Input should be 'predicted' or 'true'"),
            (["--epsilon", "0.1", "stray"], "unexpected 'stray'"),
            (["--epsilon", "0.1", "--device", "cuda:7"], "device 'cuda:7' x 1 is not there"),
            (["--epsilon", "0.1", "--device", "gpu"], "unknown device 'gpu'"),
            (["--epsilon", "0.1", "--dataset", "imagefolder", "--data", "nowhere"], "no folder nowhere"),
            (["--epsilon", "0.1", "--dataset", "stl10"], "train_X.bin"),
            (["--epsilon", "0.1", "--init", "missing.pth"], "no checkpoint missing.pth"),
            (["--epsilon", "0.1", "--via", "resnet81"], "unknown target 'resnet81': did you mean 'resnet18'"),
        ],
    )
    def test_options(self, arguments: list[str], words: str) -> None:
        assert words in self.run(*arguments)

    @pytest.mark.parametrize("rate", ["nan", "inf"])
    @pytest.mark.parametrize("option", ["--target-lr", "--via-lr"])
    def test_rates(self, option: str, rate: str) -> None:
        result = call("run", "--attack", "fgsm", "--target", "resnet18", "--epsilon", "0.1", option, rate)
        assert result.exit_code == 2
        assert f"{rate} is no rate: expected a number above 0" in result.stderr

    @pytest.mark.parametrize("reach", ["nan", "0", "-1"])
    def test_how_far_regions_go(self, reach: str) -> None:
        result = call("regions", "abc", "--reach", reach)
        assert result.exit_code == 2
        assert "Invalid value for '--reach'" in result.stderr

    @pytest.mark.parametrize("target", [":x", ".mine:x", "json:nothing", "nowhere:x"])
    def test_factories(self, target: str) -> None:
        general = ["--target", target, "--attack", "noise", "--epsilon", "0.1", "--limit", "20"]
        assert f"cannot import target '{target}'" in self.refused("run", *general)

    def test_checkpoints(self, tmp_path: Path) -> None:
        state = build_network("resnet34", 10, 32).state_dict()
        save_file(dict(state), tmp_path / "resnet34.safetensors")
        state["conv1.weight"][0] = torch.nan
        save_file(dict(state), tmp_path / "nan.safetensors")
        (tmp_path / "code.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        for name, words in (
            ("resnet34.safetensors", "belongs to another architecture"),
            ("nan.safetensors", "NaN or infinite values in 'conv1.weight'"),
            ("code.pth", "could run code"),
        ):
            assert words in self.run("--epsilon", "0.1", "--init", name)

    def test_image_folders(self, tmp_path: Path) -> None:
        (tmp_path / "one" / "only").mkdir(parents=True)
        assert "1 class folders" in self.run("--epsilon", "0.1", "--dataset", "imagefolder", "--data", "one")
        (tmp_path / "one" / "second").mkdir()
        assert "no images in" in self.run("--epsilon", "0.1", "--dataset", "imagefolder", "--data", "one")

    def test_truncated_images(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for name in ("a", "b"):
            (tmp_path / "set" / name).mkdir(parents=True)
            for number in range(30):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.jpg")
        broken = tmp_path / "set" / "b" / "11.jpg"
        for path in (tmp_path / "set" / "b").glob("*.jpg"):
            path.write_bytes(path.read_bytes()[:300] if path == broken else path.read_bytes())
        said = call(
            "run", "--attack", "noise", "--target", "resnet18", "--target-epochs", "1", "--epsilon", "0.1",
            "--dataset", "imagefolder", "--data", "set", "--image-size", "32",
        )  # fmt: skip
        assert said.exit_code in (1, 2)
        assert "set/b/11.jpg" in said.stderr + said.stdout

    @pytest.mark.parametrize("option", ["--target-images=100", "--target-normalisation=half"])
    def test_training_options_of_what_is_not_trained(self, option: str) -> None:
        name = option.partition("=")[0]
        said = self.refused("run", "--attack", "noise", "--epsilon", "0.1", "--target", "somewhere:net", option)
        assert f"leave out {name}, or give --target-epochs" in said

    def test_results_that_cannot_be_kept(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        assert "cannot write results to file" in self.run("--epsilon", "0.1", "--results", "file")
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        if os.access(locked, os.W_OK):
            locked = Path("/proc/1/advbench")  # root may write anywhere else
        assert "cannot write results to" in self.run("--epsilon", "0.1", "--results", str(locked / "results"))

    def test_unknown_results(self, tmp_path: Path) -> None:
        assert "unknown result 'abc'" in self.refused("show", "abc", "--results", str(tmp_path))
        assert "unknown result 'abc'" in self.refused("verify", "abc", "--results", str(tmp_path))
