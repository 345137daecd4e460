"""adv-lib's attacks; the library is optional."""

import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import ClassVar

from advbench.errors import UnknownName
from advbench.methods.adapters.base import Adapter, Peer, adapter_class, import_library
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.base import Context
from advbench.tensors import Images, Labels
from advbench.types import Capability, Norm

__all__ = ["AdvLibAttack", "adapt"]

GRADIENTS = Capability.INPUT_GRADIENTS
LINF, L2, L1, NONE = frozenset({Norm.LINF}), frozenset({Norm.L2}), frozenset({Norm.L1}), frozenset[Norm]()

KNOWN = {
    "alma": Peer(GRADIENTS, L2 | L1, bounded=False, whole=True),
    "apgd": Peer(GRADIENTS, LINF | L2 | L1),
    "apgd_targeted": Peer(GRADIENTS, LINF | L2 | L1),
    "carlini_wagner_l2": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "carlini_wagner_linf": Peer(GRADIENTS, LINF, bounded=False),
    "ddn": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "df": Peer(GRADIENTS, LINF | L2, bounded=False),
    "fab": Peer(GRADIENTS, LINF | L2 | L1, bounded=False),
    "fga": Peer(GRADIENTS, NONE, bounded=False),
    "fmn": Peer(GRADIENTS, LINF | L2 | L1, bounded=False, whole=True),
    "pdgd": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "pdpgd": Peer(GRADIENTS, LINF | L2 | L1, bounded=False, whole=True),
    "pgd_linf": Peer(GRADIENTS, LINF, whole=True),
    "sdf": Peer(GRADIENTS, L2, bounded=False),
    "sigma_zero": Peer(GRADIENTS, NONE, bounded=False, whole=True),
    "str_attack": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "tr": Peer(GRADIENTS, LINF | L2, bounded=False),
    "vfga": Peer(GRADIENTS, NONE, bounded=False),
}
"""All of them follow gradients; the functions do not say in which norm."""

BUDGETS = {"apgd": "eps", "apgd_targeted": "eps", "fab": "ε", "pgd_linf": "ε"}
"""Which parameter is the budget: ``tr`` calls something else ``eps``."""

ORDERS = {Norm.LINF: math.inf, Norm.L2: 2.0, Norm.L1: 1.0}


class AdvLibAttack(Adapter):
    """An attack of adv-lib (Rony and Ben Ayed 2021)."""

    library: ClassVar[str] = "adv-lib"
    function: ClassVar[Callable[..., Images]]

    def attack(self, proxy: Proxy, images: Images, labels: Labels, context: Context, seed: int) -> Images:  # noqa: ARG002
        """Call the function."""
        budget = context.budget
        own = {
            BUDGETS.get(self.peer_name, ""): budget.epsilon,
            "norm": ORDERS[budget.norm],
            "p": ORDERS[budget.norm],
            "distance": str(budget.norm),
            "targeted": False,
        }
        taken = inspect.signature(type(self).function).parameters
        parameters = {name: value for name, value in own.items() if name in taken}
        return type(self).function(proxy, images, labels, **self.given(), **parameters)


@functools.cache
def adapt(name: str) -> type[Adapter]:
    """The method for one attack.

    Raises:
        UnknownName: adv-lib has no such attack, or it cannot be run here.
        InvalidConfig: adv-lib is not installed.
    """
    library = _library()
    known = [found for found in KNOWN if hasattr(library, found)]
    if name not in known:
        raise UnknownName("attack of adv-lib", name, known)
    function = getattr(library, name)
    hidden = {"model", "inputs", "labels", "targeted", "norm", "p", "distance", "callback", BUDGETS.get(name, "")}
    made = adapter_class(AdvLibAttack, name, KNOWN[name], function, function.__doc__, hidden)
    made.function = staticmethod(function)  # type: ignore[attr-defined]
    return made


def _library() -> ModuleType:
    """Import adv-lib, which imports visdom for plots that are never drawn here, and so need not be installed."""
    if "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None:
        stub = ModuleType("visdom")
        stub.Visdom = None  # type: ignore[attr-defined]
        sys.modules["visdom"] = stub
    return import_library("adv_lib.attacks", "--no-deps adv-lib")
