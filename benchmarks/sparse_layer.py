"""Times a block-sparse 3x3 layer against the dense convolution of torch on the same plane.

    python benchmarks/sparse_layer.py --json benchmarks/results/sparse_layer.json

A layer at active fraction 0.3 gathers 30% of its blocks, chosen at random, with a pixel around
them that comes from other active blocks or from the plane of a `Background`, and convolves them;
the row lists of its layout are ready, as for all but the first layer of a stride. Their making is
timed apart, in rounds of its own: torch's threads fall asleep meanwhile, and in a network layer
follows layer. Dense and sparse runs of all fractions follow each other in every round, on planes
and grids that change from round to round. A ratio is the median over rounds of sparse time over
dense time of the same round; the range is that of the middle half of the rounds.

The first table printed says where `block_functions.MATRIX_SIDE` belongs: time as a matrix product
over time as a convolution of tiles, at fraction 0.3, for blocks of other sides in the same planes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial
import json
import os
from pathlib import Path
import platform
import statistics
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seg_node.core import block_functions, sparse
from seg_node.core.background import Shown
from seg_node.core.blocks import BlockLayout, grid_shape, Window
from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEIGHT, WIDTH = 768, 960
FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
GOAL_FRACTION, GOAL_RATIO = 0.3, 0.45
MATRIX_SIDES = (2, 4, 8, 16)
VARIANTS = 3
"""Planes, and grids per fraction, that take turns."""

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Layer:
    """A 3x3 convolution with as many outputs as inputs.

    Attributes:
        channels: inputs and outputs.
        stride: image pixels per feature pixel.
        side: side of a block in feature pixels.

    """

    channels: int
    stride: int
    side: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its plane, in feature pixels."""
        return HEIGHT // self.stride, WIDTH // self.stride


