"""What the decoder's first doubling costs on a CPU, beside PyTorch's own transposed convolution of the same weights.

    python benchmarks/speed/doubling.py
    python benchmarks/speed/doubling.py --precision 32-true

Both take turns, forward and backward, on the same maps and weights, with channels last as in training; the figure is
the median of the ratios pair by pair. The sizes are those of the small profile at 32 pixels, of a MobileNetV2 at 96
pixels and a quarter of the decoder's width, and of the paper's generator at 224.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from advbench.methods.pgn.networks import FirstDoubling
from advbench.runtime import Precision


@dataclass(frozen=True)
class Size:
    """Of one layer: its channels, the maps' rows and columns, and the images in a batch."""

    name: str
    inputs: int
    outputs: int
    side: int
    batch: int


SIZES = (
    Size("small profile, 32 pixels", 512, 512, 1, 64),
    Size("MobileNetV2, 96 pixels", 1280, 512, 3, 16),
    Size("ResNet-50, 224 pixels", 2048, 2048, 7, 4),
)


def seconds(layer: Callable[[Tensor], Tensor], maps: Tensor, precision: Precision) -> float:
    """Of one pass forth and back."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        doubled = layer(maps)
    doubled.float().sum().backward()
    return time.perf_counter() - started


def measure(size: Size, precision: Precision, repeats: int) -> list[tuple[float, float]]:
    """Seconds of both, in turns, after a warm-up."""
    torch.manual_seed(0)
    layer = FirstDoubling(size.inputs, size.outputs, 4, 2, padding=1, bias=False).to(memory_format=torch.channels_last)
    maps = torch.randn(size.batch, size.inputs, size.side, size.side).contiguous(memory_format=torch.channels_last)
    maps.requires_grad_()

    def usual(maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, layer.weight, stride=2, padding=1)

    pairs = [(seconds(usual, maps, precision), seconds(layer, maps, precision)) for _ in range(repeats + 1)]
    return pairs[1:]


@click.command()
@click.option("--repeats", default=11, show_default=True)
@click.option("--precision", default="bf16-mixed", show_default=True)
def main(repeats: int, precision: Precision) -> None:
    """Time the decoder's first doubling beside a transposed convolution."""
    table = Table(title=f"First doubling, {precision}, {torch.get_num_threads()} threads")
    for column in ("layer", "transposed convolution, ms", "ours, ms", "times as fast", "min - max"):
        table.add_column(column, justify="right")
    for size in SIZES:
        pairs = measure(size, precision, repeats)
        ratios = [usual / ours for usual, ours in pairs]
        usual, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        table.add_row(
            size.name, f"{1000 * usual:.1f}", f"{1000 * ours:.1f}", f"{statistics.median(ratios):.2f}",
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
