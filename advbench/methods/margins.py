"""How far a sample's scores are from leaving its class, ``(batch,)`` each, larger being nearer."""

from torch import Tensor

from advbench.errors import InvalidConfig
from advbench.tensors import Labels, Scores

__all__ = ["dlr", "margin", "nearest_classes", "targeted_dlr"]


def _of(scores: Scores, classes: Labels) -> Tensor:
    return scores.gather(1, classes[:, None]).squeeze(1)


def _others(scores: Scores, labels: Labels) -> Scores:
    return scores.scatter(1, labels[:, None], -float("inf"))


def margin(scores: Scores, labels: Labels) -> Tensor:
    """The best other class's score less the class's own: above 0 where the sample has left it."""
    return _others(scores, labels).max(dim=1).values - _of(scores, labels)


def dlr(scores: Scores, labels: Labels) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, equation 6): the margin over ``z_1 - z_3``, the scores sorted.

    It does not change when logits are shifted or scaled, so that an overconfident target cannot hide its gradient.

    Raises:
        InvalidConfig: Fewer than three classes: the ratio would be constant.
    """
    if scores.shape[1] < 3:
        raise InvalidConfig(f"the DLR loss needs at least 3 classes, and the target has {scores.shape[1]}: use apgd-ce")
    ranked = scores.topk(3, dim=1).values
    return margin(scores, labels) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted_dlr(scores: Scores, labels: Labels, targets: Labels) -> Tensor:
    """The targeted difference of logits ratio (equation 7): ``z_t - z_y`` over ``z_1 - (z_3 + z_4) / 2``.

    Raises:
        InvalidConfig: Fewer than four classes.
    """
    if scores.shape[1] < 4:
        raise InvalidConfig(
            f"the targeted DLR loss needs at least 4 classes, and the target has {scores.shape[1]}: use apgd-ce"
        )
    ranked = scores.topk(4, dim=1).values
    spread = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    return (_of(scores, targets) - _of(scores, labels)) / (spread + 1e-12)


def nearest_classes(scores: Scores, labels: Labels, count: int) -> Labels:
    """The other classes by falling score, at most ``count`` of them, ``(batch, count)``."""
    return _others(scores, labels).topk(min(count, scores.shape[1] - 1), dim=1).indices
