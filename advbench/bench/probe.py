"""How much a generator's encoder knows of the classes by itself."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from advbench.bench.cell import context_of
from advbench.bench.request import Workshop, prepare, request_of_record
from advbench.datasets import LabelledImages
from advbench.errors import InvalidConfig
from advbench.methods import TrainingImages
from advbench.methods.pgn import Generator, GeneratorMethod
from advbench.methods.pgn.networks import STRIDE
from advbench.metrics import Proportion, proportion
from advbench.progress import Progress
from advbench.registry import ATTACKS
from advbench.results import CellRecord
from advbench.seeding import seeded

__all__ = ["LinearProbe", "check_encoder", "linear_probe"]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the l2 penalty to choose from."""
CHUNK = 64


@dataclass(frozen=True)
class LinearProbe:
    """What a linear classifier makes of an encoder's features.

    Args:
        accuracy: On the evaluation images.
        images: How many it was fitted on.
        inverse_penalty: Of those tried, the best on the validation images.
    """

    accuracy: Proportion
    images: int
    inverse_penalty: float


def check_encoder(record: CellRecord) -> None:
    """Refuse a result of a method whose encoder could not be probed, before anything is loaded or trained.

    Raises:
        InvalidConfig: The method has no generator.
    """
    request = request_of_record(record)
    if request.via or not issubclass(ATTACKS.load(request.attack), GeneratorMethod):
        raise InvalidConfig(f"{record.spec.attack} has no generator whose encoder could be probed: name a pgn result")


def linear_probe(record: CellRecord, progress: Progress, workshop: Workshop | None = None) -> LinearProbe:
    """Fit a logistic regression to the features of a result's encoder, as it was before the method trained it.

    An encoder that starts from scratch is another one, drawn alike. It sees the very images and labels that the method
    was fitted on, at the size that the generator gives the encoder; features are means over the feature map's
    positions. A perturbation that raises a target's accuracy no higher than this has shown no more than that the
    encoder knows the classes.

    Args:
        record: Of a method with a generator.
        progress: Told how far it is.
        workshop: Keeps the dataset and the target for another probe.

    Raises:
        InvalidConfig: The method has no generator.
    """
    from sklearn.linear_model import LogisticRegression  # lazy: scikit-learn takes a second to import

    check_encoder(record)
    prepared = prepare(request_of_record(record), progress, workshop or Workshop())
    method = cast(GeneratorMethod, prepared.method)
    train = TrainingImages(prepared.fit, prepared.dataset.validation)
    with seeded(record.spec.seed, "probe"):
        generator = method.first_generator(train, context_of(prepared, progress, None)).eval()
    parts = (train.fit, train.validation, prepared.dataset.evaluation)
    with progress.task("looking at images", total=sum(map(len, parts))) as task:
        features = []
        for part in parts:
            features.append(_features(generator, part))
            task.advance(len(part))
    fit, validation, evaluation = features
    probes = [LogisticRegression(C=penalty, max_iter=1000).fit(fit, train.fit.labels.numpy()) for penalty in PENALTIES]
    best = max(probes, key=lambda probe: probe.score(validation, train.validation.labels.numpy()))
    right = best.predict(evaluation) == prepared.dataset.evaluation.labels.numpy()
    return LinearProbe(proportion(right), len(train.fit), best.C)


def _features(generator: Generator, images: LabelledImages) -> NDArray[np.float32]:
    with torch.no_grad():
        pieces = [
            generator.maps(images.images(rows))[STRIDE].mean(dim=(2, 3))
            for rows in torch.arange(len(images)).split(CHUNK)
        ]
    features: NDArray[np.float32] = torch.cat(pieces).numpy()
    return features
