"""What predicts the harm of reusing residual blocks: rank correlations over bins.

    PYTHONPATH=. python benchmarks/gate_distortion.py camvid:DIR --model NAME \
        --json benchmarks/results/gate_distortion.json

In pairs of frames of a labelled clip all bins of some residual blocks are reused from the earlier
frame. Harm of a bin: by how much the cross entropy of its labels rises above that of the dense
network, and the divergence of the result from the dense one. Each is ranked against what could
be known before: the difference of the moved image (photometric), of its gradient, of the moved
features of the stem, all with and without the doubt of the earlier result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.gated_modules import stages_of
from seg_node.core.residual import find_residual_blocks
from seg_node.core.warp import move
from seg_node.data.datasets import open_source
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.nets.build import load_model
from seg_node.train.gate_pairs import GatedPairs
from seg_node.train.rides import estimated_steps, Ride

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from seg_node.nets.build import Model

SIDE = 64


def tensor(image: np.ndarray) -> Tensor:
    """Return an image as uint8 [1, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def means(plane: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Average [h, w] over bins, [gh * gw]."""
    side = -(-plane.shape[-2] // grid[0])
    return functional.avg_pool2d(plane[None, None].float(), side, ceil_mode=True).numpy().ravel()


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation, -1..1."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def gradient(grey: Tensor) -> Tensor:
    """Return the length of the gradient of [1, 1, h, w]."""
    wide = functional.pad(grey, (0, 1, 0, 1), mode="replicate")
    x, y = wide[..., :-1, 1:] - grey, wide[..., 1:, :-1] - grey
    return (x.square() + y.square()).sqrt()


class Bins:
    """Runs pairs and collects predictors and harms of their bins."""

    def __init__(self, model: Model) -> None:
        """Take the model."""
        self.net = model.net
        self.blocks = find_residual_blocks(model.net)
        strides = [stage[0].stride for stage in stages_of(self.blocks)]
        self.sets = {"all": [True] * len(strides)}
        self.sets |= {f"stride {s}": [own == s for own in strides] for s in sorted(set(strides))}
        self.found: dict[str, list[np.ndarray]] = {}

    def add(self, image: np.ndarray, key: np.ndarray, labels: np.ndarray, motion: Any) -> None:
        """Run one pair."""
        now = tensor(image)
        flow, valid = torch.from_numpy(motion.flow)[None], torch.from_numpy(motion.valid)[None]
        pairs = GatedPairs(self.net, self.blocks, tensor(key), flow, valid)
        seen = pairs.seen(now, SIDE)
        grid = (seen.doubt.shape[-2], seen.doubt.shape[-1])
        dense = self.net(now).float().log_softmax(1)
        greys = [x.float().mean(1, keepdim=True) for x in (now, tensor(key))]
        shrunk = [functional.avg_pool2d(grey, 4) for grey in greys]
        moved, _ = move(shrunk[1], flow, valid)
        stems = []
        hook = self.blocks[0].module.register_forward_pre_hook(
            lambda _, inputs: stems.append(inputs[0].clone())
        )
        for frame in (now, tensor(key)):
            self.net(frame)
        hook.remove()
        stem = (stems[0] - move(stems[1], flow, valid)[0]).abs().mean((0, 1))
        doubt = seen.doubt[0, 0].numpy().ravel()
        known = {
            "photometric": seen.distortion[0, 0].numpy().ravel(),
            "gradient": means((gradient(moved) - gradient(shrunk[0])).abs()[0, 0], grid),
            "stem": means(stem, grid),
        }
        known |= {f"{name} x doubt": value * doubt for name, value in known.items()}
        self._note("doubt", doubt)
        for name, value in known.items():
            self._note(name, value)
        target = torch.from_numpy(labels.astype(np.int64))[None, ::4, ::4]
        inside = target != 255  # noqa: PLR2004 - void
        losses = [functional.nll_loss(dense, target, ignore_index=255, reduction="none")]
        for name, dropped in self.sets.items():
            gates = torch.ones_like(seen.distortion)
            gates[:, torch.tensor(dropped)] = 0
            reused = pairs.logits(now, gates).float().log_softmax(1)
            loss = functional.nll_loss(reused, target, ignore_index=255, reduction="none")
            self._note(f"labels: {name}", means(((loss - losses[0]) * inside)[0], grid))
            kl = (dense.exp() * (dense - reused)).sum(1)[0]
            self._note(f"divergence: {name}", means(kl, grid))

    def _note(self, name: str, value: np.ndarray) -> None:
        self.found.setdefault(name, []).append(value)

    def table(self) -> dict[str, dict[str, float]]:
        """Return the rank correlation of every predictor with every harm."""
        joined = {name: np.concatenate(values) for name, values in self.found.items()}
        harms = [name for name in joined if ":" in name]
        return {
            name: {harm: rank_correlation(value, joined[harm]) for harm in harms}
            for name, value in joined.items()
            if name not in harms
        }


def pairs_of(ride: Ride, frames: int, distances: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield number and distance of pairs, spread over a ride."""
    last = len(ride) - 1
    for now in np.linspace(max(distances), last, frames // len(distances)).round().astype(int):
        for distance in distances:
            yield int(now), distance


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="a labelled clip, such as camvid:DIR")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=int, default=40, help="pairs")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    samples = list(open_source(args.data, split=args.split).every(1))
    images = [sample.frame.image for sample in samples]
    ride = Ride(images, estimated_steps(images))
    distances = (1, 4)
    bins = Bins(model)
    done = 0
    with torch.inference_mode(), progress("pairs", args.frames) as bar:
        for now, distance in pairs_of(ride, args.frames, distances):
            labels = samples[now].labels
            assert labels is not None
            pair = ride.pair(now, distance)
            bins.add(pair.picture.image, pair.key, labels, pair.motion)
            done += 1
            bar(done)
    table = bins.table()
    result = {
        "data": f"{args.data.split(':')[0]} {args.split}, {done} pairs, {distances} frames apart",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "bin": SIDE,
        "versions": versions(),
        "rank_correlation": table,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in table.items():
        print(f"{name:20s}", "  ".join(f"{harm} {value:.3f}" for harm, value in row.items()))


if __name__ == "__main__":
    main()
