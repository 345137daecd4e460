"""torchattacks' attacks; the library is optional."""

import functools
import inspect
from typing import Any, ClassVar

from advbench.errors import UnknownName
from advbench.methods.adapters.base import Adapter, Peer, adapter_class, import_library
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.base import Context
from advbench.tensors import Images, Labels
from advbench.types import Capability, Norm

__all__ = ["TorchattacksAttack", "adapt"]

GRADIENTS, SCORES, LABELS = Capability.INPUT_GRADIENTS, Capability.SCORES, Capability.LABELS
LINF, L2, L1, NONE = frozenset({Norm.LINF}), frozenset({Norm.L2}), frozenset({Norm.L1}), frozenset[Norm]()

KNOWN = {
    "APGD": Peer(GRADIENTS, LINF | L2),
    "APGDT": Peer(GRADIENTS, LINF | L2),
    "AutoAttack": Peer(GRADIENTS, LINF | L2),
    "BIM": Peer(GRADIENTS, LINF, whole=True),
    "CW": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "DIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "DeepFool": Peer(GRADIENTS, L2, bounded=False),
    "EADEN": Peer(GRADIENTS, L1, bounded=False, whole=True),
    "EADL1": Peer(GRADIENTS, L1, bounded=False, whole=True),
    "EOTPGD": Peer(GRADIENTS, LINF, whole=True),
    "FAB": Peer(GRADIENTS, LINF | L2),
    "FFGSM": Peer(GRADIENTS, LINF, whole=True),
    "FGSM": Peer(GRADIENTS, LINF, whole=True),
    "GN": Peer(LABELS, NONE, whole=True),
    "JSMA": Peer(GRADIENTS, NONE),
    "Jitter": Peer(GRADIENTS, LINF, whole=True),
    "MIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "NIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "OnePixel": Peer(SCORES, NONE),
    "PGD": Peer(GRADIENTS, LINF, whole=True),
    "PGDL2": Peer(GRADIENTS, L2, whole=True),
    "PGDRS": Peer(GRADIENTS, LINF),
    "PGDRSL2": Peer(GRADIENTS, L2),
    "PIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "PIFGSMPP": Peer(GRADIENTS, LINF, whole=True),
    "Pixle": Peer(SCORES, NONE),
    "RFGSM": Peer(GRADIENTS, LINF, whole=True),
    "SINIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "SPSA": Peer(SCORES, LINF),
    "SparseFool": Peer(GRADIENTS, NONE),
    "Square": Peer(SCORES, LINF | L2),
    "TIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "TPGD": Peer(GRADIENTS, LINF, whole=True),
    "UPGD": Peer(GRADIENTS, LINF, whole=True),
    "VMIFGSM": Peer(GRADIENTS, LINF, whole=True),
    "VNIFGSM": Peer(GRADIENTS, LINF, whole=True),
}
"""The library's classes say neither in which norm they work nor what they touch."""

BUDGETS = ("eps", "max_epsilon")
NORMS = {Norm.LINF: "Linf", Norm.L2: "L2", Norm.L1: "L1"}


class TorchattacksAttack(Adapter):
    """An attack of torchattacks (Kim 2020)."""

    library: ClassVar[str] = "torchattacks"
    cls: ClassVar[Any]

    def attack(self, proxy: Proxy, images: Images, labels: Labels, context: Context, seed: int) -> Images:
        """Call the attack on raw pixels: the target normalises by itself."""
        own = {
            **dict.fromkeys(BUDGETS, context.budget.epsilon),
            "norm": NORMS[context.budget.norm],
            "seed": seed,
            "n_classes": proxy.access.num_classes,
        }
        taken = inspect.signature(self.cls.__init__).parameters
        parameters = {name: value for name, value in own.items() if name in taken}
        made = self.cls(proxy, **self.given(), **parameters)
        result: Images = made(images, labels)
        return result


@functools.cache
def adapt(name: str) -> type[Adapter]:
    """The method for one attack.

    Raises:
        UnknownName: torchattacks has no such attack, or it cannot be run here.
        InvalidConfig: torchattacks is not installed.
    """
    library = import_library("torchattacks", "'advbench[peers]'")
    known = [found for found in KNOWN if hasattr(library, found)]
    if name not in known:
        raise UnknownName("attack of torchattacks", name, known)
    cls = getattr(library, name)
    hidden = {"model", "norm", "seed", "n_classes", "verbose", *BUDGETS}
    made = adapter_class(TorchattacksAttack, name, KNOWN[name], cls.__init__, cls.__doc__, hidden)
    made.cls = cls  # type: ignore[attr-defined]
    return made
