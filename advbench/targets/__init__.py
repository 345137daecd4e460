"""Classifiers under attack: any torchvision network, one's own module, or a plain function."""

from advbench.targets.base import (
    Classifier,
    FunctionTarget,
    JacobianAnswer,
    ModuleTarget,
    Normalise,
    PullbackAnswer,
    Target,
    chunk_size,
)
from advbench.targets.ensemble import EnsembleTarget, Fusion
from advbench.targets.fast import fast_form, restore_batch_norms
from advbench.targets.training import ClassifierSpec, Training, epoch_batches, make_classifier, untrained_classifier
from advbench.targets.weights import imagenet_state, load_into, pinned_weights, read_state, write_weights
from advbench.targets.zoo import (
    NORMALISATIONS,
    Normalisation,
    build_network,
    check_architecture,
    imagenet_normalisation,
    is_own,
    known_architectures,
    normaliser,
    own_digest,
    own_source,
)

__all__ = [
    "NORMALISATIONS",
    "Classifier",
    "ClassifierSpec",
    "EnsembleTarget",
    "FunctionTarget",
    "Fusion",
    "JacobianAnswer",
    "ModuleTarget",
    "Normalisation",
    "Normalise",
    "PullbackAnswer",
    "Target",
    "Training",
    "build_network",
    "check_architecture",
    "chunk_size",
    "epoch_batches",
    "fast_form",
    "imagenet_normalisation",
    "imagenet_state",
    "is_own",
    "known_architectures",
    "load_into",
    "make_classifier",
    "normaliser",
    "own_digest",
    "own_source",
    "pinned_weights",
    "read_state",
    "restore_batch_norms",
    "untrained_classifier",
    "write_weights",
]
