"""What surrounds a block that is computed alone, and what that costs, by the age of the memory.

    PYTHONPATH=. python benchmarks/halos.py camvid:DIR --model swiftnet18-half \
        --json benchmarks/results/halos_swiftnet18-half.json

For pairs of frames some distance apart: the network runs on the earlier one, the most uncertain
blocks of its result, moved, are computed in the later one, and the network finds around them

- `nearest`: what it read in the earlier frame, each pixel the nearest along the motion;
- `bilinear`: the same, interpolated, as in mode adaptive (`core/feature_pool.py`);
- `copy`: the same without motion;
- `true`: what it reads in the later frame itself.

`moved` is the earlier result, moved: what the blocks show if they are not computed; `dense` the
whole frame, computed. `differs` is the share of the blocks' pixels whose class is another than in
`dense`; `accuracy` the share that is right, of the labelled ones.
"""

from __future__ import annotations

import argparse
from functools import reduce
from itertools import pairwise
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.background import Recorder, Recording, Shown
from seg_node.core.blocks import block_mean, BlockLayout
from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.motion import compose
from seg_node.core.sparse import split
from seg_node.core.types import Action
from seg_node.core.warp import rescale, warp
from seg_node.data.datasets import open_source
from seg_node.eval.progress import progress
from seg_node.eval.results import versions, write_json
from seg_node.nets.build import load_model
from seg_node.train.blocks import MovedPlanes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn, Tensor

    from seg_node.core.background import Background, Plane
    from seg_node.data.sources import Sample

DISTANCES = (1, 2, 4, 8)
EVERY = 7
"""Frames from pair to pair."""
SIDE = 32
SHARE = 0.15
"""Share of the blocks that is computed."""
COLOURS = 3


class Bilinear:
    """Planes of an earlier frame, moved."""

    def __init__(self, planes: Sequence[Tensor], flow: Tensor) -> None:
        """Take planes and the flow to them."""
        self._planes, self._flow = planes, flow

    def planes(self) -> Iterator[Plane]:
        """Return the planes from the first on; the image is the later frame's anyway."""
        for plane in self._planes:
            size = (plane.shape[-2], plane.shape[-1])
            is_image = plane.shape[1] == COLOURS
            yield Shown(plane if is_image else warp(plane, rescale(self._flow, size)))


def run(net: nn.Module, image: Tensor) -> tuple[Tensor, Recording]:
    """Return what a network makes of an image, and what its operations read."""
    recording = Recording()
    with Recorder(recording):
        logits: Tensor = net(image)
    return logits, recording


def tensor(sample: Sample) -> Tensor:
    """Return an image as uint8 [1, 3, H, W]."""
    return torch.from_numpy(sample.frame.image).permute(2, 0, 1)[None]


def score(logits: Tensor, dense: Tensor, labels: Tensor, blocks: Tensor) -> dict[str, float]:
    """Return how the pixels of some blocks, bool [H, W], differ from dense and from the truth."""
    size = (labels.shape[-2], labels.shape[-1])
    found, wanted = (
        functional.interpolate(x, size, mode="bilinear").argmax(1)[0] for x in (logits, dense)
    )
    known = blocks & (labels < logits.shape[1])
    return {
        "differs": float((found != wanted)[blocks].float().mean()),
        "accuracy": float((found == labels)[known].float().mean()),
    }


def pair(net: nn.Module, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Compute blocks of the last of some frames amid what is remembered of the first."""
    key, now = samples[0], samples[-1]
    greys, estimator = [work_image(s.frame.image) for s in samples], FlowEstimator()
    steps = [estimator.estimate(before, after) for before, after in pairwise(greys)]
    motion = reduce(lambda earlier, later: compose(later, earlier), steps)
    flow = torch.from_numpy(motion.flow)[None]
    assert now.labels is not None
    labels = torch.from_numpy(now.labels.astype(np.int64))
    size = (labels.shape[-2], labels.shape[-1])
    (before, then), (dense, here) = run(net, tensor(key)), run(net, tensor(now))
    moved = warp(before, rescale(flow, (before.shape[-2], before.shape[-1])))
    full = functional.interpolate(moved, size, mode="bilinear")
    doubt = block_mean((1 - full.softmax(1).amax(1))[0].numpy(), SIDE)
    least = np.sort(doubt, axis=None)[-max(1, round(SHARE * doubt.size))]
    grid = np.where(doubt >= least, Action.HIGH, Action.REUSE).astype(np.uint8)
    layout = BlockLayout(grid[None], SIDE, size)
    blocks = layout.where(Action.HIGH, 1, size)[0, 0]
    backgrounds: dict[str, Background] = {
        "nearest": MovedPlanes(then.tensors, flow),
        "bilinear": Bilinear(then.tensors, flow),
        "copy": then,
        "true": here,
    }
    found = {"moved": moved, "dense": dense}
    for name, background in backgrounds.items():
        found[name] = net(split(tensor(now), layout, background)).combined(base=moved)
    return {name: score(logits, dense, labels, blocks) for name, logits in found.items()}


def main() -> None:
    """Run all pairs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="swiftnet18-half")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    source = open_source(args.data, split=args.split)
    (clip,) = (clip for clip in source.clips() if len(clip.frames) > max(DISTANCES) * 2)
    samples = [ref.load() for ref in clip.frames]
    net = load_model(args.model).net
    jobs = [(d, at) for d in DISTANCES for at in range(d, len(samples), EVERY)]
    found: dict[int, list[dict[str, dict[str, float]]]] = {d: [] for d in DISTANCES}
    with progress("halos", len(jobs)) as bar, torch.inference_mode():
        for done, (distance, at) in enumerate(jobs, start=1):
            found[distance].append(pair(net, samples[at - distance : at + 1]))
            bar(done)
    rows: list[dict[str, Any]] = []
    for distance, pairs in found.items():
        for name in pairs[0]:
            means = {k: float(np.mean([p[name][k] for p in pairs])) for k in pairs[0][name]}
            rows.append({"distance": distance, "pairs": len(pairs), "around": name, **means})
            print(json.dumps(rows[-1]))
    facts = {"model": args.model, "split": args.split, "block_px": SIDE, "computed": SHARE}
    write_json({**facts, "versions": versions(), "rows": rows}, args.json)


if __name__ == "__main__":
    main()
