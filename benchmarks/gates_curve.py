"""Accuracy against MACs of mode stmg, and agreement with the dense network frame by frame.

    PYTHONPATH=. python benchmarks/gates_curve.py camvid:DIR --model NAME [--size 960x720] \
        --json benchmarks/results/gates_curve_NAME.json --out docs/pictures/gates_curve_NAME.png

Every frame goes through all ways at once, so all points see the same frames. Ways:

- `learned`, `distortion`: gates as shipped with the model, and untrained ones, at thresholds;
- `residual`: untrained ones of the residual blocks alone; the decoder runs on the whole frame;
- `random`: random gates, another draw in every frame;
- `shallower`: residual blocks whose skip connection is their input are left out everywhere, the
  last ones first, and their input is passed on: a static network of fewer layers;
- `copy`: untrained gates whose memory does not move, with results that are shown as they were;
- `mixed`: the whole network in every frame, its result mixed with what was shown, as in mode stmg:
  what that alone is worth;
- `stride^E`: untrained gates whose tolerance grows with the stride of the stage to the power E;
- `no age limit`: untrained gates with `max_age_ms` of a minute, to see whether errors grow.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
import json
from pathlib import Path
from typing import Any, cast, TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch

from benchmarks.earlier import with_earlier_curves
from seg_node.core.config import Config, Value
from seg_node.core.costs import MacCounter
from seg_node.core.gate import DistortionGate, Gated, GateScore, LearnedGate, TOLERANCE
from seg_node.core.gated_modules import in_place_of, stages_of
from seg_node.core.masks import decide
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import UNTRAINED
from seg_node.core.residual import find_gated_modules, find_residual_blocks
from seg_node.core.shown import Shown
from seg_node.core.tracking import OnHost, StepTracker
from seg_node.core.types import Reason
from seg_node.data.datasets import open_source
from seg_node.data.resizing import in_size, parse_size
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seg_node.core.execution import SegmentationNetwork
    from seg_node.core.gated_modules import GatedModule
    from seg_node.core.policy import GatePast
    from seg_node.data.sources import Sample
    from seg_node.nets.build import Model

    Result = tuple[NDArray[np.uint8], float]

THRESHOLDS = (0.3, 0.4, 0.45, 0.5, 0.6)
SHOWN = 0.5
"""The threshold whose agreement with dense is drawn, and measured without limit of age, too."""
LONG_MS = 60000.0


class RandomGate(GateScore):
    """Scores at random."""

    def __init__(self) -> None:
        """Seed it."""
        self._rng = np.random.default_rng(0)

    def __call__(self, past: GatePast, config: Config) -> NDArray[np.floating]:  # noqa: ARG002 - it looks at nothing
        """Return scores 0..1."""
        return self._rng.random(past.distortion.shape)

    def macs(self, grid: tuple[int, int]) -> int:  # noqa: ARG002 - the same for all
        """Return 0."""
        return 0


def stepped(model: Model, policy: Gated, values: dict[str, Value]) -> Callable[[Sample], Result]:
    """Return a way that is a policy of mode stmg."""
    settings: dict[str, Value] = {"mode": "stmg", "device": "cpu", **values}
    segmenter = Segmenter(model.net, {**UNTRAINED, "stmg": policy}, Config().updated(settings))

    def run(sample: Sample) -> Result:
        result = segmenter.step(sample.frame)
        return result.labels, result.report.macs / result.report.dense_macs

    return run


def shallower(
    model: Model, blocks: Sequence[GatedModule], left_out: int
) -> Callable[[Sample], Result]:
    """Return a way that leaves out the branches of the last blocks that pass on their input."""
    able = [block for block in blocks if block.passes_input][-left_out:]
    stride = cast("SegmentationNetwork", model.net).stride
    dense: dict[tuple[int, ...], int] = {}

    def run(sample: Sample) -> Result:
        image = torch.from_numpy(sample.frame.image.copy()).permute(2, 0, 1)[None]
        size = (image.shape[-2], image.shape[-1])
        with torch.inference_mode():
            if size not in dense:
                with MacCounter() as whole:
                    model.net(image)
                dense[size] = whole.macs
            with MacCounter() as counter, in_place_of(able, [lambda x: x] * len(able)):
                logits = model.net(image)
            labels, _ = decide(logits, stride, size)
        return labels, counter.macs / dense[size]

    return run


def mixed(model: Model) -> Callable[[Sample], Result]:
    """Return a way that computes everything, and mixes it with what was shown before."""
    method, shown = OnHost(), Shown()
    tracker, stride = StepTracker("flow", method), cast("SegmentationNetwork", model.net).stride

    def run(sample: Sample) -> Result:
        image = torch.from_numpy(sample.frame.image.copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = model.net(image)
            size = (logits.shape[-2], logits.shape[-1])
            picture = method.colours(sample.frame, size)
            step = tracker.track(sample.frame)
            if isinstance(step, Reason):
                tracker.start(sample.frame)
            else:
                flow, valid = method.step_at(step, size)
                shown.follow(torch.from_numpy(flow), valid, picture)
                logits = shown.mixed(logits, torch.ones(size, dtype=torch.bool))
            shown.keep(logits, picture)
            labels, _ = decide(logits, stride, (image.shape[-2], image.shape[-1]))
        return labels, 1.0

    return run


def ways(
    model: Model, thresholds: Sequence[float], powers: Sequence[float], block_size: int
) -> dict[str, Callable[[Sample], Result]]:
    """Return all ways, by name and point."""
    blocks, residual = find_gated_modules(model.net), find_residual_blocks(model.net)
    able = sum(block.passes_input for block in blocks)
    copied = [replace(block, join=None) for block in blocks]
    strides = np.array([stage[0].stride for stage in stages_of(blocks)], np.float64)
    strides /= np.exp(np.log(strides).mean())
    found = {f"shallower {count}": shallower(model, blocks, count) for count in range(1, able + 1)}
    for t in thresholds:
        values: dict[str, Value] = {"gate.threshold": t, "block_size": block_size}
        if model.gate is not None:
            learned = Gated(blocks, LearnedGate(model.gate, len(stages_of(blocks))))
            found[f"learned {t}"] = stepped(model, learned, values)
        found[f"distortion {t}"] = stepped(model, Gated(blocks), values)
        found[f"residual {t}"] = stepped(model, Gated(residual), values)
        found[f"random {t}"] = stepped(model, Gated(blocks, RandomGate()), values)
        found[f"copy {t}"] = stepped(model, Gated(copied), values | {"motion.source": "none"})
        for power in powers:
            score = DistortionGate(TOLERANCE * strides[:, None, None] ** power)
            found[f"stride^{power} {t}"] = stepped(model, Gated(blocks, score), values)
        if t == SHOWN:
            old = values | {"max_age_ms": LONG_MS}
            found[f"no_age_limit {t}"] = stepped(model, Gated(blocks), old)
    found["mixed 0"] = mixed(model)
    dense = Segmenter(model.net, UNTRAINED, Config(device="cpu", mode="dense"))
    return {"dense 0": lambda sample: (dense.step(sample.frame).labels, 1.0), **found}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all ways over all frames."""
    model = load_model(args.model)
    classes = len(model.manifest.classes)
    running = {
        name: way
        for name, way in ways(model, args.thresholds, args.powers, args.block_size).items()
        if not args.ways or name.partition(" ")[0] in {"dense", *args.ways.split(",")}
    }
    counts = {name: ConfusionMatrix(classes) for name in running}
    macs: dict[str, list[float]] = {name: [] for name in running}
    same: dict[str, list[float]] = {name: [] for name in running}
    source = in_size(open_source(args.data, split=args.split), args.size)
    samples = list(islice(source, args.frames))
    height, width = samples[0].frame.image.shape[:2]
    brought = f", brought to {width}x{height}" if args.size else ""
    bins = Config(mode="stmg", block_size=args.block_size).block_side((height, width))
    with progress("curve", len(samples)) as bar:
        for index, sample in enumerate(samples):
            results = {name: way(sample) for name, way in running.items()}
            for name, (labels, share) in results.items():
                if sample.labels is not None:
                    counts[name].update(sample.labels, labels)
                macs[name].append(share)
                same[name].append(round(float((labels == results["dense 0"][0]).mean()), 4))
            bar(index + 1)
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in running:
        way, _, point = name.partition(" ")
        curves.setdefault(way, []).append(
            {
                "point": float(point),
                "macs_of_dense": float(np.mean(macs[name])),
                "miou": counts[name].dataset_miou(),
                "same_pixels": same[name],
            }
        )
    return {
        "data": f"{args.data.split(':')[0]} {args.split}, first {len(samples)} frames{brought}",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "bin": bins,
        "gate": model.manifest.gate.sha256 if model.manifest.gate else None,
        "versions": versions(),
        "curves": curves,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot accuracy against cost, and agreement over frames."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, points in result["curves"].items():
        x, y = ([100 * p[key] for p in points] for key in ("macs_of_dense", "miou"))
        left.plot(x, y, marker="o", markersize=3, label=name)
    left.set_xlabel("MACs, % of dense")
    left.set_ylabel("mIoU, %")
    dense = 100 * result["curves"]["dense"][0]["miou"]
    best = max(100 * p["miou"] for points in result["curves"].values() for p in points)
    left.set_ylim(dense - 10, best + 1)  # a network without its last layers falls to nothing
    left.legend()
    for name in ("learned", "distortion", "no_age_limit", "copy"):
        for point in result["curves"].get(name, []):
            if point["point"] == SHOWN:
                right.plot([100 * x for x in point["same_pixels"]], label=f"{name} {SHOWN}")
    right.set_xlabel("frame")
    right.set_ylabel("pixels as dense, %")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{result['model']['name']}, {result['data']}")
    figure.savefig(path, dpi=110)


def numbers(text: str) -> tuple[float, ...]:
    """Read a comma list."""
    return tuple(map(float, text.split(",")))


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="a labelled clip, such as camvid:DIR")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=int, default=101)
    parser.add_argument("--size", type=parse_size, help="of the images, WxH (default: their own)")
    parser.add_argument("--block-size", type=int, default=0, help="side of a bin, in pixels")
    parser.add_argument(
        "--thresholds",
        type=numbers,
        default=THRESHOLDS,
        help="of the gates, comma list",
    )
    parser.add_argument("--powers", type=numbers, default=(), help="of the stride, comma list")
    parser.add_argument(
        "--ways", default="", help="comma list (default: all); others stay as --json has them"
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="picture, *.png")
    args = parser.parse_args()
    result = measure(args)
    if args.ways:
        result = with_earlier_curves(result, args.json, ("data", "model", "bin", "gate"))
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, points in result["curves"].items():
        line = "  ".join(f"{p['macs_of_dense']:.3f}:{p['miou']:.4f}" for p in points)
        print(f"{name:12s} {line}")
    if args.out:
        draw(result, args.out)


if __name__ == "__main__":
    main()
