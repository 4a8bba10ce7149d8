"""What gates of residual blocks could save inside the blocks that mode adaptive computes.

    PYTHONPATH=. python benchmarks/gates_in_adaptive.py camvid:DIR \
        --json benchmarks/results/gates_in_adaptive.json

Mode adaptive runs as it is; of each block that it computes, beyond full frames, the untrained gate
of mode stmg is asked what it thinks of it. What a gate drops at most is the residual blocks' share
of the MACs. The gate sees adaptive's distortion, of the colour that changed most; in mode stmg it
sees that of the grey picture, which is less, so there it would drop more.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
from torch import nn

from seg_node.core.blocks import scaled
from seg_node.core.budgeted import Budgeted
from seg_node.core.config import Config
from seg_node.core.costs import dense_macs
from seg_node.core.gate import DistortionGate
from seg_node.core.policy import GatePast, NOTHING, Past
from seg_node.core.residual import find_residual_blocks
from seg_node.core.types import Action
from seg_node.data.datasets import open_source
from seg_node.eval.results import versions
from seg_node.eval.session import build_session, open_model
from seg_node.nets.resnet import BasicBlock

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.types import Plan

BUDGETS = (0.1, 0.15, 0.3)
THRESHOLDS = (0.4, 0.5, 0.6)
"""Of the gate; docs/gates.md says what mode stmg loses at these."""


class Watched(Budgeted):
    """Mode adaptive's policy, which keeps the gate's score of each block that it chooses."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        super().__init__()
        self.scores: list[float] = []
        self._gate = DistortionGate()

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the plan."""
        plan = super().plan(image, config, past)
        if past.blocks is not None and not (plan.grid == Action.HIGH).all():
            known = past.blocks
            seen = GatePast(known.distortion[None], known.oldest_ms[None], known.doubt)
            (scores,) = self._gate(seen, config)
            self.scores += scores[plan.grid == Action.HIGH].tolist()
        return plan


def residual_share(net: nn.Module, height: int, width: int) -> float:
    """Return the part of the dense MACs that lies in branches of residual blocks."""
    inside = 0
    for block in find_residual_blocks(net):
        module = block.module
        assert isinstance(module, BasicBlock)
        pixels = math.prod(scaled((height, width), block.stride))
        branch = (*module.conv1.modules(), *module.conv2.modules())
        inside += pixels * sum(m.weight.numel() for m in branch if isinstance(m, nn.Conv2d))
    return inside / dense_macs(net, height, width)


def main() -> None:
    """Run the clip for each budget, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    config = Config(device="cpu").updated({"mode": "adaptive"})
    model = open_model(config)
    frames = [sample.frame for sample in open_source(args.data, split="val")]
    height, width = frames[0].image.shape[:2]
    share = residual_share(model.net, height, width)
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        policy = Watched()
        settings = config.updated({"budget.compute": budget})
        segmenter = build_session(model, settings, {"adaptive": policy}).segmenter
        for frame in frames:
            segmenter.step(frame)
        scores = np.array(policy.scores)
        dropped = {str(t): float((scores < t).mean()) for t in THRESHOLDS}
        rows.append({"budget.compute": budget, "blocks": len(scores), "dropped": dropped})
        told = ", ".join(f"{t}: {part:.3f}" for t, part in dropped.items())
        print(f"budget {budget}: {len(scores)} blocks computed, dropped by the gate at {told}")
    print(f"residual blocks: {share:.3f} of the MACs")
    found = {"model": config.model, "residual_share": share, "budgets": rows,
             "versions": versions()}  # fmt: skip
    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
