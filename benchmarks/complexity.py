"""Which score of complexity predicts what resolution is worth to a frame.

    PYTHONPATH=. python benchmarks/complexity.py camvid:DIR street:1 street:2 street:3 \
        --json benchmarks/results/complexity.json --out docs/pictures/complexity.png

For every frame: the loss of a trained network that sees it at half resolution, minus that at full
resolution. Spearman's rank correlation of that gain with every score of `train/complexity.py`, and
with the loss of a tiny network that is trained here, has a 90% interval from resampled frames. The
score that predicts best on the data, without a network, is picked; the picture shows the frames of
the streets where it is least and largest.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
import tempfile
import time
from typing import Any, TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch
from torch.nn import functional

from seg_node.core.types import IGNORE_LABEL
from seg_node.data.datasets import open_source
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model
from seg_node.nets.swiftnet import SwiftNet
from seg_node.train.batches import BatchMaker, halve, Pools
from seg_node.train.complexity import rank_correlation, score_pictures, SCORES
from seg_node.train.losses import resize_logits
from seg_node.train.pictures import frame_refs, Pool
from seg_node.train.segmenter import SegmentTrainer
from seg_node.train.settings import SegmentTraining
from seg_node.train.trainer import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.train.augment import Picture

    Values = NDArray[np.float64]

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of backend

TINY_WIDTH = 0.125
TINY = SegmentTraining(
    steps=200, crop_width=128, crop_height=96, scale_min=0.25, scale_max=0.5, learning_rate=5e-3
)
RESAMPLES = 1000
SHOWN = 3
"""Frames in each row of the picture."""


def loss_of(net: torch.nn.Module, picture: Picture, *, half: bool) -> float:
    """Return the mean cross entropy of a network on a frame's labelled pixels."""
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
    labels = torch.from_numpy(picture.labels).long()[None]
    with torch.inference_mode():
        logits = net(halve(image) if half else image)
        full = resize_logits(logits, (labels.shape[-2], labels.shape[-1]))
        return float(functional.cross_entropy(full, labels, ignore_index=IGNORE_LABEL))


def train_tiny(pictures: Sequence[Picture], classes: int) -> torch.nn.Module:
    """Return a tiny network that has seen small crops of these frames for a few steps."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        run = SegmentTrainer(
            SwiftNet(classes, TINY_WIDTH),
            BatchMaker(Pools(pictures), TINY),
            torch.ones(classes),
            Run(Path(folder)),
        )
        return run.run()


def measure(
    spec: str, pictures: Sequence[Picture], names: list[str], nets: dict[str, Any]
) -> dict[str, Any]:
    """Return the gain of resolution and every score of the frames of some data."""
    scores: dict[str, list[float]] = {}
    spent = {}
    for name in SCORES:
        started = time.perf_counter()
        scores[name] = score_pictures(names, pictures, name).scores.tolist()
        spent[name] = (time.perf_counter() - started) / len(pictures) * 1e3
    gains, tiny = [], []
    with progress(spec, len(pictures)) as tell:
        for done, picture in enumerate(pictures, 1):
            full, half = (loss_of(nets["shipped"], picture, half=half) for half in (False, True))
            gains.append(half - full)
            tiny.append(loss_of(nets["tiny"], picture, half=True))
            tell(done)
    scores["tiny"] = tiny
    return {
        "data": spec,
        "frames": len(pictures),
        "mean_gain": float(np.mean(gains)),
        "correlation": {
            name: correlate(np.array(gains), values) for name, values in scores.items()
        },
        "ms_per_frame": spent,
        "names": names,
        "gain": gains,
        "scores": scores,
    }


def correlate(gains: Values, values: list[float]) -> dict[str, float]:
    """Return the rank correlation with its 90% interval over resampled frames."""
    score = np.array(values)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(gains), size=len(gains)) for _ in range(RESAMPLES)]
    again = [rank_correlation(gains[index], score[index]) for index in drawn]
    low, high = np.quantile(again, (0.05, 0.95))
    return {"rho": rank_correlation(gains, score), "low": float(low), "high": float(high)}


def open_frames(spec: str, stride: int) -> tuple[Pool, list[str], int]:
    """Return labelled frames, their names and the number of classes."""
    source = open_source(spec, split="train")
    refs = [ref for ref in frame_refs(source, stride) if ref.labelled]
    return Pool(refs), [ref.name for ref in refs], len(source.classes)


def draw(pictures: Sequence[Picture], scores: Values, name: str, out: Path) -> None:
    """Write the frames of least and of largest score."""
    order = np.argsort(scores)
    rows = (order[:SHOWN], order[::-1][:SHOWN])
    figure, axes = plt.subplots(2, SHOWN, figsize=(9, 4.9))
    for row, (indices, what) in enumerate(zip(rows, ("simple", "complex"), strict=True)):
        for column, index in enumerate(indices):
            axes[row, column].imshow(pictures[int(index)].image)
            axes[row, column].set_title(f"{what}: {name} {scores[index]:.3f}", fontsize="small")
            axes[row, column].axis("off")
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def main() -> None:
    """Measure, print, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="labelled data, such as camvid:DIR (split train)")
    parser.add_argument("streets", nargs="+", help="streets, such as street:1")
    parser.add_argument("--model", default="swiftnet18-half")
    parser.add_argument("--stride", type=int, default=1, help="every so many-th frame of the data")
    parser.add_argument("--street-stride", type=int, default=15, help="and of the streets")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    parser.add_argument("--json", type=Path, required=True, help="figures to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    pictures, names, classes = open_frames(args.data, args.stride)
    nets = {"shipped": load_model(args.model).net, "tiny": train_tiny(pictures, classes)}
    kind = args.data.partition(":")[0]
    parts = [measure(f"{kind} train", pictures, names, nets)]
    opened = [open_frames(spec, args.street_stride) for spec in args.streets]
    frames = [picture for pool, _, _ in opened for picture in pool]
    shown = [
        f"{spec} {name}"
        for spec, (_, own, _) in zip(args.streets, opened, strict=True)
        for name in own
    ]
    parts.append(measure(", ".join(args.streets), frames, shown, nets))
    for part in parts:
        print(f"{part['data']}: {part['frames']} frames, mean gain {part['mean_gain']:.4f}")
        for name, found in part["correlation"].items():
            print(f"  {name:<11} {found['rho']:6.3f}  ({found['low']:.3f} to {found['high']:.3f})")
    rho = {name: parts[0]["correlation"][name]["rho"] for name in SCORES}
    best = max(rho, key=rho.__getitem__)
    print(f"picked: {best}")
    draw(frames, np.array(parts[1]["scores"][best]), best, args.out)
    found = {
        "model": args.model,
        "tiny": {"width": TINY_WIDTH, "steps": TINY.steps},
        "picked": best,
    }
    args.json.write_text(json.dumps({**found, "versions": versions(), "data": parts}) + "\n")


if __name__ == "__main__":
    main()
