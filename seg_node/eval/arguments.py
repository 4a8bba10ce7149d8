"""The options of `seg_node replay`; imports nothing heavy, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from seg_node.core.config import Config
    from seg_node.eval.replay_command import Request


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that no other verb has."""
    parser.add_argument("data", help="bag, video, folder or named data such as street:1")
    parser.add_argument("--topic", help="image topic of a bag (default: the obvious one)")
    parser.add_argument("--mask-topic", help="topic of a bag with the masks of these images")
    parser.add_argument(
        "--clock",
        choices=("every-frame", "virtual", "live"),
        default="every-frame",
        help="every-frame: each in its turn, repeatable; virtual: frames arrive at their stamps "
        "in simulated time; live: the real node over DDS (default: every-frame)",
    )
    parser.add_argument(
        "--costs",
        type=Path,
        metavar="FILE",
        help="costs.json of an earlier replay: what steps cost in --clock virtual",
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="WHAT",
        help="what to compare with: dense (run beside) or labels:DIR; may be repeated",
    )
    parser.add_argument(
        "--tolerance-ms",
        type=float,
        help="most time between a label of --reference labels:DIR and its frame (default: 5)",
    )
    parser.add_argument(
        "--require",
        metavar="RULES",
        help="such as 'miou_drop<=1.0,p95_ms<=33'; exit status 1 if one is broken",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD",
        help="results.json of an earlier run: tell what got better or worse since",
    )
    parser.add_argument("--samples", type=int, default=8, help="pictures to write")
    parser.add_argument("--limit", type=int, help="stop after so many frames")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what Ctrl-C has left in --out"
    )


def replay_request(args: argparse.Namespace, config: Config, modes: tuple[str, ...]) -> Request:
    """Return what the parsed options ask for.

    Raises:
        ConfigError: options do not go together, or one has a value that it may not have.

    """
    from seg_node.eval.reference import parse_reference  # noqa: PLC0415 - loads torch
    from seg_node.eval.replay import Extent  # noqa: PLC0415 - loads torch
    from seg_node.eval.replay_command import Request  # noqa: PLC0415 - loads torch
    from seg_node.eval.require import parse_rules  # noqa: PLC0415 - loads torch

    return Request(
        data=args.data,
        config=config,
        out=args.out,
        modes=modes,
        topic=args.topic,
        mask_topic=args.mask_topic,
        clock=args.clock,
        costs=args.costs,
        reference=parse_reference(args.reference, args.tolerance_ms),
        extent=Extent(args.samples, args.limit),
        resume=args.resume,
        rules=parse_rules(args.require) if args.require is not None else (),
        compare_with=args.compare,
    )
