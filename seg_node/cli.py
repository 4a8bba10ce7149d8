"""The `seg_node` command: one sub-command per verb, each a thin wrapper."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from seg_node.core.types import SegNodeError

if TYPE_CHECKING:
    from collections.abc import Sequence


def train(args: argparse.Namespace) -> int:
    """Train a network from scratch; running the command again continues it."""
    import torch

    from seg_node.data.datasets import open_source
    from seg_node.nets.build import build_network
    from seg_node.train.segmenter import SegmentTrainer, SegmentTraining

    samples = list(open_source(args.data, split="train"))
    torch.manual_seed(args.seed)
    net = build_network(args.model, 11)
    config = SegmentTraining(steps=args.steps, seed=args.seed)
    SegmentTrainer(net, samples, config, args.out).run()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="seg_node")
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("train")
    p.add_argument("task", choices=["segment"])
    p.add_argument("--data", required=True)
    p.add_argument("--model", default="swiftnet18-half")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(run=train)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
