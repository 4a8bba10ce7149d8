"""Two designs of two-resolution execution, side by side: accuracy on labelled frames, and time.

    PYTHONPATH=. python benchmarks/block_designs.py camvid:DIR --model NAME \
        --json benchmarks/results/block_designs.json

- `dual`: two sets of blocks, HIGH and LOW, each fed by halos from the other (SegBlocks).
- `plane`: the whole frame at half resolution, and HIGH blocks on top of it, whose halos come from
  each other and from that plane.
- `pasted`: the dense result in HIGH blocks, the half-resolution result in the others: what either
  would reach if a HIGH block saw all of its surroundings at full resolution.

Blocks are ranked in three ways: `oracle` (what half resolution costs, seen from the labels),
`doubt` (one minus the probability of the best class at half resolution) and `heuristic` (what
shrinking the image loses).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import block_mean, BlockLayout, to_pixels
from seg_node.core.scores import Heuristic, Oracle
from seg_node.core.sparse import split
from seg_node.core.tiles import halved
from seg_node.core.types import Action
from seg_node.data.datasets import open_source
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn, Tensor

SIDES = (64, 32)
ROUNDS = 9
WARM_UP = 2


def dense(net: nn.Module, image: Tensor) -> Tensor:
    """Return logits of the dense network, [1, classes, h, w]."""
    logits: Tensor = net(image)
    return logits


def low(net: nn.Module, image: Tensor) -> Tensor:
    """Return logits of the image at half resolution, enlarged."""
    logits = functional.interpolate(net(halved(image)), scale_factor=2, mode="bilinear")
    stride = net.stride
    assert isinstance(stride, int)
    return logits[..., : -(-image.shape[-2] // stride), : -(-image.shape[-1] // stride)]


def dual(net: nn.Module, image: Tensor, high: NDArray[np.bool_], side: int) -> Tensor:
    """Return logits of two sets of blocks."""
    grid = np.where(high, Action.HIGH, Action.LOW).astype(np.uint8)[None]
    size = (image.shape[-2], image.shape[-1])
    whole: Tensor = net(split(image, BlockLayout(grid, side, size))).combined()
    return whole


def plane(net: nn.Module, image: Tensor, high: NDArray[np.bool_], side: int) -> Tensor:
    """Return logits of HIGH blocks on a plane of half resolution."""
    background = Recording()
    with Recorder(background):
        coarse = low(net, image)
    # The enlarging of the logits is no operation of the network.
    background.tensors.pop()
    grid = np.where(high, Action.HIGH, Action.REUSE).astype(np.uint8)[None]
    size = (image.shape[-2], image.shape[-1])
    layout = BlockLayout(grid, side, size, background=2)
    whole: Tensor = net(split(image, layout, background)).combined(base=coarse)
    return whole


def best(scores: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Return the share of blocks with the highest scores."""
    chosen = np.zeros(scores.shape, np.bool_)
    count = round(fraction * scores.size)
    chosen.flat[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
    return chosen


def labels_of(logits: Tensor, stride: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the best class of each pixel."""
    full = functional.interpolate(logits, scale_factor=stride, mode="bilinear")
    return full[..., : size[0], : size[1]].argmax(1)[0].to(torch.uint8).numpy()


class Accuracy:
    """Confusion of each variant, over all frames."""

    def __init__(self, net: nn.Module, classes: int, fractions: tuple[float, ...]) -> None:
        """Start without frames."""
        self.net = net
        self.fractions = fractions
        self.classes = classes
        self.confusion: dict[str, ConfusionMatrix] = {}

    def add(self, name: str, truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
        """Count one frame of one variant."""
        self.confusion.setdefault(name, ConfusionMatrix(self.classes)).update(truth, found)

    def frame(self, image: Tensor, truth: NDArray[np.uint8]) -> None:
        """Run every variant on one frame."""
        net, size = self.net, (truth.shape[0], truth.shape[1])
        stride = net.stride
        assert isinstance(stride, int)
        fine, coarse = dense(net, image), low(net, image)
        masks = {"dense": labels_of(fine, stride, size), "low": labels_of(coarse, stride, size)}
        for name, mask in masks.items():
            self.add(name, truth, mask)
        for side in SIDES:
            for ranking, scores in self.scores(image, truth, coarse, side).items():
                for fraction in self.fractions:
                    high = best(scores, fraction)
                    name = f"{side} {ranking} {fraction:g}"
                    pasted = np.where(to_pixels(high, side, size), masks["dense"], masks["low"])
                    self.add(f"pasted {name}", truth, pasted)
                    runs: dict[str, Callable[..., Tensor]] = {"plane": plane}
                    if side % 64 == 0:  # LOW blocks are whole pixels at stride 32
                        runs["dual"] = dual
                    for design, run in runs.items():
                        mask = labels_of(run(net, image, high, side), stride, size)
                        self.add(f"{design} {name}", truth, mask)

    def scores(
        self, image: Tensor, truth: NDArray[np.uint8], coarse: Tensor, side: int
    ) -> dict[str, NDArray[np.float64]]:
        """Return the ways to rank the blocks of a frame."""
        oracle = Oracle(self.net)  # type: ignore[arg-type]  # every network has that face
        oracle.labels = torch.from_numpy(truth.astype(np.int64))
        stride = self.net.stride
        assert isinstance(stride, int)
        doubt = 1 - coarse.softmax(1).amax(1)[0].numpy()
        pixels = np.asarray(to_pixels(doubt, stride, (truth.shape[0], truth.shape[1])), np.float64)
        return {
            "oracle": oracle(image, side),
            "doubt": block_mean(pixels, side),
            "heuristic": Heuristic()(image, side),
        }


def times(net: nn.Module, fraction: float) -> dict[str, dict[str, float]]:
    """Return seconds of each design at 960x720, interleaved, new grids in every round."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1, 720, 960, 3)).astype(np.uint8)
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    side = 64
    grid = (-(-720 // side), -(-960 // side))
    spent: dict[str, list[float]] = {"dense": [], "low": [], "dual": [], "plane": []}
    for index in range(ROUNDS):
        high = best(generator.random(grid), fraction)
        calls: dict[str, Callable[[], Tensor]] = {
            "dense": lambda: dense(net, image),
            "low": lambda: low(net, image),
            "dual": lambda high=high: dual(net, image, high, side),  # type: ignore[misc]  # mypy: no default in Callable
            "plane": lambda high=high: plane(net, image, high, side),  # type: ignore[misc]  # the same
        }
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index >= WARM_UP:
                spent[name].append(time.perf_counter() - start)
    base = np.array(spent["dense"])
    return {
        name: {
            "ms_p50": float(np.median(seconds)) * 1e3,
            "ms_min": min(seconds) * 1e3,
            "ms_max": max(seconds) * 1e3,
            "of_dense_p50": float(np.median(np.array(seconds) / base)),
        }
        for name, seconds in spent.items()
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="named data with labels, such as camvid:DIR")
    parser.add_argument("--split", default="val")
    parser.add_argument("--stride", type=int, default=4, help="every n-th frame")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    net = model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    accuracy = Accuracy(net, len(model.manifest.classes), (0.1, 0.2, 0.3))
    source = open_source(args.data, split=args.split)
    result: dict[str, Any] = {
        "data": f"{args.data.split(':')[0]} {args.split}, every {args.stride}. frame",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "device": f"cpu float32, {args.threads} threads",
        "versions": versions(),
    }
    with torch.inference_mode():
        result["ms_at_960x720"] = times(net, 0.2)
        with progress("designs", -(-len(source) // args.stride)) as bar:
            for index, sample in enumerate(source.every(args.stride)):
                if sample.labels is not None:
                    pixels = torch.from_numpy(np.ascontiguousarray(sample.frame.image))
                    accuracy.frame(pixels.permute(2, 0, 1)[None], sample.labels)
                bar(index + 1)
    result["miou"] = {k: c.dataset_miou() for k, c in sorted(accuracy.confusion.items())}
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"ms_at_960x720": result["ms_at_960x720"], "miou": result["miou"]}, indent=1))


if __name__ == "__main__":
    main()
