"""Where computation runs, and at which precision. Lightning Fabric does the work."""

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from advbench.errors import InvalidConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Precision", "Runtime"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Runtime(BaseModel):
    """Where computation runs, and at which precision.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        devices: How many of them; with more than one, every process runs the same command and shares each batch.
        precision: For fitting; targets are always scored in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    devices: int = Field(default=1, ge=1)
    precision: Precision = "32-true"

    @property
    def fabric(self) -> "Fabric":
        """The Fabric that places modules, batches and optimisers; launched on first use.

        Raises:
            InvalidConfig: The device is not there.
        """
        return _launched(self)

    @property
    def torch_device(self) -> torch.device:
        """This process's device."""
        return self.fabric.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that stores and prints."""
        return bool(self.fabric.is_global_zero)

    def begin_loss_scale(self) -> None:
        """Scale float16's losses as if no other fit of this process, all of which share one Fabric, had gone before."""
        precision: Any = self.fabric.strategy.precision
        if getattr(precision, "scaler", None) is not None:
            precision.scaler = torch.amp.GradScaler(precision.device)

    @property
    def inference_dtype(self) -> torch.dtype:
        """The precision of queries that serve fitting alone."""
        return {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[self.precision]


@cache  # of a value: many runs of one process ask for the same
def _launched(runtime: Runtime) -> "Fabric":
    from lightning_fabric import Fabric  # lazy: takes a second

    accelerator, _, index = runtime.device.partition(":")
    _check(runtime, accelerator, index)
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else runtime.devices,
        strategy="auto" if runtime.devices == 1 else "ddp",
        precision=runtime.precision,
    )
    torch.backends.cudnn.allow_tf32 = False  # what is called float32 is that, in a GPU's convolutions too
    with warnings.catch_warnings():
        # The batches are tensors already in memory, so advice on data-loading workers does not apply.
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric.launch()
    return fabric


def _check(runtime: Runtime, accelerator: str, index: str) -> None:
    present = {
        "auto": 1,
        "cpu": runtime.devices,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if accelerator not in present or (index and not index.isdigit()):
        raise InvalidConfig(f"unknown device '{runtime.device}': expected auto, cpu, cuda, cuda:N or mps")
    count = present[accelerator]
    wanted = int(index) + 1 if index else runtime.devices if accelerator != "auto" else 1
    if wanted > count:
        there = ", ".join(f"{name} ({number})" for name, number in present.items() if number and name != "auto")
        raise InvalidConfig(
            f"device '{runtime.device}' x {runtime.devices} is not there: this machine has {there}; use --device cpu"
        )
