"""The fast gradient sign method."""

from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.geometry import clip_to_budget, unit_step
from advbench.methods.gradient import GradientMethod, rising_loss
from advbench.tensors import Images, Scores

__all__ = ["FGSM"]


class FGSM(GradientMethod):
    """Fast gradient sign method; the Butterfly paper calls it EHA.

    Goodfellow, Shlens, Szegedy 2014, 'Explaining and Harnessing Adversarial Examples', https://arxiv.org/abs/1412.6572:
    ``x + epsilon * sign(grad_x J(x, y))``, one forward and one backward pass an image. Images are
    ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    Deviations: y is the predicted class unless ``label`` is ``true``, so that no label leaks; under an l2 or l1 budget
    the step is along the gradient itself, with length epsilon (FGM); results are clipped to [0, 1]; to enhance, the
    sign is reversed, as in Kim et al. 2021, 'Amicable Aid: Perturbing Images to Improve Classification Performance',
    https://arxiv.org/abs/2112.04720. With ``--label true`` that is an oracle: it is shown the answer.
    """

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Take one step of length epsilon."""
        epsilon, norm = context.budget.epsilon or 0.0, context.budget.norm
        truth = access.true_labels if self.label == "true" else None

        def loss(scores: Scores, part: slice) -> Tensor:
            labels = scores.argmax(dim=1) if truth is None else truth[part]
            return rising_loss(scores, labels, context.goal)

        gradient = access.gradient(images, loss).gradient
        return clip_to_budget(images + epsilon * unit_step(gradient, norm), images, context.budget)
