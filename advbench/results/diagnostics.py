"""What makes a result doubtful: named flags, each with its meaning and its remedy, in one table.

After 'Indicators of Attack Failure' (Pintor et al. 2022, https://arxiv.org/abs/2106.09947), AutoAttack's checks (Croce
and Hein 2020, https://arxiv.org/abs/2003.01690) and section 5 of 'On Evaluating Adversarial Robustness' (Carlini et al.
2019, https://arxiv.org/abs/1902.06705).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["DIAGNOSTICS", "Diagnostic", "Flag", "legend", "marks"]


@dataclass(frozen=True)
class Diagnostic:
    """What one flag says.

    Args:
        mark: One letter, for tables.
        meaning: What was seen, and why it makes the result doubtful.
        remedy: What to do.
        seen_in: ``cell``: by the harness in one run, and stored with it; ``comparison``: in several runs side by side.
    """

    mark: str
    meaning: str
    remedy: str
    seen_in: Literal["cell", "comparison"]


DIAGNOSTICS: Mapping[str, Diagnostic] = MappingProxyType(
    {
        "randomised-target": Diagnostic(
            "R",
            "the target answers the same images differently each time, so a single run's figure is partly luck",
            "average over several seeds, and attack the expected answer (--eot, where the method has it)",
            "cell",
        ),
        "batch-dependent-target": Diagnostic(
            "D",
            "the target answers an image otherwise in other company, as batch norm does that takes its statistics from "
            "the batch: attacks and their check see different targets, and the figure hangs on --batch",
            "put batch norm in evaluation mode with running statistics, or say with each figure what --batch was",
            "cell",
        ),
        "probabilities": Diagnostic(
            "P",
            "the target gives probabilities, not logits: losses on them are flat where it is sure, attacks look weaker "
            "than they are, and mAP is of the softmax of a softmax",
            "remove the target's last softmax",
            "cell",
        ),
        "zero-gradients": Diagnostic(
            "Z",
            "the gradients of the loss and of the logits' margin with respect to the image are exactly zero for many "
            "images: gradient attacks fail there although the target need not be robust",
            "take the masking step (rounding, thresholds) out of the backward pass, or attack by scores or labels: "
            "square, nes, simba",
            "cell",
        ),
        "nan-gradients": Diagnostic(
            "N",
            "the loss's gradient with respect to the image is NaN or infinite for some images: what follows it is void",
            "find the operation that overflows (division by zero, root or logarithm of zero) and mend the target",
            "cell",
        ),
        "vanishing-gradients": Diagnostic(
            "V",
            "the cross-entropy is saturated for most images: its gradient is lost in float32 rounding beside that of "
            "the logits",
            "use a loss on logits that is free of scale, such as that of apgd-dlr",
            "cell",
        ),
        "loss-does-not-rise": Diagnostic(
            "L",
            "for most images the target's loss is no further towards the goal after the attack than before it: the "
            "attack found no way, which is not the same as there being none",
            "look at the step size, take more steps or restarts, another loss, or another kind of attack",
            "cell",
        ),
        "steps-do-not-help": Diagnostic(
            "S",
            "the same attack with fewer steps or queries went as far: it has converged, or is stuck",
            "believe it only where attacks of another kind agree; try restarts, another step size or loss",
            "comparison",
        ),
        "epsilon-does-not-help": Diagnostic(
            "E",
            "the same attack with a smaller epsilon went as far although there is room: a larger budget must help, so "
            "the attack fails to use it",
            "scale the step size with epsilon, take more steps, and check that an epsilon near 1 leaves nothing",
            "comparison",
        ),
        "black-box-is-stronger": Diagnostic(
            "B",
            "an attack that sees no gradients goes further, beyond chance, than the best one that does: its gradients "
            "mislead, or it is too weak",
            "use a stronger white-box attack (pgd with restarts, apgd-t), and look for what masks the gradients",
            "comparison",
        ),
        "noise-is-stronger": Diagnostic(
            "X",
            "random noise within the same bound goes at least as far: the attack does nothing that chance would not",
            "check the attack's step size, loss and goal; whatever it shows is no measure of robustness",
            "comparison",
        ),
    }
)
"""Every flag there is, by name."""


class Flag(BaseModel):
    """One flag that a result earned.

    Args:
        name: One of ``DIAGNOSTICS``.
        found: What was seen, in numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    found: str

    @property
    def in_words(self) -> str:
        """The flag for a reader: what was found, what it means, what to do."""
        told = DIAGNOSTICS[self.name]
        return f"{self.name} ({told.mark}): {self.found}; {told.meaning}. Remedy: {told.remedy}"


def marks(names: Iterable[str]) -> str:
    """The flags' letters in the table's order, such as ``ZL``; empty without any."""
    given = set(names)
    return "".join(told.mark for name, told in DIAGNOSTICS.items() if name in given)


def legend(names: Iterable[str]) -> list[str]:
    """What each flag's letter stands for, a line each, in the table's order."""
    given = set(names)
    return [
        f"flag {told.mark}, {name}: {told.meaning}. Remedy: {told.remedy}"
        for name, told in DIAGNOSTICS.items()
        if name in given
    ]
