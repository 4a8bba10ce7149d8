"""Time of block-sparse layers over the fastest dense form of them, by active fraction, on a GPU.

    python -m benchmarks.gpu_layers --json benchmarks/results/gpu_layers.json

The layers are those of SwiftNet-RN18 at 1024x2048, each with bias, residual and ReLU, in place.
Dense is cuDNN's choice or torch.compile's, whichever is faster, as a CUDA graph in channels_last.
The goal is (a + 0.10) of dense at an active fraction a.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from benchmarks.gpu_timing import (
    by_turns,
    captured,
    device_facts,
    ratios,
    require_gpu,
    summary,
    write,
)
from seg_node.core.backend import Layer, plane_rows, Source, Target
from seg_node.core.tiles import as_rows
from seg_node.kernels.build import choose_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from seg_node.core.backend import BlockKernels

SIZE = (1024, 2048)
BLOCK = 64
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SLACK = 0.10
VARIANTS = 4
"""Planes, and grids per fraction, that take turns."""

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A layer of a network.

    Attributes:
        channels: inputs.
        outputs: outputs.
        kernel: side of its kernel.
        step: pixels read per pixel written.
        stride: image pixels per pixel written.

    """

    channels: int
    outputs: int
    kernel: int
    step: int
    stride: int


LAYERS = (
    Shape(64, 64, 3, 1, 4),
    Shape(64, 128, 3, 2, 8),
    Shape(128, 128, 3, 1, 8),
    Shape(128, 256, 3, 2, 16),
    Shape(256, 256, 3, 1, 16),
    Shape(256, 512, 3, 2, 32),
    Shape(512, 512, 3, 1, 32),
    Shape(64, 128, 1, 2, 8),
    Shape(64, 128, 1, 1, 4),
    Shape(128, 128, 3, 1, 4),
)


class Operands:
    """What the runs of one layer take.

    Args:
        shape: the layer.
        dtype: number format.
        size: height and width of the image, multiples of BLOCK.
        kernels: what computes blocks.
        device: where everything lies.

    """

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        size: tuple[int, int],
        kernels: BlockKernels,
        device: torch.device,
    ) -> None:
        """Make planes and weights in channels_last, as the networks run."""
        self.shape, self.kernels, self.device = shape, kernels, device
        self.outer = (size[0] // shape.stride, size[1] // shape.stride)
        self.inner = (self.outer[0] * shape.step, self.outer[1] * shape.step)
        self.grid = (size[0] // BLOCK, size[1] // BLOCK)
        generator = torch.Generator().manual_seed(0)

        def noise(*numbers: int) -> Tensor:
            values = torch.randn(numbers, generator=generator).to(device, dtype)
            last = torch.channels_last
            return values.contiguous(memory_format=last) if values.dim() > 1 else values

        fan = shape.channels * shape.kernel**2
        self.weight = noise(shape.outputs, shape.channels, shape.kernel, shape.kernel) / fan**0.5
        self.bias = noise(shape.outputs)
        self.planes = [noise(1, shape.channels, *self.inner) for _ in range(VARIANTS)]
        self.added = [noise(1, shape.outputs, *self.outer) for _ in range(VARIANTS)]
        self.results = [torch.zeros_like(plane) for plane in self.added]

    def dense(self, turn: int) -> Tensor:
        """Run the layer on a whole plane."""
        half = self.shape.kernel // 2
        found = functional.conv2d(self.planes[turn], self.weight, self.bias, self.shape.step, half)
        return functional.relu(found + self.added[turn])

    def active(self, fraction: float, turn: int) -> tuple[Source, Target]:
        """Return where random blocks are read and written."""
        total = self.grid[0] * self.grid[1]
        chosen = np.random.default_rng(turn).permutation(total)[: round(fraction * total)]
        at = torch.from_numpy(np.sort(chosen)).to(self.device)
        places = (torch.zeros_like(at), at // self.grid[1], at % self.grid[1])
        side = BLOCK // self.shape.stride
        rows = plane_rows(places, side * self.shape.step, self.inner, self.shape.kernel // 2)
        table = as_rows(self.planes[turn])
        return Source(table, rows), Target(
            as_rows(self.results[turn]), plane_rows(places, side, self.outer)
        )

    def sparse(self, where: tuple[Source, Target], turn: int) -> Tensor:
        """Run the layer on the active blocks, in place."""
        layer = Layer(self.weight, self.bias, self.shape.step)
        added = as_rows(self.added[turn])
        source, target = where
        return self.kernels.convolve(source, layer, residual=added, relu=True, target=target)


def measure_layer(operands: Operands, rounds: int) -> dict[str, Any]:
    """Time one layer, dense in every form and at every fraction."""
    turns = range(VARIANTS)
    compiled = torch.compile(operands.dense, mode="max-autotune-no-cudagraphs", dynamic=False)
    runs: dict[str, list[Callable[[], object]]] = {
        "cudnn": [captured(partial(operands.dense, turn)) for turn in turns],
        "compiled": [captured(partial(compiled, turn)) for turn in turns],
    }
    for fraction in FRACTIONS:
        runs[f"{fraction}"] = [
            captured(partial(operands.sparse, operands.active(fraction, turn), turn))
            for turn in turns
        ]
    found = by_turns(runs, rounds)
    fastest = min(("cudnn", "compiled"), key=lambda name: summary(found[name])["median"])
    fractions = {
        f"{fraction}": {
            "ratio": ratios(found[f"{fraction}"], found[fastest]),
            "ms": summary(found[f"{fraction}"]),
            "goal": round(fraction + SLACK, 2),
        }
        for fraction in FRACTIONS
    }
    dense = {name: summary(found[name]) for name in ("cudnn", "compiled")}
    return {"dense_ms": dense, "fastest_dense": fastest, "fractions": fractions}


def shown(found: dict[str, Any]) -> str:
    """Return a line of the table."""
    name = "{channels:4} {outputs:4}  {kernel}x{kernel}/{step}  {stride:3}".format(**found)
    dense = found["dense_ms"][found["fastest_dense"]]["median"]
    cells = "  ".join(f"{each['ratio']['median']:5.2f}" for each in found["fractions"].values())
    return f"{name}  {found['precision']}  {dense:8.4f} {found['fastest_dense']:8}  {cells}\n"


def main() -> None:
    """Measure, print and optionally write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = require_gpu("benchmarks/gpu_layers.py")
    kernels = choose_kernels("triton", device)
    assert kernels is not None
    heads = "  ".join(f"{fraction:5}" for fraction in FRACTIONS)
    sys.stdout.write(f"  in  out  layer  stride  prec  dense ms  form   {heads}\n")
    facts = {**device_facts(), "size": SIZE, "block": BLOCK, "rounds": args.rounds}
    results: dict[str, Any] = {**facts, "layers": []}
    with torch.inference_mode():
        for precision, dtype in PRECISIONS.items():
            for shape in LAYERS:
                operands = Operands(shape, dtype, SIZE, kernels, device)
                found = measure_layer(operands, args.rounds)
                results["layers"].append({**vars(shape), "precision": precision, **found})
                sys.stdout.write(shown(results["layers"][-1]))
                sys.stdout.flush()
    if args.json:
        write(results, args.json)


if __name__ == "__main__":
    main()
