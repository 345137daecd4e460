"""Adversarial transformation networks."""

from typing import Self

from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, Perturber, Setting, TrainingImages
from advbench.methods.generators.direct import DirectFit, DirectMethod
from advbench.tensors import Images, Labels, Scores
from advbench.types import Goal

__all__ = ["ATN", "rerank"]


class ATN(DirectMethod):
    """Adversarial transformation network, the residual kind (P-ATN).

    Baluja, Fischer 2017, 'Adversarial Transformation Networks: Learning to Generate Adversarial Examples',
    https://arxiv.org/abs/1703.09387. A generator is trained through the target by ``beta L_X + L_Y``: L_X the squared
    distance of the images, L_Y that of the softmax probabilities from those of the clean image, reranked so that
    class t comes first and all others keep their order. Images are ``(batch, 3, height, width)`` in [0, 1].

    Deviations: the paper trains one network for each class t; here t is, for each image, the likeliest wrong class,
    unless ``target_class`` says otherwise. To enhance, t is the true class. L_X is a mean over values, L_Y a sum over
    classes. PGN's generator with its bounds; the best epoch on validation images is kept.

    Args:
        target_class: t for all images, to degrade. None: the likeliest wrong class of each clean image.
        alpha: How many times as probable as the likeliest class t becomes, before normalisation.
        beta: Weight of L_X.
    """

    target_class: int | None = Field(default=None, ge=0)
    alpha: float = Field(default=1.5, gt=1)
    beta: float = Field(default=0.1, ge=0)

    def resolve(self, setting: Setting) -> Self:
        """Fill in every field that is None."""
        if self.target_class is not None and setting.goal is Goal.ENHANCE:
            raise InvalidConfig("--target-class leads away from the right class: it is for --goal degrade")
        return super().resolve(setting)

    def fit(self, access: Access, train: TrainingImages, context: Context) -> Perturber:
        """Train the generator through the target.

        Raises:
            InvalidConfig: There is no class ``target_class``.
        """
        if self.target_class is not None and self.target_class >= context.num_classes:
            raise InvalidConfig(f"--target-class {self.target_class}: the classes are 0 to {context.num_classes - 1}")
        return self._fitted(self._train(_Fit, access, train, context), self._origin())


class _Fit(DirectFit[ATN]):
    name = "atn"

    def _target_loss(self, scores: Scores, clean: Scores, labels: Labels) -> Tensor:
        wanted = rerank(clean.softmax(dim=1), self._classes(clean, labels), self.method.alpha)
        return (scores.softmax(dim=1) - wanted).square().sum(dim=1)

    def _classes(self, clean: Scores, labels: Labels) -> Labels:
        if self.context.goal is Goal.ENHANCE:
            return labels
        if self.method.target_class is not None:
            return labels.new_full(labels.shape, self.method.target_class)
        return clean.scatter(1, labels[:, None], -float("inf")).argmax(dim=1)

    def _own_loss(self, images: Images, perturbed: Images) -> Tensor:
        return self.method.beta * (perturbed - images).square().mean()


def rerank(probabilities: Tensor, classes: Labels, alpha: float) -> Tensor:
    """Make ``classes`` the likeliest, alpha times as likely as the likeliest was, and normalise: r_alpha(y, t)."""
    first = alpha * probabilities.amax(dim=1, keepdim=True)
    raised = probabilities.scatter(1, classes[:, None], first)
    return raised / raised.sum(dim=1, keepdim=True)
