"""What to show where residual blocks are left out: accuracy with all bins of some blocks reused.

    PYTHONPATH=. python benchmarks/gate_transform.py camvid:DIR --model NAME \
        --json benchmarks/results/gate_transform.json

In pairs of frames of a labelled clip some residual blocks run nowhere in the later frame. Shown is

- `copied`: the result of the earlier frame;
- `moved`: that, moved;
- `change passed on`: that, plus the change of the block's input, where the skip connection is the
  input;
- `skip run`: what the branch made in the earlier frame, moved, joined with what the skip
  connection brings now: what mode stmg does;
- `skip run, of identities`: the same where the skip connection is the input, else `moved`;
- `passed through`: the input, where the skip connection is that; nothing is remembered.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.gated_modules import in_place_of, plain, stages_of
from seg_node.core.residual import find_residual_blocks
from seg_node.core.warp import move
from seg_node.data.datasets import open_source
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model
from seg_node.train.gate_pairs import GatedPairs
from seg_node.train.rides import estimated_steps, Ride
from seg_node.train.validation import confusion, mean_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn, Tensor

    from seg_node.core.gated_modules import GatedModule
    from seg_node.nets.build import Model
    from seg_node.train.pairs import FramePair

DISTANCES = (1, 3, 8)
SIDE = 64


def tensor(image: np.ndarray) -> Tensor:
    """Return an image as uint8 [1, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


class Changes:
    """Shows earlier results plus the change of the input since."""

    def __init__(self, net: nn.Module, blocks: Sequence[GatedModule], pair: FramePair) -> None:
        """Run the network on the earlier frame."""
        self.net, self.blocks = net, blocks
        self.motion = [torch.from_numpy(x)[None] for x in (pair.motion.flow, pair.motion.valid)]
        self.before: list[tuple[Tensor, Tensor]] = []
        with in_place_of(blocks, [partial(self.record, block) for block in blocks]):
            net(tensor(pair.key))

    def record(self, block: GatedModule, x: Tensor) -> Tensor:
        """Remember input and result of a block, moved."""
        out: Tensor = plain(block)(x)
        known, made = (move(plane, *self.motion)[0] for plane in (x, out))
        self.before.append((known, made))
        return out

    def changed(self, index: int, x: Tensor) -> Tensor:
        """Return the earlier result of a block plus the change of its input, rectified."""
        known, made = self.before[index]
        return (made + x - known).relu() if self.blocks[index].passes_input else made

    def logits(self, image: Tensor, dropped: Sequence[bool]) -> Tensor:
        """Run the network on the later frame without some stages."""
        stages = zip(stages_of(self.blocks), dropped, strict=True)
        drops = [drop for stage, drop in stages for _ in stage]
        chosen = [i for i, drop in enumerate(drops) if drop]
        forwards = [partial(self.changed, i) for i in chosen]
        with in_place_of([self.blocks[i] for i in chosen], forwards):
            found: Tensor = self.net(image)
        return found


class Ways:
    """Runs pairs in all ways."""

    def __init__(self, model: Model) -> None:
        """Take the model."""
        self.net = model.net
        self.blocks = find_residual_blocks(model.net)
        self.able = [block for block in self.blocks if block.passes_input]
        self.kinds = {
            "moved": [replace(block, join=None) for block in self.blocks],
            "skip run, of identities": [
                replace(b, join=b.join if b.passes_input else None) for b in self.blocks
            ],
            "skip run": self.blocks,
        }
        strides = [stage[0].stride for stage in stages_of(self.blocks)]
        self.sets = {"all": [True] * len(strides)}
        self.sets |= {f"stride {s}": [own == s for own in strides] for s in sorted(set(strides))}

    def __call__(self, pair: FramePair) -> dict[str, Tensor]:
        """Return the logits of every way."""
        image, key = tensor(pair.picture.image), tensor(pair.key)
        flow, valid = (torch.from_numpy(x)[None] for x in (pair.motion.flow, pair.motion.valid))
        moved = {
            kind: GatedPairs(self.net, blocks, key, flow, valid)
            for kind, blocks in self.kinds.items()
        }
        copied = GatedPairs(self.net, self.kinds["moved"], key, torch.zeros_like(flow), valid)
        changes = Changes(self.net, self.blocks, pair)
        grid = [-(-side // SIDE) for side in image.shape[-2:]]
        found: dict[str, Tensor] = {"dense": self.net(image)}
        for name, dropped in self.sets.items():
            gates = torch.ones(1, len(dropped), *grid)
            gates[:, torch.tensor(dropped)] = 0
            found |= {
                f"{name}: {kind}": pairs.logits(image, gates) for kind, pairs in moved.items()
            }
            found[f"{name}: change passed on"] = changes.logits(image, dropped)
        found["all: copied"] = copied.logits(image, torch.zeros_like(gates))
        with in_place_of(self.able, [lambda x: x] * len(self.able)):
            found["identities: passed through"] = self.net(image)
        with in_place_of(self.able[-1:], [lambda x: x]):
            found["the last one: passed through"] = self.net(image)
        return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="a labelled clip, such as camvid:DIR")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=int, default=20, help="pairs at each distance")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    classes = len(model.manifest.classes)
    samples = list(open_source(args.data, split=args.split).every(1))
    images = [sample.frame.image for sample in samples]
    ride, ways = Ride(images, estimated_steps(images)), Ways(model)
    table: dict[str, dict[str, float | None]] = {}
    places = np.linspace(max(DISTANCES), len(images) - 1, args.frames).round().astype(int)
    with torch.inference_mode(), progress("pairs", len(DISTANCES) * args.frames) as bar:
        for number, distance in enumerate(DISTANCES):
            counts: dict[str, Tensor] = {}
            for index, now in enumerate(places.tolist()):
                labels = samples[now].labels
                assert labels is not None
                for name, logits in ways(ride.pair(now, distance)).items():
                    count = confusion(logits, torch.from_numpy(labels)[None], classes)
                    counts[name] = counts.get(name, torch.zeros_like(count)) + count
                bar(number * args.frames + index + 1)
            for name, count in counts.items():
                table.setdefault(name, {})[str(distance)] = mean_iou(count)
    result = {
        "data": f"{args.data.split(':')[0]} {args.split}, {args.frames} pairs at each distance",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "versions": versions(),
        "miou_by_distance": table,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in table.items():
        print(f"{name:32s}", "  ".join(f"{d}: {value:.4f}" for d, value in row.items()))


if __name__ == "__main__":
    main()
