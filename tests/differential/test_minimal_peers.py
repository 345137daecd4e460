"""Minimal perturbations beside the peers': every output scored by one pass of its own, success and length compared."""

import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset
from advbench.methods import Context
from advbench.methods.geometry import lengths
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

# What the peers warn about themselves is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

COUNT = 6
ORDERS = {Norm.LINF: float("inf"), Norm.L2: 2, Norm.L1: 1}
Attack = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]


@pytest.fixture
def adv_lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """adv-lib, which imports visdom and needs it for drawing alone."""
    stub = types.ModuleType("visdom")
    stub.Visdom = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "visdom", stub)
    yield pytest.importorskip("adv_lib.attacks")


def compare(
    attack: str, norm: Norm, peers: dict[str, Attack], digits: Dataset, target: ModuleTarget, **options: object
) -> None:
    """Success as high as the best peer's, and no longer on the images that both fool."""
    rows = torch.arange(COUNT)
    images = digits.evaluation.images(rows)
    labels, module = target.labels(images), target.module()
    door = perturb_access(target, THREATS["white-box"], QueryLedger(100), rows, labels)
    context = Context(Goal.DEGRADE, Budget(norm=norm), 0, 32, 10)
    mine = build_method(attack, dict(options)).restore({}, context).perturb(images, door)
    fooled, length = target.labels(mine) != labels, lengths(mine - images, norm).flatten()
    for name, peer in peers.items():
        theirs = peer(module, images, labels)
        both = target.labels(theirs) != labels
        assert fooled.float().mean() >= both.float().mean() - 0.01, name
        both &= fooled
        assert both.any(), name
        assert length[both].mean() <= 1.005 * lengths(theirs - images, norm).flatten()[both].mean(), name


def foolbox_attack(name: str, **options: object) -> Attack:
    import foolbox

    def run(module: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
        perturbed: Tensor = getattr(foolbox.attacks, name)(**options)(model, images, labels, epsilons=None)[0]
        return perturbed

    return run


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_deepfool(norm: Norm, digits: Dataset, target: ModuleTarget, adv_lib: types.ModuleType) -> None:
    peers = {
        "foolbox": foolbox_attack("L2DeepFoolAttack" if norm is Norm.L2 else "LinfDeepFoolAttack"),
        "adv-lib": lambda module, images, labels: adv_lib.df(module, images, labels, steps=50, norm=ORDERS[norm]),
    }
    compare("deepfool", norm, peers, digits, target)


def test_deepfool_art(digits: Dataset, target: ModuleTarget) -> None:
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    def run(module: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model = PyTorchClassifier(
            module, torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
        )
        attack = DeepFool(model, max_iter=50, epsilon=0.02, nb_grads=10, batch_size=COUNT, verbose=False)
        return torch.from_numpy(attack.generate(images.numpy()))

    compare("deepfool", Norm.L2, {"art": run}, digits, target)


def test_deepfool_torchattacks(digits: Dataset, target: ModuleTarget) -> None:
    torchattacks = pytest.importorskip("torchattacks")

    def run(module: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        perturbed: Tensor = torchattacks.DeepFool(module, steps=50, overshoot=0.02)(images, labels)
        return perturbed

    compare("deepfool", Norm.L2, {"torchattacks": run}, digits, target)


def test_carlini_wagner(digits: Dataset, target: ModuleTarget, adv_lib: types.ModuleType) -> None:
    peers = {
        "foolbox": foolbox_attack(
            "L2CarliniWagnerAttack",
            binary_search_steps=2,
            steps=20,
            stepsize=0.02,
            initial_const=1.0,
            abort_early=False,
        ),
        "adv-lib": lambda module, images, labels: adv_lib.carlini_wagner_l2(
            module,
            images,
            labels,
            binary_search_steps=2,
            max_iterations=20,
            learning_rate=0.02,
            initial_const=1.0,
            abort_early=False,
        ),
    }
    compare(
        "carlini-wagner",
        Norm.L2,
        peers,
        digits,
        target,
        max_steps=20,
        searches=2,
        learning_rate=0.02,
        initial_c=1.0,
        abort_early=False,
    )


def test_ddn(digits: Dataset, target: ModuleTarget, adv_lib: types.ModuleType) -> None:
    peers = {
        "foolbox": foolbox_attack("DDNAttack", steps=20, init_epsilon=1.0, gamma=0.05),
        "adv-lib": lambda module, images, labels: adv_lib.ddn(module, images, labels, steps=20, init_norm=1.0, γ=0.05),
    }
    compare("ddn", Norm.L2, peers, digits, target, steps=20)


@pytest.mark.parametrize("norm", Norm)
def test_fmn(norm: Norm, digits: Dataset, target: ModuleTarget, adv_lib: types.ModuleType) -> None:
    peers = {
        "foolbox": foolbox_attack(f"{'LInf' if norm is Norm.LINF else norm.upper()}FMNAttack", steps=20),
        "adv-lib": lambda module, images, labels: adv_lib.fmn(module, images, labels, norm=ORDERS[norm], steps=20),
    }
    compare("fmn", norm, peers, digits, target, steps=20)
