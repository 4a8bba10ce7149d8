"""Accuracy against the share of blocks at full resolution, for every way to rank them.

    PYTHONPATH=. python benchmarks/segblocks_curve.py camvid:DIR --model NAME \
        --json benchmarks/results/segblocks_curve.json --out docs/pictures/segblocks_curve.png

With `--size 960x720` images are enlarged, and masks are scored at the size of the labels.

Every labelled frame goes through the same network at every share with every ranking, so that all
points see the same frames. `oracle` ranks by what half resolution costs, seen from the labels: it
is no policy, but the best that a ranking of this kind could do.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np
import torch

from benchmarks.earlier import with_earlier_curves
from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Ranked, UNTRAINED
from seg_node.core.scores import BlockScore, Complexity, Heuristic, Middle, Oracle, Random
from seg_node.data.datasets import open_source
from seg_node.data.resizing import parse_size
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seg_node.core.types import StepResult
    from seg_node.data.sources import Sample
    from seg_node.nets.build import Model

FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


class Point:
    """One share with one ranking: what it costs and what it reaches."""

    def __init__(self, segmenter: Segmenter, classes: int) -> None:
        """Start without frames."""
        self.segmenter = segmenter
        self.confusion = ConfusionMatrix(classes)
        self.macs: list[float] = []
        self.high: list[float] = []

    def add(self, sample: Sample) -> None:
        """Run and score one frame."""
        result: StepResult = self.segmenter.step(sample.frame)
        assert sample.labels is not None
        size = (sample.labels.shape[1], sample.labels.shape[0])
        labels = cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        self.confusion.update(sample.labels, np.asarray(labels, np.uint8))
        self.macs.append(result.report.macs / result.report.dense_macs)
        self.high.append(float(np.mean(result.plan.grid == 2)))  # noqa: PLR2004 - Action.HIGH

    def entry(self) -> dict[str, Any]:
        """Return the point as it goes into the file."""
        return {
            "high": float(np.mean(self.high)),
            "macs_of_dense": float(np.mean(self.macs)),
            "miou": self.confusion.dataset_miou(),
        }


def rankings(model: Model) -> dict[str, BlockScore]:
    """Return every way to rank blocks that this model has."""
    scores: dict[str, BlockScore] = {
        "random": Random(),
        "middle": Middle(),
        "heuristic": Heuristic(),
        "oracle": Oracle(model.net),  # type: ignore[arg-type]  # every network has that face
    }
    if model.policy is not None:
        scores["learned"] = Complexity(model.policy)
    return scores


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all points over all frames."""
    model = load_model(args.model)
    classes = len(model.manifest.classes)
    base = Config().updated(
        {"model": args.model, "mode": "segblocks", "block_size": args.block_size}
    )
    scores = rankings(model)
    if args.rankings:
        wanted = args.rankings.split(",")
        if unknown := set(wanted) - set(scores):
            names = ", ".join(sorted(unknown))
            msg = f"--rankings has unknown {names}; choose from {', '.join(scores)}"
            raise SystemExit(msg)
        scores = {name: scores[name] for name in wanted}
    points = {
        (name, fraction): Point(
            Segmenter(
                model.net,
                {**UNTRAINED, "segblocks": Ranked(score)},
                base.updated({"policy.high_fraction": fraction}),
            ),
            classes,
        )
        for name, score in scores.items()
        for fraction in args.fractions
    }
    source = open_source(args.data, split=args.split)
    frames = 0
    with progress("curve", -(-len(source) // args.stride)) as bar:
        for sample in source.every(args.stride):
            if sample.labels is None:
                continue
            oracle = scores.get("oracle")
            image = sample.frame.image
            if args.size is not None:
                image = np.asarray(cv2.resize(image, args.size, interpolation=cv2.INTER_LINEAR))
            if isinstance(oracle, Oracle):
                shape = image.shape[1::-1]
                seen = cv2.resize(sample.labels, shape, interpolation=cv2.INTER_NEAREST_EXACT)
                oracle.labels = torch.from_numpy(seen.astype(np.int64))
            run_all(points.values(), replace(sample, frame=replace(sample.frame, image=image)))
            frames += 1
            bar(frames)
    curves: dict[str, list[dict[str, Any]]] = {}
    for (name, _), point in points.items():
        curves.setdefault(name, []).append(point.entry())
    return {
        "data": f"{args.data.split(':')[0]} {args.split}, every {args.stride}. frame",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "block_size": args.block_size,
        "size": args.size and "x".join(map(str, args.size)),
        "frames": frames,
        "versions": versions(),
        "curves": curves,
    }


def run_all(points: Iterable[Point], sample: Sample) -> None:
    """Run one frame through all points."""
    for point in points:
        point.add(sample)


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot accuracy against cost."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in result["curves"].items():
        axes.plot(
            [100 * p["macs_of_dense"] for p in points],
            [100 * p["miou"] for p in points],
            marker="o",
            markersize=3,
            label=name,
            linestyle="--" if name == "oracle" else "-",
        )
    axes.set_xlabel("MACs, % of dense")
    axes.set_ylabel("mIoU, %")
    axes.set_title(f"{result['model']['name']}, {result['data']}, {result['frames']} frames")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="named data with labels, such as camvid:DIR")
    parser.add_argument("--split", default="val")
    parser.add_argument("--stride", type=int, default=1, help="every n-th frame")
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--rankings", default="", help="comma list (default: all); others stay as --json has them"
    )
    parser.add_argument("--size", type=parse_size, help="of the images (default: as they are)")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument(
        "--fractions",
        type=lambda text: tuple(map(float, text.split(","))),
        default=FRACTIONS,
        help="shares of HIGH blocks, comma list",
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="picture, *.png")
    args = parser.parse_args()
    result = measure(args)
    if args.rankings:
        same = "data", "model", "block_size", "size", "frames"
        result = with_earlier_curves(result, args.json, same)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, points in result["curves"].items():
        line = "  ".join(f"{p['macs_of_dense']:.3f}:{p['miou']:.4f}" for p in points)
        print(f"{name:10s} {line}")
    if args.out:
        draw(result, args.out)


if __name__ == "__main__":
    main()
