"""The Adversarial Robustness Toolbox's evasion attacks."""

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from advbench.errors import UnknownName
from advbench.methods.adapters.base import Adapter, Peer, adapter_class
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.base import Context
from advbench.tensors import Images, Labels
from advbench.types import Capability, Norm

__all__ = ["ARTAttack", "adapt"]

GRADIENTS, SCORES, LABELS = Capability.INPUT_GRADIENTS, Capability.SCORES, Capability.LABELS
LINF, L2, L1, NONE = frozenset({Norm.LINF}), frozenset({Norm.L2}), frozenset({Norm.L1}), frozenset[Norm]()
ALL = LINF | L2 | L1

KNOWN = {
    "AutoAttack": Peer(GRADIENTS, ALL),
    "AutoConjugateGradient": Peer(GRADIENTS, ALL),
    "AutoProjectedGradientDescent": Peer(GRADIENTS, ALL),
    "BasicIterativeMethod": Peer(GRADIENTS, LINF, whole=True),
    "BoundaryAttack": Peer(LABELS, L2, bounded=False),
    "CarliniL0Method": Peer(GRADIENTS, NONE, bounded=False),
    "CarliniL2Method": Peer(GRADIENTS, L2, bounded=False),
    "CarliniLInfMethod": Peer(GRADIENTS, LINF, bounded=False),
    "DeepFool": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "ElasticNet": Peer(GRADIENTS, L1, bounded=False, whole=True),
    "FastGradientMethod": Peer(GRADIENTS, ALL, whole=True),
    "GeoDA": Peer(LABELS, ALL, bounded=False),
    "HopSkipJump": Peer(LABELS, LINF | L2, bounded=False),
    "MomentumIterativeMethod": Peer(GRADIENTS, ALL, whole=True),
    "NewtonFool": Peer(GRADIENTS, L2, bounded=False, whole=True),
    "PixelAttack": Peer(SCORES, NONE, bounded=False),
    "ProjectedGradientDescent": Peer(GRADIENTS, ALL, whole=True),
    "RescalingAutoConjugateGradient": Peer(GRADIENTS, ALL),
    "SaliencyMapMethod": Peer(GRADIENTS, NONE, bounded=False),
    "ShadowAttack": Peer(GRADIENTS, NONE, bounded=False),
    "SignOPTAttack": Peer(LABELS, L2, bounded=False),
    "SimBA": Peer(SCORES, L2, bounded=False),
    "SpatialTransformation": Peer(LABELS, NONE, bounded=False),
    "SquareAttack": Peer(SCORES, LINF | L2),
    "ThresholdAttack": Peer(SCORES, LINF, bounded=False),
    "VirtualAdversarialMethod": Peer(SCORES, L2),
    "Wasserstein": Peer(GRADIENTS, NONE, bounded=False),
    "ZooAttack": Peer(SCORES, L2, bounded=False),
}
"""Evasion attacks on image classifiers: none on speech, video, malware, tables or objects, and no patches."""

WANTS_PROBABILITIES = {"SimBA", "VirtualAdversarialMethod"}
"""Attacks that read the answer as probabilities."""


class ARTAttack(Adapter):
    """An attack of the Adversarial Robustness Toolbox (Nicolae et al. 2018)."""

    library: ClassVar[str] = "art"
    cls: ClassVar[Any]
    largest_batch: ClassVar[int] = 128  # it predicts in pieces of this size, whatever batch it was given

    def attack(self, proxy: Proxy, images: Images, labels: Labels, context: Context, seed: int) -> Images:  # noqa: ARG002
        """Wrap the proxy as one of ART's estimators, generate, and come back from numpy."""
        taken = inspect.signature(self.cls.__init__).parameters
        own: dict[str, Any] = {"batch_size": len(images), "targeted": False, "verbose": False}
        if self.peer.norms:
            own["norm"] = math.inf if context.budget.norm is Norm.LINF else int(context.budget.norm[1])
        if self.peer.bounded:
            own["eps"] = context.budget.epsilon
        parameters = {name: value for name, value in own.items() if name in taken}
        made = self.cls(self._estimator(proxy, images), **self.given(), **parameters)
        truth = F.one_hot(labels, proxy.access.num_classes).float().cpu().numpy()
        with _reproducible_states():
            generated = made.generate(images.cpu().numpy(), y=truth)
        return torch.from_numpy(np.asarray(generated, dtype=np.float32))

    def _estimator(self, proxy: Proxy, images: Images) -> Any:
        from art.estimators.classification import BlackBoxClassifierNeuralNetwork, PyTorchClassifier

        shape, classes = tuple(images.shape[1:]), proxy.access.num_classes
        if self.peer.reach is GRADIENTS:
            device = "cpu" if images.device.type == "cpu" else "gpu"
            loss = torch.nn.CrossEntropyLoss()
            return PyTorchClassifier(proxy, loss, shape, classes, clip_values=(0, 1), device_type=device)

        def predict(asked: np.ndarray) -> np.ndarray:
            scores = proxy(torch.from_numpy(np.asarray(asked, dtype=np.float32)).to(images.device))
            answer: np.ndarray = (scores.softmax(1) if self.peer_name in WANTS_PROBABILITIES else scores).cpu().numpy()
            return answer

        return BlackBoxClassifierNeuralNetwork(predict, shape, classes, clip_values=(0, 1))


@contextlib.contextmanager
def _reproducible_states() -> Iterator[None]:
    """Seed the generators that some attacks make without a seed, which no global seed reaches, from the global one."""
    plain = np.random.RandomState

    def state(seed: Any = None) -> np.random.RandomState:
        return plain(np.random.randint(2**31) if seed is None else seed)

    np.random.RandomState = state  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        np.random.RandomState = plain  # type: ignore[misc]


@functools.cache
def adapt(name: str) -> type[Adapter]:
    """The method for one attack.

    Raises:
        UnknownName: ART has no such attack, or it cannot be run here.
    """
    import art.attacks.evasion as library

    known = [found for found in KNOWN if hasattr(library, found)]
    if name not in known:
        raise UnknownName("attack of art", name, known)
    cls = getattr(library, name)
    peer = KNOWN[name]
    hidden = {"estimator", "classifier", "batch_size", "targeted", "verbose", "summary_writer"}
    hidden |= {"norm"} if peer.norms else set()
    hidden |= {"eps"} if peer.bounded else set()
    doc = f"{cls.__doc__}\n\n{cls.__init__.__doc__}"
    made = adapter_class(ARTAttack, name, peer, cls.__init__, doc, hidden)
    made.cls = cls  # type: ignore[attr-defined]
    return made
