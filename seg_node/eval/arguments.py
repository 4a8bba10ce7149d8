"""The options of `seg_node replay`; imports nothing heavy, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from seg_node.core.config import Config, Value
    from seg_node.eval.fleet import Fleet
    from seg_node.eval.replay_command import Request
    from seg_node.eval.sweep import Axis

RETRIES = 2
"""How often a recording of several is begun again where nobody says it."""


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that no other verb has."""
    parser.add_argument(
        "data",
        nargs="+",
        help="bag, video, folder or named data such as street:1; several, or a glob of them, are "
        "replayed side by side into one report",
    )
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
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="replay with each of these values of a setting, without pictures; of several, with "
        "every combination",
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
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="of several recordings, replay so many at a time (default: one for every four cores)",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler, such as tcp://host:8786, whose workers replay several recordings",
    )
    parser.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="begin a recording so many times again whose worker has died (default: 2)",
    )


def replay_axes(
    args: argparse.Namespace, setting: Callable[[str, str], tuple[str, Value]]
) -> tuple[Axis, ...]:
    """Return what --sweep varies.

    Args:
        args: the parsed options.
        setting: reads NAME=VALUE; its second argument is the option, for errors.

    Raises:
        ConfigError: there is no such setting, or a value is not of its type.

    """
    from seg_node.eval.sweep import Axis  # noqa: PLC0415 - loads torch

    axes = []
    for text in args.sweep:
        name, _, values = text.partition("=")
        pairs = [setting(f"{name}={value}", "--sweep") for value in values.split(",")]
        axes.append(Axis(name, tuple(value for _, value in pairs)))
    return tuple(axes)


def replay_request(
    args: argparse.Namespace,
    recordings: tuple[str, ...],
    config: Config,
    modes: tuple[str, ...],
) -> Request:
    """Return what the parsed options ask of the first of the recordings.

    Raises:
        ConfigError: options do not go together, or one has a value that it may not have.

    """
    from seg_node.eval.reference import parse_reference  # noqa: PLC0415 - loads torch
    from seg_node.eval.replay import Extent  # noqa: PLC0415 - loads torch
    from seg_node.eval.replay_command import Request  # noqa: PLC0415 - loads torch
    from seg_node.eval.require import parse_rules  # noqa: PLC0415 - loads torch

    return Request(
        data=recordings[0],
        config=config,
        out=args.out,
        modes=modes,
        topic=args.topic,
        mask_topic=args.mask_topic,
        clock=args.clock,
        costs=args.costs,
        reference=parse_reference(args.reference, args.tolerance_ms),
        extent=Extent(args.samples, args.limit),
        resume=args.resume and not _together(args, recordings),
        rules=parse_rules(args.require) if args.require is not None else (),
        compare_with=args.compare,
    )


def replay_fleet(
    args: argparse.Namespace, recordings: tuple[str, ...], request: Request
) -> Fleet | None:
    """Return what the parsed options ask of several recordings; None where it is a single one.

    Args:
        args: the parsed options.
        recordings: all that were named, see `find_recordings`.
        request: what is asked of each.

    Raises:
        ConfigError: an option is for a single recording alone, or a number is out of range.

    """
    from seg_node.eval.fleet import Fleet  # noqa: PLC0415 - loads torch

    if not _together(args, recordings):
        return None
    if args.sweep:
        msg = "--sweep takes one recording: sweep one, then replay all with what it has shown"
        raise ConfigError(msg)
    return Fleet(
        recordings,
        request,
        workers=args.workers,
        scheduler=args.scheduler,
        retries=RETRIES if args.retries is None else args.retries,
        resume=args.resume,
    )


def _together(args: argparse.Namespace, recordings: tuple[str, ...]) -> bool:
    """Return whether it is a fleet: several recordings, or an option that is for one alone."""
    asked = (args.workers, args.scheduler, args.retries)
    return len(recordings) > 1 or any(option is not None for option in asked)
