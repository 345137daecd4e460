"""What classifiers say around one image: their decision regions on a plane through it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from advbench.bench.request import Workshop, prepare, request_of_record
from advbench.errors import InvalidConfig
from advbench.progress import Progress
from advbench.results import CellRecord
from advbench.seeding import seeded
from advbench.targets import Target
from advbench.tensors import Images
from advbench.types import Capability

__all__ = ["DecisionPlane", "decision_plane"]

CHUNK = 256


@dataclass(frozen=True)
class DecisionPlane:
    """Predicted classes on a plane through one image.

    Args:
        sample: The image's id.
        label: Its true class.
        positions: Along both axes, in pixels of [0, 1] as a root mean square over the image: 0 is the image itself.
        predictions: For each target its first result, and ``(positions, positions)``: along the rows the random
            direction, along the columns the gradient.
    """

    sample: str
    label: int
    positions: NDArray[np.float64]
    predictions: Sequence[tuple[CellRecord, NDArray[np.int64]]]


def decision_plane(
    records: Sequence[CellRecord], image: int, reach: float, points: int, progress: Progress
) -> DecisionPlane:
    """Ask the targets of some results about the images of one plane.

    As in Liu, Chen, Liu, Song 2016, 'Delving into Transferable Adversarial Examples and Black-box Attacks', figure 3:
    the same two directions for all, the gradient of the first target's loss and a random one at right angles to it.
    Images are not clipped.

    Args:
        records: The results; each target counts once.
        image: Which of their evaluation images.
        reach: How far the plane goes to each side.
        points: How many along each axis.
        progress: Told how far it is.

    Raises:
        InvalidConfig: The results are on different images, there is no such image, or the first target gives no
            gradient.
    """
    if len({(record.spec.dataset.digest, record.spec.dataset.evaluation_images) for record in records}) > 1:
        raise InvalidConfig("decision regions need results on the same images: name results of one dataset and --limit")
    workshop = Workshop()
    firsts: dict[str, CellRecord] = {}
    for record in records:
        firsts.setdefault(record.spec.target.fingerprint, record)
    prepared = [prepare(request_of_record(record), progress, workshop) for record in firsts.values()]
    evaluation = prepared[0].dataset.evaluation
    if not 0 <= image < len(evaluation):
        raise InvalidConfig(f"image {image} is not there: there are {len(evaluation)}, from 0 on")
    clean, label = evaluation.images(torch.tensor([image])), evaluation.labels[image]
    along, across = _directions(prepared[0].target, clean, label[None], seed=image)
    positions = torch.linspace(-reach, reach, points)
    plane = torch.cartesian_prod(positions, positions)
    predictions = []
    with progress.task("asking around an image", total=len(plane) * len(prepared)) as task:
        for record, each in zip(firsts.values(), prepared, strict=True):
            answers = []
            for part in plane.split(CHUNK):
                rows, columns = part[:, 0, None, None, None], part[:, 1, None, None, None]
                answers.append(each.target.labels(clean + columns * along + rows * across).cpu())
                task.advance(len(part))
            predictions.append((record, torch.cat(answers).reshape(points, points).numpy()))
    return DecisionPlane(evaluation.ids[image], int(label), positions.double().numpy(), predictions)


def _directions(target: Target, clean: Images, label: Tensor, seed: int) -> tuple[Images, Images]:
    """The loss's gradient and a random direction at right angles to it, each of root mean square 1."""
    if Capability.INPUT_GRADIENTS not in target.offers:
        raise InvalidConfig(f"the first result's target, {target.name}, gives no gradient: name another first")
    answer = target.pullback(clean)
    scores = answer.scores.detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(F.cross_entropy(scores, label.to(scores.device)), scores)
    along = _unit(answer.pull(cotangent).to(clean.device))
    with seeded(seed, "regions") as generator:
        random = torch.randn(clean.shape, generator=generator)
    return along, _unit(random - (random * along).mean() * along)


def _unit(direction: Images) -> Images:
    return direction / direction.square().mean().sqrt().clamp_min(torch.finfo(direction.dtype).tiny)
