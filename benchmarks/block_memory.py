"""How to remember blocks that are refreshed one by one: a sketch on dense logits.

    PYTHONPATH=. python benchmarks/block_memory.py camvid:DIR --model swiftnet18 \
        --json benchmarks/results/block_memory.json

A refreshed block gets what the dense network makes of the frame: what surrounds it when it is
computed for real is left out here. Compared are two ways to remember: `moved` moves the whole
result from frame to frame and pastes refreshed blocks in; `stays` leaves every computed block in
the frame where it was computed, and each pixel reads the newest one along its composed motion.
And scores that say which blocks to refresh; `differs` (from dense) knows what no policy knows.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.masks import decide
from seg_node.core.warp import rescale, warp
from seg_node.data.datasets import open_source
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions, write_json
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 8
"""Side of a block in feature pixels; 32 image pixels at stride 4."""
ANCHORS = 24
"""Most frames whose blocks are remembered."""
RUNS = (
    *((interval, 0.0, "moved", "residual x doubt") for interval in (1, 4, 8, 12)),
    *(
        (interval, share, way, "residual x doubt")
        for interval, share in ((8, 0.05), (8, 0.1), (12, 0.1), (12, 0.15))
        for way in ("moved", "stays")
    ),
    *(
        (12, 0.1, "stays", score)
        for score in ("residual", "doubt", "residual x doubt x sqrt(age)", "differs")
    ),
)


@dataclass(frozen=True)
class Clip:
    """What a network made of a clip, and how it moves; all at the logits' size.

    Attributes:
        logits: [T, classes, h, w].
        grey: images, 0..255, [T, h, w].
        steps: flow of each frame to the one before, [T, h, w, 2].
        labels: true classes at image size.
        stride: image pixels per logit.

    """

    logits: Tensor
    grey: Tensor
    steps: Tensor
    labels: list[np.ndarray]
    stride: int


@dataclass
class Anchor:
    """Blocks that were computed in one frame.

    Attributes:
        frame: its number.
        blocks: which were, at the logits' size, bool [h, w].
        flow: from the present frame to it, [1, h, w, 2].

    """

    frame: int
    blocks: Tensor
    flow: Tensor


@dataclass
class Remembered:
    """What is known of the present frame without computing it.

    Attributes:
        logits: [classes, h, w].
        residual: grey levels that the moved image is off, [h, w].
        age: frames since it was computed, [h, w].

    """

    logits: Tensor
    residual: Tensor
    age: Tensor


@dataclass
class Memory:
    """Two ways to remember, see above."""

    clip: Clip
    stays: bool
    anchors: list[Anchor] = field(default_factory=list)
    latest: Remembered | None = None

    def look(self, frame: int) -> Remembered:
        """Return what is remembered, moved to this frame."""
        step = self.clip.steps[frame][None]
        for anchor in self.anchors:
            moved = warp(anchor.flow.permute(0, 3, 1, 2), step).permute(0, 2, 3, 1)
            anchor.flow = step + moved
        return self._from_anchors(frame) if self.stays else self._moved(frame, step)

    def _moved(self, frame: int, step: Tensor) -> Remembered:
        assert self.latest is not None
        planes = torch.cat(
            (self.latest.logits, self.latest.age[None], self.clip.grey[frame - 1][None])
        )
        moved = warp(planes[None], step)[0]
        residual = (moved[-1] - self.clip.grey[frame]).abs()
        return Remembered(moved[:-2], residual, moved[-2] + 1)

    def _from_anchors(self, frame: int) -> Remembered:
        clip, shape = self.clip, self.clip.grey.shape[1:]
        found = Remembered(
            torch.zeros_like(clip.logits[0]), torch.zeros(shape), torch.full(shape, -1.0)
        )
        for anchor in reversed(self.anchors):
            there = _read(anchor.blocks, anchor.flow)
            use = (there | (anchor is self.anchors[0])) & (found.age < 0)
            planes = torch.cat((clip.logits[anchor.frame], clip.grey[anchor.frame][None]))
            moved = warp(planes[None], anchor.flow)[0]
            found.logits = torch.where(use, moved[:-1], found.logits)
            found.residual = torch.where(use, (moved[-1] - clip.grey[frame]).abs(), found.residual)
            found.age = torch.where(use, torch.tensor(float(frame - anchor.frame)), found.age)
        return found

    def refresh(self, frame: int, known: Remembered, blocks: Tensor) -> Remembered:
        """Compute some blocks, bool [h, w], and remember them."""
        now = Remembered(
            torch.where(blocks, self.clip.logits[frame], known.logits),
            known.residual,
            torch.where(blocks, torch.tensor(0.0), known.age),
        )
        if blocks.all():
            self.anchors.clear()
        self.anchors.append(Anchor(frame, blocks, torch.zeros_like(self.clip.steps[:1])))
        if len(self.anchors) > ANCHORS:
            del self.anchors[1]
        self.latest = now
        return now


def _read(blocks: Tensor, flow: Tensor) -> Tensor:
    """Return the block of each pixel where a flow leads; False outside."""
    h, w = blocks.shape
    x = (torch.arange(w) + flow[0, ..., 0]).round().long()
    y = (torch.arange(h)[:, None] + flow[0, ..., 1]).round().long()
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return blocks[y.clamp(0, h - 1), x.clamp(0, w - 1)] & inside


def block_means(values: Tensor) -> Tensor:
    """Return the mean of each block, [gh, gw]."""
    return functional.avg_pool2d(
        values[None, None], CELLS, ceil_mode=True, count_include_pad=False
    )[0, 0]


def scores(name: str, known: Remembered, dense: Tensor) -> Tensor:
    """Return how much each block should be refreshed, [gh, gw]."""
    doubt = block_means(1 - known.logits.softmax(0).amax(0))
    residual = block_means(known.residual)
    if name == "differs":
        return block_means((known.logits.argmax(0) != dense.argmax(0)).float())
    return {
        "residual": residual,
        "doubt": doubt,
        "residual x doubt": residual * doubt,
        "residual x doubt x sqrt(age)": residual * doubt * block_means(known.age).sqrt(),
    }[name]


def run(clip: Clip, interval: int, share: float, way: str, score: str) -> dict[str, Any]:
    """Play the clip: a keyframe every `interval` frames, a share of the blocks between."""
    memory = Memory(clip, way == "stays")
    confusion = ConfusionMatrix(clip.logits.shape[1])
    everything = torch.ones(clip.grey.shape[1:], dtype=torch.bool)
    computed, owed = 0.0, 0.0
    for frame, dense in enumerate(clip.logits):
        if frame % interval == 0:
            now = memory.refresh(frame, Remembered(dense, dense[0], dense[0]), everything)
            computed += 1
        else:
            known = memory.look(frame)
            rank = scores(score, known, dense)
            owed += share * rank.numel()
            count, owed = int(owed), owed - int(owed)
            chosen = torch.zeros(rank.numel(), dtype=torch.bool)
            chosen[rank.flatten().topk(count).indices] = True
            wide = chosen.view(rank.shape).repeat_interleave(CELLS, 0).repeat_interleave(CELLS, 1)
            now = memory.refresh(frame, known, wide[: everything.shape[0], : everything.shape[1]])
            computed += count / rank.numel()
        size = clip.labels[frame].shape
        confusion.update(clip.labels[frame], decide(now.logits[None], clip.stride, size)[0])
    return {
        "keyframe_interval": interval,
        "refreshed": share,
        "way": way,
        "score": score,
        "macs_of_dense": computed / len(clip.logits),
        "miou": confusion.dataset_miou(),
    }


def prepare(data: str, split: str, model: str) -> Clip:
    """Run the dense network and the motion estimator over the labelled clip of some data."""
    source = open_source(data, split=split)
    (found,) = (clip for clip in source.clips() if len(clip.frames) > ANCHORS)
    net = load_model(model).net
    estimator = FlowEstimator()
    logits, images, steps, labels = [], [], [], []
    for ref in found.frames:
        sample = ref.load()
        assert sample.labels is not None
        pixels = torch.from_numpy(sample.frame.image).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits.append(net(pixels)[0])
        images.append(work_image(sample.frame.image))
        before = images[-2] if len(images) > 1 else images[-1]
        flow = torch.from_numpy(estimator.estimate(before, images[-1]).flow)[None]
        steps.append(rescale(flow, logits[-1].shape[1:])[0])
        labels.append(sample.labels)
    grey = torch.from_numpy(np.stack(images)).float()[:, None]
    small = functional.interpolate(grey, logits[0].shape[1:], mode="area")[:, 0]
    return Clip(torch.stack(logits), small, torch.stack(steps), labels, net.stride)  # type: ignore[arg-type]  # the face of a network says int


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="swiftnet18")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    clip = prepare(args.data, args.split, args.model)
    rows = []
    with progress("block_memory", len(RUNS)) as bar, torch.inference_mode():
        for done, (interval, share, way, score) in enumerate(RUNS, start=1):
            rows.append(run(clip, interval, share, way, score))
            print(json.dumps(rows[-1]))
            bar(done)
    facts = {"model": args.model, "split": args.split, "frames": len(clip.logits)}
    write_json(
        {**facts, "block_px": CELLS * clip.stride, "versions": versions(), "runs": rows}, args.json
    )


if __name__ == "__main__":
    main()
