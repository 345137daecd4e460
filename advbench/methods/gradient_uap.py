"""Universal perturbations by stochastic gradients."""

import torch
from pydantic import Field
from torch import Tensor

from advbench.access import Access
from advbench.methods.base import Context, TrainingImages
from advbench.methods.geometry import project, unit_step
from advbench.methods.gradient import rising_loss
from advbench.methods.universal import UniversalFit, UniversalMethod
from advbench.progress import Task
from advbench.tensors import Labels, Rows, Scores
from advbench.threat import Needs
from advbench.types import Capability, Goal

__all__ = ["GradientUAP"]


class GradientUAP(UniversalMethod):
    """Universal perturbation by projected stochastic gradient steps.

    Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein 2020, 'Universal Adversarial Training',
    https://arxiv.org/abs/1811.11304, algorithm 2: from batch to batch, one v takes a step that raises the batch's mean
    cross-entropy, clipped so that no image that is already lost outweighs the others, and is projected onto the ball.
    Images are ``(batch, 3, height, width)``, epsilon in [0, 1] pixel scale.

    To enhance, the cross-entropy falls and is not clipped: one perturbation that helps on all images, akin to a visual
    prompt. Labels are the attacker's own images' true ones. Deviations: steps are signs under linf (unit
    gradients under l2 and l1), and shrink linearly over the steps; x + v is kept in [0, 1], and a pixel that this clips
    gives no gradient; the best epoch on validation images is kept.

    Args:
        relative_step: The first step's length as a share of epsilon.
        loss_limit: Where the cross-entropy of an image is clipped, to degrade.
    """

    relative_step: float = Field(default=0.2, gt=0)
    loss_limit: float = Field(default=9.0, gt=0)

    def needs(self, goal: Goal) -> Needs:  # noqa: ARG002
        """In fitting, gradients and labels; in perturbing, nothing."""
        return Needs(fit=frozenset({Capability.INPUT_GRADIENTS, Capability.LABELS, Capability.TRUE_LABELS}))

    def _start(self, access: Access, train: TrainingImages, context: Context) -> UniversalFit:
        return _GradientFit(self, access, train, context)


class _GradientFit(UniversalFit):
    name = "gradient-uap"

    def __init__(self, method: GradientUAP, access: Access, train: TrainingImages, context: Context) -> None:
        super().__init__(method, access, train, context)
        self.method = method

    def _epoch(self, task: Task, generator: torch.Generator) -> dict[str, float]:
        epsilon, total = self.budget.epsilon or 0.0, torch.zeros(())
        batches = torch.randperm(len(self.train.fit), generator=generator).split(self.batch_size)
        for position, batch in enumerate(batches):
            rows = self._share(batch)
            gradient, loss = self._gradient(rows, self.train.fit.labels[rows])
            done = (len(self.history) + position / len(batches)) / self.epochs
            step = (1 - done) * self.method.relative_step * epsilon
            self.v = project(self.v + step * unit_step(gradient, self.budget.norm), self.budget.norm, epsilon)
            total += loss
            task.advance(loss=float(loss) / max(1, len(rows)))
        return {"loss": float(self._sum_over_processes(total)) / len(self.train.fit)}

    def _gradient(self, rows: Rows, labels: Labels) -> tuple[Tensor, Tensor]:
        """Of the summed loss with respect to v, and the summed cross-entropy."""
        labels = labels.to(self.fabric.device)

        def rising(scores: Scores, part: slice) -> Tensor:
            loss = rising_loss(scores, labels[part], self.context.goal)
            return loss.clamp(max=self.method.loss_limit) if self.context.goal is Goal.DEGRADE else loss

        images = self._images(rows)
        answer = self.access.gradient(self._perturbed(images), rising, rows)
        moved = images + self.v
        gradient = answer.gradient * ((moved >= 0) & (moved <= 1))
        total = self._sum_over_processes(gradient.sum(dim=0, keepdim=True)).to(self.v.device)
        return total, rising_loss(answer.scores, labels, Goal.DEGRADE).sum().cpu()
