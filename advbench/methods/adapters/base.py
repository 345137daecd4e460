"""What the adapters of all libraries share: options, norms, budgets, seeds, and whose queries are whose."""

import contextlib
import importlib
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Self

import torch
from pydantic import create_model

from advbench.access import Access
from advbench.errors import InvalidConfig, InvalidPerturbation
from advbench.methods.adapters.proxy import Proxy
from advbench.methods.adapters.signature import parameters_of
from advbench.methods.base import Context, Setting
from advbench.methods.geometry import clip_to_budget
from advbench.methods.gradient import LabelledMethod
from advbench.seeding import seeded_everywhere
from advbench.tensors import Images, Labels
from advbench.threat import Budget, Needs
from advbench.types import Capability, Goal, Norm

__all__ = ["Adapter", "Peer", "adapter_class", "import_library"]

ROUNDING = 1e-4
"""How far over its budget a pixel may come by the peer's float32 arithmetic; further is the peer's mistake."""

OF_REACH = {
    Capability.LABELS: frozenset({Capability.LABELS}),
    Capability.SCORES: frozenset({Capability.SCORES}),
    Capability.INPUT_GRADIENTS: frozenset({Capability.SCORES, Capability.INPUT_GRADIENTS}),
}


@dataclass(frozen=True)
class Peer:
    """What is known of one attack beside its signature.

    Args:
        reach: The most that it touches: LABELS, SCORES or INPUT_GRADIENTS.
        norms: Those it can bound or minimise; empty where it measures its perturbations in none of them.
        bounded: Whether it needs an epsilon; else it looks for the shortest perturbation.
        whole: Whether it asks about the batch as it was given, image by image in order, and never about a part.
    """

    reach: Capability
    norms: frozenset[Norm]
    bounded: bool = True
    whole: bool = False


class Adapter(LabelledMethod):
    """An attack of another library.

    It never meets the target: it is given a stand-in that asks through access, so what is not granted is refused and
    every query is counted for its image. A peer that asks about its whole batch at a time is given the batch; any
    other is run image by image, so that its queries need not be attributed by guessing. Its own random numbers are
    seeded by the run's seed and the images' positions, so that an image-by-image peer does not depend on the batch;
    a random peer on whole batches does. Where there is an epsilon, a shortest perturbation is projected onto the
    budget; a bounded peer that leaves its budget by more than rounding has failed.
    """

    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.DEGRADE})
    library: ClassVar[str]
    """The prefix of its names."""
    peer_name: ClassVar[str]
    peer: ClassVar[Peer]
    peer_parameters: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The peer's name of each option."""
    largest_batch: ClassVar[int] = sys.maxsize
    """How many images the library itself keeps together."""

    def needs(self, goal: Goal) -> Needs:
        """What the peer touches, and the labels that it goes by."""
        return Needs(perturb=super().needs(goal).perturb - self.uses | OF_REACH[self.peer.reach])

    def resolve(self, setting: Setting) -> Self:
        """Check that the peer can serve the budget."""
        name, budget, norms = f"{self.library}:{self.peer_name}", setting.budget, self.peer.norms
        if norms and budget.norm not in norms:
            known = " or ".join(f"--norm {norm}" for norm in sorted(norms))
            raise InvalidConfig(f"{name} does not work in {budget.norm}: give {known}")
        if not norms and budget.epsilon is not None:
            raise InvalidConfig(f"{name} bounds its perturbations in none of linf, l2, l1: leave --epsilon out")
        if self.peer.bounded and norms and budget.epsilon is None:
            raise InvalidConfig(f"{name} needs a budget: give --epsilon, such as --epsilon 8/255")
        return self

    def perturb(self, images: Images, access: Access, context: Context) -> Images:
        """Run the peer on the batch, or on one image after another where it does not keep batches together."""
        if not len(images):
            return images
        labels = self.reference(images, access)
        size = min(len(images), self.largest_batch) if self.peer.whole else 1
        pieces = zip(images.split(size), labels.split(size), access.rows.split(size), strict=True)
        perturbed = [
            self._run(piece, own, Proxy(access, rows, self.peer.reach, images.device, self.peer_name), context)
            for piece, own, rows in pieces
        ]
        return torch.cat(perturbed)

    @abstractmethod
    def attack(self, proxy: Proxy, images: Images, labels: Labels, context: Context, seed: int) -> Images:
        """Run the peer with ``given()`` on its own kind of model made of ``proxy``; ``seed`` has 32 bits."""

    def given(self) -> dict[str, Any]:
        """The options under the peer's own names."""
        return {own: getattr(self, option) for option, own in self.peer_parameters.items()}

    def _run(self, images: Images, labels: Labels, proxy: Proxy, context: Context) -> Images:
        purpose = (self.library, self.peer_name, int(proxy.rows[0]))
        # What a peer prints is not the command's answer.
        with seeded_everywhere(context.seed, *purpose) as seed, contextlib.redirect_stdout(sys.stderr):
            perturbed = self.attack(proxy, images.clone(), labels.clone(), context, seed)
        if proxy.refusal is not None:
            raise proxy.refusal
        perturbed = perturbed.detach().to(images.device, torch.float32)
        if perturbed.shape != images.shape:
            raise InvalidPerturbation(f"{self.peer_name} returned {tuple(perturbed.shape)} for {tuple(images.shape)}")
        return self._held(perturbed, images, context.budget)

    def _held(self, perturbed: Images, images: Images, budget: Budget) -> Images:
        """Bring to the budget what may be over it, and leave what must not be for the harness to find."""
        held = clip_to_budget(perturbed, images, budget)
        if not self.peer.bounded and budget.epsilon is not None:
            return held
        if (perturbed - held).abs().max() <= ROUNDING:
            return held
        outside = (perturbed - perturbed.clamp(0, 1)).abs().max()
        if outside > ROUNDING and budget.epsilon is not None:
            raise InvalidPerturbation(f"{self.peer_name} left the pixel range [0, 1] by {float(outside):.3g}")
        return perturbed


