"""Every file of baselines/: valid, of an attack that there is, with parameters that it has, and held to its peers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from advbench.access import QueryLedger, perturb_access
from advbench.baselines import Baseline, Check, CrossCheck, find_baseline, read_baseline
from advbench.bench import build_method
from advbench.bench.evaluate import check_perturbed
from advbench.cli import main
from advbench.datasets import Dataset
from advbench.errors import InvalidConfig, UnknownName
from advbench.methods import Context, Setting
from advbench.methods.geometry import lengths
from advbench.registry import ATTACKS
from advbench.targets import ModuleTarget
from advbench.threat import THREATS
from advbench.types import Goal

# What the peers warn about themselves is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "baselines").glob("*.toml"))
CHECKS = [(path, peer) for path in FILES for peer in read_baseline(path).peers]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestEveryFile:
    def test_names_an_attack_that_there_is_with_parameters_that_it_has(self, path: Path) -> None:
        baseline = read_baseline(path)
        attack = baseline.attack
        assert attack.name in ATTACKS.entries or attack.name.partition(":")[0] in ATTACKS.families
        method = build_method(attack.name, dict(attack.parameters))
        budget = Check(norm=attack.norm, epsilon=attack.epsilon).budget
        method.resolve(Setting(Goal.DEGRADE, budget, 32, "resnet18"))

    def test_cites_the_paper_and_says_how_it_is_checked(self, path: Path) -> None:
        baseline = read_baseline(path)
        assert baseline.citation
        assert (baseline.check is not None) == bool(baseline.peers)
        assert all(number.source and number.setting for number in [*baseline.published, *baseline.ours])


@pytest.mark.parametrize(("path", "peer"), CHECKS, ids=lambda value: getattr(value, "stem", None) or value.attack)
def test_ours_is_no_worse_than_its_peers(
    path: Path, peer: CrossCheck, digits: Dataset, target: ModuleTarget, ours: dict[Path, Tensor]
) -> None:
    """Both are scored alike: one independent pass over what each returned."""
    baseline = read_baseline(path)
    assert baseline.check is not None
    _needs_library(peer.attack)
    rows = torch.arange(baseline.check.images)
    clean = digits.evaluation.images(rows)
    if path not in ours:
        parameters = {**baseline.attack.parameters, **baseline.check.parameters}
        ours[path] = perturb(baseline.attack.name, parameters, baseline, digits, target)
    results = (ours[path], perturb(peer.attack, peer.parameters, baseline, digits, target))
    before = target.labels(clean)
    fooled = [target.labels(result) != before for result in results]
    shares = [float(one.float().mean()) for one in fooled]
    assert shares[0] >= shares[1] - peer.success, f"ours changes {shares[0]:.3f}, {peer.attack} {shares[1]:.3f}"
    both = fooled[0] & fooled[1]
    if peer.norm is not None and both.any():
        norms = [float(lengths((result - clean)[both], baseline.check.norm).mean()) for result in results]
        assert norms[0] <= norms[1] * peer.norm, f"ours is {norms[0]:.4f} long, {peer.attack} {norms[1]:.4f}"


@pytest.fixture(scope="module")
def ours() -> dict[Path, Tensor]:
    """What our side of each file returned, run once for all of its peers."""
    return {}


def _needs_library(attack: str) -> None:
    try:
        ATTACKS.load(attack)
    except InvalidConfig as error:
        if isinstance(error, UnknownName):
            raise
        pytest.skip(str(error))


def perturb(
    attack: str, parameters: dict[str, Any], baseline: Baseline, digits: Dataset, target: ModuleTarget
) -> Tensor:
    check = baseline.check
    assert check is not None
    rows = torch.arange(check.images)
    method = build_method(attack, dict(parameters)).resolve(Setting(check.goal, check.budget, 32, "resnet18"))
    door = perturb_access(target, THREATS["white-box"], QueryLedger(check.images), rows, digits.evaluation.labels[rows])
    clean = digits.evaluation.images(rows)
    context = Context(check.goal, check.budget, 0, 32, 10)
    perturbed = method.restore({}, context).perturb(clean.clone(), door)
    check_perturbed(perturbed, clean, check.budget)
    return perturbed


class TestLookingUp:
    @pytest.fixture(autouse=True)
    def _at_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ADVBENCH_BASELINES", str(ROOT / "baselines"))

    def test_names_paths_and_near_misses(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert find_baseline("fgsm") is None
        found = find_baseline("baseline:fgsm")
        assert found is not None
        assert found == find_baseline(f"baseline:{ROOT / 'baselines' / 'fgsm.toml'}")
        with pytest.raises(UnknownName, match="did you mean 'fgsm'"):
            find_baseline("baseline:fgms")
        monkeypatch.delenv("ADVBENCH_BASELINES")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidConfig, match="ADVBENCH_BASELINES"):
            find_baseline("baseline:fgsm")

    @pytest.mark.parametrize(
        ("old", "new", "line", "message"),
        [
            ('norm = "linf"', 'norm = "l7"', 10, "attack.norm: Input should be 'linf', 'l2' or 'l1'"),
            ("success = 0.1", "success = 2", 20, "peers.0.success: Input should be less than or equal to 1"),
            ("images = 64", "pictures = 64", 16, "check.pictures: Extra inputs are not permitted"),
            ("images = 64", "images = = 64", 16, "no valid TOML.*line 16"),
            ('name = "noise"', "", 7, "attack.name: Field required"),
            ("epsilon = 0.25", 'epsilon = "8of255"', 11, "attack.epsilon: epsilon '8of255' is not a number"),
            ("epsilon = 0.25", "epsilon = -1", 11, "attack.epsilon: epsilon must be a finite number of at least 0"),
            ("epsilon = 0.25", "epsilon = 8", 11, "attack.epsilon: epsilon is in .0, 1. pixel scale under linf"),
        ],
    )
    def test_a_bad_file_is_refused_with_the_line(
        self, old: str, new: str, line: int, message: str, tmp_path: Path
    ) -> None:
        text = (ROOT / "baselines" / "noise.toml").read_text()
        assert old in text
        bad = tmp_path / "bad.toml"
        bad.write_text(text.replace(old, new, 1))
        with pytest.raises(InvalidConfig, match=message) as refused:
            read_baseline(bad)
        assert str(bad) in str(refused.value)
        assert f":{line}:" in str(refused.value) or f"line {line}," in str(refused.value)

    def test_a_file_in_another_encoding_is_named(self, tmp_path: Path) -> None:
        (bad := tmp_path / "bad.toml").write_bytes('title = "Où"'.encode("latin-1"))
        with pytest.raises(InvalidConfig, match=rf"{bad} is no valid TOML, which is UTF-8"):
            read_baseline(bad)

    def test_the_command_takes_what_the_file_says_and_the_user_goes_before_it(self) -> None:
        common = ["--target", "resnet18", "--target-images", "200", "--target-epochs", "2", "--limit", "20",
                  "--device", "cpu", "--json"]  # fmt: skip

        def record(*arguments: str) -> dict[str, Any]:
            with CliRunner().isolated_filesystem():
                done = CliRunner().invoke(main, ["run", *arguments, *common])
            assert done.exit_code == 0, done.stderr
            parsed: dict[str, Any] = json.loads(done.stdout)
            return parsed

        cited = record("--attack", "baseline:noise")
        assert cited["request"]["baseline"] == "baseline:noise"
        assert cited["spec"]["attack"] == "noise"
        assert cited["spec"]["parameters"] == {"kind": "uniform"}
        assert cited["spec"]["budget"] == {"norm": "linf", "epsilon": 0.25}
        by_hand = record("--attack", "noise", "--kind", "uniform", "--epsilon", "0.25")
        assert by_hand["key"] == cited["key"]
        changed = record("--attack", "baseline:noise", "--kind", "sign", "--epsilon", "0.1")
        assert changed["spec"]["parameters"] == {"kind": "sign"}
        assert changed["spec"]["budget"]["epsilon"] == 0.1

    def test_listing_and_describing(self) -> None:
        listed = CliRunner().invoke(main, ["list", "baselines"])
        assert "baseline:fgsm" in listed.stdout
        described = CliRunner().invoke(main, ["describe", "baseline:noise"])
        assert "1412.6572" in described.stdout
        assert "uniform" in described.stdout
