"""Random noise, the control of every table."""

from typing import Literal, Self

from advbench.access import Access
from advbench.errors import InvalidConfig
from advbench.methods.base import Context, ImageMethod, Setting
from advbench.methods.geometry import clip_to_budget, lengths
from advbench.seeding import per_sample_uniform
from advbench.tensors import Images
from advbench.threat import Needs
from advbench.types import Goal, Norm

__all__ = ["Noise"]


class Noise(ImageMethod):
    """Noise at the full budget that looks at nothing: what any method has to beat.

    Under linf, every pixel moves by epsilon with a random sign (``sign``) or by a uniform amount of at most epsilon
    (``uniform``); under l2 and l1, the same noise is scaled to length epsilon. Results are clipped to [0, 1].
    Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale. Both goals are served alike.

    Args:
        kind: ``sign`` or ``uniform``.
    """

    kind: Literal["sign", "uniform"] = "sign"

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """Nothing."""
        return Needs()

    def resolve(self, setting: Setting) -> Self:
        """Check that there is a budget to fill."""
        if setting.budget.epsilon is None:
            raise InvalidConfig("noise needs a budget to fill: give --epsilon, such as --epsilon 8/255")
        return self

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Add noise."""
        epsilon = context.budget.epsilon or 0.0
        noise = per_sample_uniform(images.shape, access.rows, context.seed, "noise").to(images.device)
        if self.kind == "sign":
            noise = noise.sign()
        if context.budget.norm is not Norm.LINF:
            noise = noise / lengths(noise, context.budget.norm).clamp(min=1e-12)
        return clip_to_budget(images + epsilon * noise, images, context.budget)