def adapter_class(
    base: type[Adapter],
    name: str,
    peer: Peer,
    function: Callable[..., Any],
    doc: str | None,
    hidden: set[str],
) -> type[Adapter]:
    """Make the class of one attack, whose fields are the peer's parameters.

    Args:
        base: The library's adapter.
        name: The peer's.
        peer: What is known of it.
        function: What its parameters are read from.
        doc: The peer's documentation.
        hidden: Parameters that the adapter gives itself.

    Raises:
        InvalidConfig: It has a parameter that must be given and that no text can say.
    """
    options, missing = parameters_of(function, doc or "", hidden | {"self"})
    if missing:
        raise InvalidConfig(f"{base.library}:{name} needs {', '.join(missing)}, which cannot be given as an option")
    fields: dict[str, Any] = {option.option: (option.annotation, option.field) for option in options}
    made = create_model(name, __base__=base, __module__=base.__module__, **fields)
    made.peer_name, made.peer = name, peer
    made.peer_parameters = MappingProxyType({option.option: option.name for option in options})
    made.__doc__ = _describe(base, name, peer, doc or "")
    made.__doc__ += "".join(f"        {option.option}: {option.meaning}\n" for option in options if option.meaning)
    return made


def _describe(base: type[Adapter], name: str, peer: Peer, doc: str) -> str:
    title = " ".join(line.strip() for line in doc.strip().partition("\n\n")[0].splitlines())
    norms = ", ".join(sorted(peer.norms)) or "none of linf, l2, l1"
    kind = f"bounded in {norms}" if peer.bounded else f"shortest in {norms}"
    batches = "whole batches" if peer.whole else "image by image"
    return (
        f"{title or name}\n\n    {name} of {base.library}: {kind}; touches {peer.reach}; run on {batches}.\n\n"
        "    Args:\n"
    )


def import_library(module: str, requirement: str) -> ModuleType:
    """Import an optional library.

    Raises:
        InvalidConfig: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InvalidConfig(f"{module} is not installed ({error}): pip install {requirement}") from error
