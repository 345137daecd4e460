"""Several networks as one target: what is fused, and that its gradient is the one worked out by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from advbench.access import QueryLedger, fit_access, perturb_access
from advbench.bench import build_method
from advbench.errors import AccessDenied, InvalidConfig
from advbench.methods import Context
from advbench.targets import EnsembleTarget, Fusion, ModuleTarget
from advbench.threat import THREATS, Budget
from advbench.types import Capability, Goal

MakeTarget = Callable[..., ModuleTarget]
FUSIONS: tuple[Fusion, ...] = ("logits", "probabilities", "loss")
IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(9) % 4


@pytest.fixture
def members(linear_target: MakeTarget) -> list[ModuleTarget]:
    return [linear_target(classes=4, seed=seed) for seed in range(3)]


def cross_entropy(scores: torch.Tensor, part: slice) -> torch.Tensor:
    return F.cross_entropy(scores, LABELS[part], reduction="none").unsqueeze(1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_gradient_is_the_one_worked_out_by_hand(fusion: Fusion, members: list[ModuleTarget]) -> None:
    """For members W_k x + b_k with softmax p_k, and e the one-hot of the class:

    logits: mean(W)^T (softmax(mean of logits) - e); loss: mean of W_k^T (p_k - e); probabilities: with P the mean of
    p_k, -log P_y has the gradient sum of r_k W_k^T (p_k - e), where r_k = p_k,y / sum over members of p_.,y.
    """
    weights = torch.stack([dict(member.module().named_parameters())["1.weight"] for member in members]).detach()
    logits = torch.stack([member.scores(IMAGES) for member in members])
    probabilities, onehot = logits.softmax(2), F.one_hot(LABELS, 4).float()
    per_member = torch.einsum("kbc,kcd->kbd", probabilities - onehot, weights)
    if fusion == "logits":
        expected = (logits.mean(0).softmax(1) - onehot) @ weights.mean(0)
    elif fusion == "loss":
        expected = per_member.mean(0)
    else:
        own = probabilities[:, torch.arange(9), LABELS]
        expected = ((own / own.sum(0)).unsqueeze(2) * per_member).sum(0)
    answer = EnsembleTarget(members, fusion).jacobian(IMAGES, cross_entropy, 1)
    assert torch.allclose(answer.gradients.flatten(1), expected, atol=1e-6)


def test_scores_are_what_is_fused(members: list[ModuleTarget]) -> None:
    logits = torch.stack([member.scores(IMAGES) for member in members])
    expected = {
        "logits": logits.mean(0),
        "probabilities": logits.softmax(2).mean(0).log(),
        "loss": logits.log_softmax(2).mean(0),
    }
    for fusion in FUSIONS:
        target = EnsembleTarget(members, fusion)
        assert torch.allclose(target.scores(IMAGES), expected[fusion], atol=1e-6)
        assert torch.equal(target.labels(IMAGES), expected[fusion].argmax(1))
        answer = target.jacobian(IMAGES, cross_entropy, 1)
        assert torch.allclose(answer.scores, expected[fusion], atol=1e-6)
    losses = [EnsembleTarget(members, fusion).jacobian(IMAGES, cross_entropy, 1).losses for fusion in FUSIONS]
    by_hand = torch.stack([F.cross_entropy(own, LABELS, reduction="none") for own in logits]).mean(0)
    assert torch.allclose(losses[2].squeeze(1), by_hand, atol=1e-6)
    assert torch.allclose(losses[1].squeeze(1), -expected["probabilities"].gather(1, LABELS[:, None])[:, 0], atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_ensemble_of_one_is_that_one(fusion: Fusion, members: list[ModuleTarget]) -> None:
    alone = members[0].jacobian(IMAGES, cross_entropy, 1)
    fused = EnsembleTarget(members[:1], fusion).jacobian(IMAGES, cross_entropy, 1)
    assert torch.allclose(fused.gradients, alone.gradients, atol=1e-6)
    assert torch.equal(fused.scores.argmax(1), alone.scores.argmax(1))


def test_it_gives_everything_but_weights(members: list[ModuleTarget]) -> None:
    target = EnsembleTarget(members)
    assert set(Capability) - target.offers == {Capability.WEIGHTS}
    door = fit_access(target, THREATS["white-box"], QueryLedger(9), LABELS)
    assert door.structure == "linear+linear+linear"
    with pytest.raises(AccessDenied):
        door.module()
    empty = target.jacobian(IMAGES[:0], cross_entropy, 1)
    assert empty.gradients.shape == (0, 1, 3, 4, 4)
    assert empty.scores.shape == (0, 4)


def test_what_cannot_be_fused_is_refused(members: list[ModuleTarget], linear_target: MakeTarget) -> None:
    with pytest.raises(InvalidConfig, match="same classes"):
        EnsembleTarget([members[0], linear_target(classes=5)])
    with pytest.raises(InvalidConfig, match="fuse logits or probabilities"):
        EnsembleTarget(members, "loss").jacobian(IMAGES, lambda scores, part: scores, 4)


def test_members_and_fusion_decide_its_identity(members: list[ModuleTarget]) -> None:
    prints = {EnsembleTarget(some, fusion).fingerprint for some in (members, members[:2]) for fusion in FUSIONS}
    assert len(prints) == 6


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "mi-fgsm"])
def test_gradient_methods_run_on_it_and_lower_what_the_members_give_the_class(
    attack: str, fusion: Fusion, members: list[ModuleTarget]
) -> None:
    target, rows = EnsembleTarget(members, fusion), torch.arange(9)
    door = perturb_access(target, THREATS["white-box"].with_true_labels(), QueryLedger(9), rows, LABELS)
    context = Context(Goal.DEGRADE, Budget(epsilon=0.1), 0, 4, 4)
    perturbed = build_method(attack, {"label": "true"}).restore({}, context).perturb(IMAGES, door)
    before, after = (
        torch.stack([F.cross_entropy(member.scores(images), LABELS) for member in members]).mean()
        for images in (IMAGES, perturbed)
    )
    assert after > before + 0.05