FULL_WIDTH = (
    Layer(64, 4, 16),
    Layer(64, 4, 8),
    Layer(128, 8, 8),
    Layer(256, 16, 4),
    Layer(512, 32, 2),
)
LAYERS = (*FULL_WIDTH, *(replace(layer, channels=layer.channels // 2) for layer in FULL_WIDTH))


def make_layout(layer: Layer, fraction: float, seed: int) -> BlockLayout:
    """Return a layout in which a fraction of the blocks is HIGH, the others REUSE."""
    block = layer.side * layer.stride
    shape = grid_shape(HEIGHT, WIDTH, block)
    chosen = np.random.default_rng(seed).permutation(shape[0] * shape[1])
    grid = np.full(chosen.size, Action.REUSE, np.uint8)
    grid[chosen[: round(fraction * chosen.size)]] = Action.HIGH
    return BlockLayout(grid.reshape(1, *shape), block, (HEIGHT, WIDTH))


def make_lists(layer: Layer, fraction: float, seed: int) -> None:
    """Make a layout and the row lists of a layer in it."""
    layout = make_layout(layer, fraction, seed)
    window = Window(layer.stride, layer.size, 1, 1)
    layout.rows(Action.HIGH, window)
    layout.beyond(Action.HIGH, window)


def held_blocks(layer: Layer, layout: BlockLayout, plane: Tensor) -> sparse.BlockTensor:
    """Return the active blocks of a plane, as the layer before leaves them."""
    none = plane.new_empty((0, layer.channels, 1, 1))
    whole = sparse.BlockTensor(layout, layer.stride, layer.size, plane, none, whole=True)
    return whole.cut()


class Operands:
    """What the runs of one layer take: planes, grids and weights, by the number of the round."""

    def __init__(self, layer: Layer, dtype: torch.dtype, fractions: tuple[float, ...]) -> None:
        """Make them in channels_last, as the networks run."""
        torch.manual_seed(0)
        c = layer.channels
        last = torch.channels_last
        self.layer = layer
        self.weight = (torch.randn(c, c, 3, 3) / c).to(dtype).contiguous(memory_format=last)
        self.bias = torch.randn(c, dtype=dtype)
        self.planes = [
            torch.randn(1, c, *layer.size).to(dtype).contiguous(memory_format=last)
            for _ in range(VARIANTS)
        ]
        self.blocks = {
            fraction: [
                held_blocks(layer, make_layout(layer, fraction, seed), plane)
                for seed, plane in enumerate(self.planes)
            ]
            for fraction in fractions
        }

    def dense(self, turn: int) -> Tensor:
        """Run the layer on the whole plane."""
        plane = self.planes[turn % VARIANTS]
        return functional.conv2d(plane, self.weight, self.bias, (1, 1), (1, 1))

    def sparse(self, fraction: float, turn: int) -> Any:
        """Run the layer on the active blocks."""
        plane = self.planes[turn % VARIANTS]
        x: Any = replace(self.blocks[fraction][turn % VARIANTS], background=iter((Shown(plane),)))
        return functional.conv2d(x, self.weight, self.bias, (1, 1), (1, 1))

    def as_form(self, matrix_side: int, turn: int) -> Any:
        """Run the layer at the fraction of the goal, in one form whatever its side."""
        chosen = block_functions.MATRIX_SIDE, block_functions.MATRIX_CHANNELS
        block_functions.MATRIX_SIDE, block_functions.MATRIX_CHANNELS = matrix_side, 0
        try:
            return self.sparse(GOAL_FRACTION, turn)
        finally:
            block_functions.MATRIX_SIDE, block_functions.MATRIX_CHANNELS = chosen


def timed(run: Callable[[int], object], turn: int) -> float:
    """Return milliseconds of one run."""
    start = time.perf_counter()
    run(turn)
    return (time.perf_counter() - start) * 1e3


def rounds(runs: Mapping[str, Callable[[int], object]], seconds: float) -> dict[str, list[float]]:
    """Time all runs by turns for some seconds, after a round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    turn, end = 0, time.perf_counter() + seconds
    with torch.inference_mode():
        while turn <= LEAST_ROUNDS or time.perf_counter() < end:
            for name, run in runs.items():
                ms = timed(run, turn)
                if turn:
                    found[name].append(ms)
            turn += 1
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Return the median and the middle half of some values."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Return the summary of the ratios within each round."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def measure_layer(layer: Layer, precision: str, seconds: float) -> dict[str, Any]:
    """Time one layer, dense and at every fraction."""
    operands = Operands(layer, PRECISIONS[precision], FRACTIONS)
    runs: dict[str, Callable[[int], object]] = {"dense": operands.dense}
    making: dict[str, Callable[[int], object]] = {}
    for fraction in FRACTIONS:
        runs[f"{fraction}"] = partial(operands.sparse, fraction)
        making[f"{fraction}"] = partial(make_lists, layer, fraction)
    found, lists = rounds(runs, seconds), rounds(making, seconds / 2)
    fractions = {
        f"{fraction}": {
            "ratio": ratios(found[f"{fraction}"], found["dense"]),
            "ms": summary(found[f"{fraction}"]),
            "lists_ms": summary(lists[f"{fraction}"]),
        }
        for fraction in FRACTIONS
    }
    size = {"channels": layer.channels, "height": layer.size[0], "width": layer.size[1]}
    return {
        **size,
        "block_side": layer.side,
        "precision": precision,
        "rounds": len(found["dense"]),
        "dense_ms": summary(found["dense"]),
        "fractions": fractions,
    }


def measure_forms(layer: Layer, seconds: float) -> dict[str, Any]:
    """Time the matrix product against the convolution of tiles, by side of the blocks, in fp32."""
    sides = {}
    for side in MATRIX_SIDES:
        operands = Operands(replace(layer, side=side), torch.float32, (GOAL_FRACTION,))
        forms = {"matrix": partial(operands.as_form, side), "tiles": partial(operands.as_form, 0)}
        found = rounds(forms, seconds / len(MATRIX_SIDES))
        sides[str(side)] = ratios(found["matrix"], found["tiles"])
    return {"channels": layer.channels, "matrix_over_tiles": sides}


def shown(value: Mapping[str, float]) -> str:
    """Return a median with its range as text."""
    return f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def print_layer(found: Mapping[str, Any]) -> None:
    """Print a line of the first table."""
    plane = f"{found['channels']:4}  {found['height']:3}x{found['width']:<3}"
    dense = f"{found['precision']}  {found['dense_ms']['median']:8.2f}"
    cells = "  ".join(f"{shown(entry['ratio']):16}" for entry in found["fractions"].values())
    lists = found["fractions"][f"{GOAL_FRACTION}"]["lists_ms"]["median"]
    print(f"{plane}  {found['block_side']:5}  {dense}  {cells}  {lists:.2f}", flush=True)


def print_forms(found: Mapping[str, Any]) -> None:
    """Print a line of the second table."""
    cells = "  ".join(f"{shown(entry):16}" for entry in found["matrix_over_tiles"].values())
    print(f"{found['channels']:4}  {cells}", flush=True)


def measure(seconds: float) -> dict[str, Any]:
    """Run everything, printing tables on the way."""
    facts: dict[str, Any] = {
        "what": "time of a block-sparse 3x3 layer over the dense layer, by active fraction",
        "device": f"cpu, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 2),
        "goal": {"fraction": GOAL_FRACTION, "ratio": GOAL_RATIO, "precision": "fp32"},
        "matrix_side": block_functions.MATRIX_SIDE,
        "layers": [],
        "forms": [],
    }
    heads = "  ".join(f"side {side:<11}" for side in MATRIX_SIDES)
    print(f"matrix product over tiles, fp32, fraction {GOAL_FRACTION}\nchan  {heads}")
    by_channels = {layer.channels: layer for layer in LAYERS}
    for _, layer in sorted(by_channels.items()):
        facts["forms"].append(measure_forms(layer, seconds))
        print_forms(facts["forms"][-1])
    heads = "  ".join(f"{fraction:<16}" for fraction in FRACTIONS)
    print(f"\nchan  plane    block  prec  dense ms  {heads}  lists ms at {GOAL_FRACTION}")
    for precision in PRECISIONS:
        for layer in LAYERS:
            facts["layers"].append(measure_layer(layer, precision, seconds))
            print_layer(facts["layers"][-1])
    return facts


def main() -> None:
    """Measure, print and optionally write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="for each line of the tables")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = measure(args.seconds)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
