"""What reusing a block costs, against what is known of it: value weights fitted and hand-set.

    python benchmarks/value_weights.py camvid:DIR --json benchmarks/results/value_weights.json

Blocks chosen at random are computed of some streets, and of every other block it is counted how
many more of its pixels are wrong than if the frame had been computed in full. Exponents of
distortion, doubt and age are fitted to these counts (Poisson regression), and mode adaptive is
scored on the labelled clip with them, with the hand-set ones, and with variations of those.
"""

from __future__ import annotations

import argparse
from itertools import islice
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.blocks import block_mean
from seg_node.core.budgeted import Budgeted, LEAST_DOUBT, ValueWeights
from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import filled, NOTHING, UNTRAINED
from seg_node.core.types import Action, IGNORE_LABEL, Plan, Reason
from seg_node.data.datasets import open_source
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.results import versions
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.policy import BlockPast, Past
    from seg_node.nets.build import Model

STREETS = ("street:21", "street:22", "street:23")
FRAMES = 90
SHARE = 0.15
STARTS = (0, 3, 6, 9)
FROM = 12
LEAST = 1e-3
"""Features below it count as this: they go into a logarithm."""
VARIATIONS = (
    (1, 1, 1),
    (0.5, 1, 1),
    (1.5, 1, 1),
    (1, 0.5, 1),
    (1, 1.5, 1),
    (1, 1, 0.5),
    (1, 1, 2),
)


class AtRandom(Budgeted):
    """Computes blocks at random, and tells what was known of all of them."""

    def __init__(self) -> None:
        """Seed the choice."""
        super().__init__()
        self._rng = np.random.default_rng(0)
        self.known: BlockPast | None = None

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return a random plan."""
        usual = super().plan(image, config, past)  # keeps the accounts of the budget in order
        self.known = past.blocks
        if past.blocks is None:
            return usual
        grid = filled(image, config, Action.REUSE)
        grid[self._rng.random(grid.shape) < SHARE] = Action.HIGH
        return Plan(grid, Reason.REFRESHED)


def harms(model: Model, street: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features [n, 3] (logarithms) and harm [n], in pixels of 1000, of reused blocks."""
    policy = AtRandom()
    config = Config(device="cpu", mode="adaptive")
    segmenter = Segmenter(model.net, {"adaptive": policy}, config)
    dense = Segmenter(model.net, UNTRAINED, config.updated({"mode": "dense"}))
    features, counts = [], []
    for sample in islice(open_source(street), FRAMES):
        shown = segmenter.step(sample.frame)
        truth, best = sample.labels, dense.step(sample.frame).labels
        known = policy.known
        if known is None or truth is None:
            continue
        worse = ((shown.labels != truth) & (truth != IGNORE_LABEL)).astype(np.float64)
        worse -= (best != truth) & (truth != IGNORE_LABEL)
        harm = 1000 * block_mean(worse, config.block_side(worse.shape))
        reused = shown.plan.grid == Action.REUSE
        parts = (known.distortion, np.maximum(known.doubt, LEAST_DOUBT), known.age_ms)
        features.append(np.log(np.maximum(LEAST, np.stack([part[reused] for part in parts], 1))))
        counts.append(np.maximum(0, harm[reused]))
    return np.concatenate(features), np.concatenate(counts)


def fit(features: NDArray[np.float64], counts: NDArray[np.float64]) -> ValueWeights:
    """Return the exponents under which the counts are most likely, as those of Poisson."""
    x = torch.from_numpy(np.concatenate((features, np.ones((len(features), 1))), 1))
    y = torch.from_numpy(counts)
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        rate = x @ weights
        value: Tensor = (rate.exp() - y * rate).mean()
        value.backward()  # type: ignore[no-untyped-call]  # torch's own
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch's own
    distortion, doubt, age, _ = (round(float(w), 3) for w in weights)
    return ValueWeights(distortion, doubt, age)


def score(model: Model, data: str, weights: ValueWeights, compute: float) -> dict[str, Any]:
    """Return mIoU of mode adaptive on the clip, pooled over some starts, and of each of them."""
    config = Config(device="cpu", mode="adaptive").updated({"budget.compute": compute})
    pairs = [(sample.frame, sample.labels) for sample in open_source(data, split="val")]
    pooled, each = ConfusionMatrix(len(model.manifest.classes)), []
    for start in STARTS:
        segmenter = Segmenter(model.net, {"adaptive": Budgeted(weights)}, config)
        own = ConfusionMatrix(len(model.manifest.classes))
        for index, (frame, truth) in enumerate(pairs[start:], start):
            labels = segmenter.step(frame).labels
            if index >= FROM and truth is not None:
                pooled.update(truth, labels)
                own.update(truth, labels)
        each.append(own.dataset_miou())
    return {"weights": vars(weights), "miou": pooled.dataset_miou(), "miou_of_starts": each}


def main() -> None:
    """Fit, score, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--model", default=Config().model)
    parser.add_argument("--compute", type=float, default=0.15)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    collected = [harms(model, street) for street in STREETS]
    features, counts = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    fitted = fit(features, counts)
    tried = {"fitted": fitted} | {f"hand {w}": ValueWeights(*w) for w in VARIATIONS}
    content: dict[str, Any] = {
        "command": f"python benchmarks/value_weights.py camvid:DIR --model {args.model}",
        "model": args.model,
        "blocks": len(counts),
        "harmed": float((counts > 0).mean()),
        "compute": args.compute,
        "versions": versions(),
        "scores": {},
    }
    for name, weights in tried.items():
        content["scores"][name] = score(model, args.data, weights, args.compute)
        print(name, content["scores"][name], flush=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
