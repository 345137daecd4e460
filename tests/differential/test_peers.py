"""The same attack on the same model by the peers: the same images."""

import pytest
import torch
import torch.nn.functional as F

from advbench.access import QueryLedger, perturb_access
from advbench.bench import build_method
from advbench.datasets import Dataset
from advbench.methods import Context
from advbench.targets import ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Goal, Norm

# What the peers warn about themselves when they are imported is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

EPSILON = 0.1
COUNT = 64


def ours(target: ModuleTarget, digits: Dataset, attack: str, norm: Norm, **options: object) -> torch.Tensor:
    rows = torch.arange(COUNT)
    labels = digits.evaluation.labels[rows]
    door = perturb_access(target, THREATS["white-box"].with_true_labels(), QueryLedger(100), rows, labels)
    context = Context(Goal.DEGRADE, Budget(norm=norm, epsilon=EPSILON), 0, 32, 10)
    method = build_method(attack, {"label": "true", **options})
    return method.restore({}, context).perturb(digits.evaluation.images(rows), door)


def agree(mine: torch.Tensor, theirs: torch.Tensor, differing: float = 2e-3) -> None:
    """Equal but for pixels whose gradient is so near zero that rounding decides its sign."""
    assert ((mine - theirs).abs() > 1e-4).float().mean() < differing


@pytest.mark.parametrize(
    ("attack", "norm", "peer", "options"),
    [
        ("fgsm", Norm.LINF, "LinfFastGradientAttack", {}),
        ("fgsm", Norm.L2, "L2FastGradientAttack", {}),
        ("pgd", Norm.LINF, "LinfProjectedGradientDescentAttack", {"steps": 5, "relative_step": 0.25}),
        ("pgd", Norm.L2, "L2ProjectedGradientDescentAttack", {"steps": 5, "relative_step": 0.25}),
    ],
)
def test_foolbox(
    attack: str, norm: Norm, peer: str, options: dict[str, object], digits: Dataset, target: ModuleTarget
) -> None:
    import foolbox

    model = foolbox.PyTorchModel(target.module(), bounds=(0, 1), device="cpu")
    if attack == "pgd":
        theirs = getattr(foolbox.attacks, peer)(steps=5, rel_stepsize=0.25, random_start=False)
        options = {**options, "random_start": False}
    else:
        theirs = getattr(foolbox.attacks, peer)(random_start=False)
    images, labels = digits.evaluation.images(slice(0, COUNT)), digits.evaluation.labels[:COUNT]
    _, perturbed, _ = theirs(model, images, labels, epsilons=EPSILON)
    mine = ours(target, digits, attack, norm, **options)
    # Over several steps the few flipped signs change the later gradients, so the loss reached is compared as well.
    agree(mine, perturbed, differing=2e-3 if attack == "fgsm" else 5e-2)
    losses = [F.cross_entropy(target.scores(reached), labels).item() for reached in (mine, perturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize(("norm", "order"), [(Norm.LINF, "inf"), (Norm.L2, 2)])
def test_art_fgsm(norm: Norm, order: str | int, digits: Dataset, target: ModuleTarget) -> None:
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        target.module(), torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
    )
    images, labels = digits.evaluation.images(slice(0, COUNT)), digits.evaluation.labels[:COUNT]
    attack = FastGradientMethod(model, norm=order, eps=EPSILON, batch_size=COUNT)
    perturbed = torch.from_numpy(attack.generate(images.numpy(), y=labels.numpy()))
    agree(ours(target, digits, "fgsm", norm), perturbed)
