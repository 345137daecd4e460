"""Foolbox's attacks."""

import functools
import inspect
from typing import Any, ClassVar

from advbench.errors import UnknownName
from advbench.methods.adapters.base import Adapter, Peer, adapter_class
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.base import Context
from advbench.tensors import Images, Labels
from advbench.types import Capability, Norm

__all__ = ["FoolboxAttack", "adapt"]

BY_LABELS = (
    "BaseAdditiveNoiseAttack", "BaseRepeatedAdditiveNoiseAttack", "BinarySearchContrastReductionAttack",
    "BoundaryAttack", "GaussianBlurAttack", "HopSkipJumpAttack", "InversionAttack", "L2ContrastReductionAttack",
    "LinearSearchBlendedUniformNoiseAttack", "LinearSearchContrastReductionAttack", "PointwiseAttack",
    "SaltAndPepperNoiseAttack",
)  # fmt: skip
"""Classes whose subclasses only look at the predicted class. What is not known to is taken to need gradients."""

LEFT_OUT = {
    "BinarizationRefinementAttack": "refines another attack's result",
    "DatasetAttack": "has to be fed other images",
    "GenAttack": "is targeted only",
}

ORDERS = {float("inf"): Norm.LINF, 2: Norm.L2, 1: Norm.L1}


class FoolboxAttack(Adapter):
    """An attack of Foolbox (Rauber et al. 2020), which keeps every batch together."""

    library: ClassVar[str] = "foolbox"
    cls: ClassVar[Any]

    def attack(self, proxy: Proxy, images: Images, labels: Labels, context: Context, seed: int) -> Images:  # noqa: ARG002
        """Call the attack. Its own clipped result is taken, as its users do."""
        import foolbox

        budget, parameters = context.budget, self.given()
        taken = inspect.signature(self.cls.__init__).parameters
        if "distance" in taken:
            parameters["distance"] = getattr(foolbox.distances, budget.norm)
        if "constraint" in taken:
            parameters["constraint"] = str(budget.norm)
        model = foolbox.PyTorchModel(proxy.eval(), bounds=(0, 1), device=images.device)
        _, clipped, _ = self.cls(**parameters)(model, images, labels, epsilons=budget.epsilon)
        result: Images = clipped
        return result


@functools.cache
def adapt(name: str) -> type[Adapter]:
    """The method for one attack.

    Raises:
        UnknownName: Foolbox has no such attack, or it cannot be run here.
    """
    import foolbox.attacks as module
    from foolbox.attacks.base import AttackWithDistance, MinimizationAttack

    known = {
        found: cls
        for found, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, AttackWithDistance) and cls.__name__ not in LEFT_OUT
    }
    if name not in known:
        raise UnknownName("attack of foolbox", name, known)
    cls = known[name]
    by_labels = any(parent.__name__ in BY_LABELS for parent in cls.__mro__)
    peer = Peer(
        reach=Capability.LABELS if by_labels else Capability.INPUT_GRADIENTS,
        norms=_norms(cls),
        bounded=not issubclass(cls, MinimizationAttack),
        whole=True,
    )
    made = adapter_class(
        FoolboxAttack, name, peer, cls.__init__, cls.__doc__, {"distance", "constraint", "tensorboard"}
    )
    made.cls = cls  # type: ignore[attr-defined]
    return made


def _norms(cls: Any) -> frozenset[Norm]:
    taken = inspect.signature(cls.__init__).parameters
    if "constraint" in taken:
        return frozenset({Norm.LINF, Norm.L2})
    if "distance" in taken:
        return frozenset(Norm)
    try:
        order = object.__new__(cls).distance.p  # the class's own
    except AttributeError:  # PointwiseAttack has one only by what it derives from
        order = None
    return frozenset({ORDERS[order]} if order in ORDERS else set())
