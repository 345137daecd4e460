"""What makes a target's results doubtful before any attack: each check gives a warning that says what to do."""

import torch
import torch.nn.functional as F

from advbench.targets.base import Target
from advbench.tensors import Images
from advbench.types import Capability

__all__ = ["target_warnings"]


def target_warnings(target: Target, images: Images) -> list[str]:
    """Look at a few clean images' answers.

    Args:
        target: To be looked at.
        images: A handful of clean images, ``(batch, 3, height, width)``.

    Returns:
        One warning for each of: randomised answers, probabilities for logits, vanishing input gradients.
    """
    found = []
    if Capability.SCORES not in target.offers:
        if not torch.equal(target.labels(images), target.labels(images)):
            found.append(_RANDOMISED)
        return found
    scores = target.scores(images)
    if not torch.allclose(scores, target.scores(images), rtol=1e-4, atol=1e-5):
        found.append(_RANDOMISED)
    if scores.min() >= 0 and torch.allclose(scores.sum(dim=1), torch.ones(len(scores)), atol=1e-3):
        found.append(
            "the target outputs probabilities, not logits: its gradients vanish where it is sure, and gradient "
            "attacks look weaker than they are; remove its last softmax"
        )
    if Capability.INPUT_GRADIENTS in target.offers:
        predicted = scores.argmax(dim=1)
        answer = target.jacobian(
            images, lambda logits, part: F.cross_entropy(logits, predicted[part], reduction="none")[:, None], 1
        )
        dead = (answer.gradients.flatten(1).abs().amax(dim=1) == 0).float().mean().item()
        if dead > 0.1:
            found.append(
                f"{dead:.0%} of input gradients are zero: gradient attacks fail without the target being robust; "
                "use a black-box attack, or a loss on logits"
            )
    return found


_RANDOMISED = (
    "the target answers the same images differently each time: average over several runs, and do not read a single "
    "result as robustness"
)
