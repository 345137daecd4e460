"""Projected gradient descent."""

from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import clip_to_budget, unit_step
from advbench.methods.gradient import GradientMethod, rising_loss
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images, Scores

__all__ = ["PGD"]


class PGD(GradientMethod):
    """Projected gradient descent on the cross-entropy.

    Madry et al. 2018, 'Towards Deep Learning Models Resistant to Adversarial Attacks',
    https://arxiv.org/abs/1706.06083: from a random point of the ball, steps along the steepest direction, each
    projected back. Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: y is the predicted class unless ``label`` is ``true``; under l2 the random start is a uniform point of
    the linf ball of radius epsilon, projected; to enhance, the loss falls instead of rising.

    Args:
        steps: Gradients an image.
        relative_step: A step's length as a share of epsilon.
        random_start: Whether to start from a random point rather than from the image.
    """

    steps: int = Field(default=20, ge=1)
    relative_step: float = Field(default=0.125, gt=0)
    random_start: bool = True

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Take the steps."""
        budget = context.budget
        epsilon = budget.epsilon or 0.0
        labels = self.reference(images, access)

        def loss(scores: Scores, part: slice) -> Tensor:
            return rising_loss(scores, labels[part], context.goal)

        perturbed = images
        if self.random_start:
            noise = per_sample_uniform(images.shape, access.rows, context.seed, "pgd").to(images.device)
            perturbed = clip_to_budget(images + epsilon * noise, images, budget)
        for _ in range(self.steps):
            gradient = access.gradient(perturbed, loss).gradient
            step = self.relative_step * epsilon * unit_step(gradient, budget.norm)
            perturbed = clip_to_budget(perturbed + step, images, budget)
        return perturbed
