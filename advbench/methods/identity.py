"""The clean image: the zero line of every table."""

from advbench.access import Access
from advbench.methods.base import Context, ImageMethod
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Goal

__all__ = ["Identity"]


class Identity(ImageMethod):
    """Leaves every image as it is, so that a table's other rows can be read as differences from this one.

    Images are ``(batch, 3, height, width)``. Nothing is asked of the target, both goals are served alike, and every
    budget is kept.
    """

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Nothing."""
        return Needs()

    def perturb(self, images: Images, access: Access, context: Context) -> Images:  # noqa: ARG002
        """Do nothing."""
        return images
