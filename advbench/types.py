"""The vocabulary that every other module shares: goals, norms, capabilities, statuses. Imports nothing heavy."""

from enum import StrEnum

__all__ = ["ALL_CAPABILITIES", "Capability", "Goal", "Norm", "Status"]


class Goal(StrEnum):
    """The direction in which a perturbation is to push a classifier's accuracy."""

    DEGRADE = "degrade"
    ENHANCE = "enhance"


class Norm(StrEnum):
    """The norm in which a perturbation's size is bounded, over all channels and pixels of one image."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"


class Capability(StrEnum):
    """One thing that a method may be allowed to touch. A threat model is a set of these for each phase."""

    LABELS = "labels"
    """The target's predicted class for any image."""
    SCORES = "scores"
    """The target's logits for any image."""
    INPUT_GRADIENTS = "input-gradients"
    """The gradient of a loss on the target's logits with respect to the image."""
    STRUCTURE = "structure"
    """The name of the target's architecture."""
    WEIGHTS = "weights"
    """A copy of the target's module, with its parameters."""
    TRUE_LABELS = "true-labels"
    """The correct class of the images: in fitting the attacker's own, in perturbing the evaluation's."""


ALL_CAPABILITIES = frozenset(Capability)


class Status(StrEnum):
    """How one run ended. Only ``OK`` carries metrics; no other status ever counts as robustness."""

    OK = "ok"
    INCOMPATIBLE = "incompatible"
    BUDGET_SPENT = "budget-spent"
    FAILED = "failed"
