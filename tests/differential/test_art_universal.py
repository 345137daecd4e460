"""UAP beside ART's, on the same images."""

import random

import numpy as np
import pytest
import torch

from advbench.access import QueryLedger, fit_access
from advbench.bench import build_method
from advbench.datasets import Dataset
from advbench.methods import Context, Setting, TrainingImages
from advbench.runtime import Runtime
from advbench.targets import ModuleTarget
from advbench.tensors import Images
from advbench.threat import THREATS, Budget
from advbench.types import Goal

# What the peer warns about itself when it is imported is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

EPSILON = 0.25
COUNT = 24
LEAN = {"verbose": False, "max_iter": 10, "nb_grads": 3, "epsilon": 0.02}
"""Our own inner DeepFool's steps, candidates and overshoot, in ART's words."""


def fooled(target: ModuleTarget, images: Images, perturbation: torch.Tensor) -> float:
    assert perturbation.abs().max() <= EPSILON + 1e-6
    moved = (images + perturbation).clamp(0, 1)
    return float((target.labels(moved) != target.labels(images)).float().mean())


def ours(target: ModuleTarget, digits: Dataset, attack: str, **options: object) -> torch.Tensor:
    train = TrainingImages(digits.fit.first(COUNT, seed=1, what=""), digits.validation.first(20, seed=1, what=""))
    budget = Budget(epsilon=EPSILON)
    labels = torch.cat([train.fit.labels, train.validation.labels])
    access = fit_access(target, THREATS["white-box"], QueryLedger(len(labels)), labels)
    method = build_method(attack, dict(options)).resolve(Setting(Goal.DEGRADE, budget, 32, "resnet18"))
    context = Context(Goal.DEGRADE, budget, 0, 32, 10, runtime=Runtime(device="cpu"))
    return method.fit(access, train, context).state()["perturbation"]


def test_art(digits: Dataset, target: ModuleTarget) -> None:
    """With the same inner attack, images and one pass, about as many are fooled; gradients from all images fool more.

    The orders differ, and ART's inner attack does not know of the pixels' range: so the rates are not the same.
    """
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    random.seed(0)
    np.random.seed(0)
    model = PyTorchClassifier(
        target.module(), torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
    )
    images = digits.fit.first(COUNT, seed=1, what="").images()
    theirs = UniversalPerturbation(
        model, attacker="deepfool", attacker_params=LEAN, eps=EPSILON, max_iter=1, verbose=False
    )
    theirs.generate(images.numpy())
    reached = fooled(target, images, torch.from_numpy(np.asarray(theirs.noise)))
    one_by_one = fooled(target, images, ours(target, digits, "uap", batch_size=1, epochs=1))
    assert one_by_one == pytest.approx(reached, abs=0.15)
    assert fooled(target, images, ours(target, digits, "gradient-uap", batch_size=8, epochs=5)) > reached
