"""What attacks share that are done with an image as soon as it has left its class."""

from abc import abstractmethod
from collections.abc import Callable

import torch

from advbench.access import Access
from advbench.methods.base import Context
from advbench.methods.gradient import GradientMethod
from advbench.tensors import Images, Labels, Rows
from advbench.types import Goal

__all__ = ["FoolingMethod"]

Push = Callable[[Images, Labels, Rows, Access, Context], Images]


class FoolingMethod(GradientMethod):
    """A method for which it is enough that an image leaves its reference class.

    To degrade, an image that is not of its reference class to begin with is left as it is.
    """

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Push the images that are still of their reference class, or, to enhance, all of them."""
        return self.attack(images, access, context, self.push)

    def attack(self, images: Images, access: Access, context: Context, push: Push) -> Images:
        """Give ``push`` the images that there is something to do for."""
        if not len(images):
            return images
        labels = self.reference(images, access)
        right = torch.ones_like(labels, dtype=torch.bool)
        if self.label == "true" and context.goal is Goal.DEGRADE:
            right = access.labels(images) == labels
        result = images.clone()
        if right.any():
            result[right] = push(images[right], labels[right], access.rows[right.cpu()], access, context)
        return result

    @abstractmethod
    def push(self, images: Images, labels: Labels, rows: Rows, access: Access, context: Context) -> Images:
        """Perturb within the budget.

        Args:
            images: At least one, of class ``labels`` where the goal is to degrade, ``(batch, 3, height, width)``.
            labels: The reference classes, ``(batch,)``.
            rows: The samples that the images belong to.
            access: The door to the target.
            context: Goal, budget and seed.
        """
