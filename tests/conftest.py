"""What the tests share: small real targets, quick runs, and a home that is never the user's."""

import gc
import os

# The tests run side by side, one process a core; more threads than cores would slow them many times. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from advbench.datasets import Dataset, DatasetSpec, load_dataset
from advbench.progress import SILENT
from advbench.runtime import Runtime
from advbench.targets import ClassifierSpec, ModuleTarget, Training, make_classifier

CPU = Runtime(device="cpu")
QUICK = ClassifierSpec(architecture="resnet18", training=Training(epochs=3, images=600))


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole session, so that each classifier is trained once."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("ADVBENCH_HOME")
    os.environ["ADVBENCH_HOME"] = str(folder)
    yield folder
    os.environ.pop("ADVBENCH_HOME")
    if before is not None:
        os.environ["ADVBENCH_HOME"] = before


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """A command that reads leaves what it found to the end of its process, which here goes on."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DatasetSpec(limit=100))


@pytest.fixture(scope="session")
def target(digits: Dataset) -> ModuleTarget:
    """A ResNet-18 that knows most digits."""
    module = make_classifier(QUICK, digits, CPU, SILENT)
    assert isinstance(module, torch.nn.Module)
    return ModuleTarget(module, 10, "resnet18", "resnet18", folds=True)


@pytest.fixture
def linear_target() -> Callable[..., ModuleTarget]:
    """A linear classifier on small images, whose gradients and distances are known exactly."""

    def make(classes: int = 5, size: int = 4, seed: int = 0) -> ModuleTarget:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size * size, classes))
        return ModuleTarget(module, classes, "linear", "linear")

    return make


FACTORIES = """
import os, signal
from pathlib import Path
import torch

class Plain(torch.nn.Module):
    def __init__(self, classes, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.last = torch.nn.Linear(192, classes)

    def forward(self, images):
        return self.last(torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))

def plain(classes):
    return Plain(classes, 0)

def other(classes):
    return Plain(classes, 1)

def seeing(classes):
    (Path(os.environ["DEADLY_MARKS"]) / f"saw-{os.environ.get('CUDA_VISIBLE_DEVICES')}").touch()
    return Plain(classes, 3)

class Rounded(Plain):
    def forward(self, images):
        return super().forward((images * 4).round() / 4)

def rounded(classes):
    return Rounded(classes, 0)

def broken(classes):
    raise RuntimeError("no network today")

class Deadly(Plain):
    def forward(self, images):
        marks = Path(os.environ["DEADLY_MARKS"])
        count = len(list(marks.glob("died-*")))
        if count < int(os.environ["DEADLY_TIMES"]):
            (marks / f"died-{count}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)

def deadly(classes):
    return Deadly(classes, 2)
"""


@pytest.fixture(scope="session")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a module of targets that need no training, which worker processes find as well."""
    folder = tmp_path_factory.mktemp("factories")
    (folder / "quick_targets.py").write_text(FACTORIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        yield "quick_targets"
