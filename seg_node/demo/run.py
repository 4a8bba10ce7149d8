"""The course of a demo: start the node, play the clip, stop the node, write and judge.

Times: on the wire a frame is stamped with the wall clock when it is published, as by a camera, so
that latencies can be measured and the node's health is judged as on a robot. In the result bag
every mask has the source's own stamp again, so that it lies over the source in a viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib.util
from itertools import islice
import logging
import math
import os
from typing import TYPE_CHECKING

from seg_node.core.config import Config, options
from seg_node.core.types import DataError, SegNodeError
from seg_node.data.datasets import estimate_rate, guess_spec, open_source
from seg_node.demo.clip import (
    await_node,
    drain,
    InterruptedDemoError,
    plan_clip,
    play,
    REHEARSALS,
    rehearse,
)
from seg_node.demo.process import NodeProcess
from seg_node.demo.report import Played, summary, write_report
from seg_node.eval.outputs import prepare_out, RESULTS
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.replay import source_path
from seg_node.eval.results import write_json
from seg_node.nets.manifest import find_manifest
from seg_node.ros.domain import private_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from seg_node.core.config import Value
    from seg_node.data.datasets import Sample, Source
    from seg_node.eval.progress import Interrupt
    from seg_node.nets.manifest import Manifest

COMMAND = "demo"
DEMO_SETTINGS: dict[str, Value] = {"input.stale_s": 5.0, "overload": "every"}
"""What differs from the node's defaults unless the user says otherwise: a slow machine plays an
image every two seconds; and at a rate that the node keeps up with, a short pause of a busy
machine costs latency instead of frames, so that what is missing was lost on the way."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """What the user may ask of a demo.

    Attributes:
        source: named data, or a path whose kind is guessed.
        out: folder to write into.
        seconds: length of the clip.
        rate_hz: frames per second; None for as fast as this machine keeps up with.
        topic: image topic of a bag; None where it has only one.
        settings: settings of the node by dotted name, such as `model` or `input.scale`; without
            `input.scale` large images are scaled to about the size that the model was trained on.

    """

    source: str
    out: Path
    seconds: float = 12.0
    rate_hz: float | None = None
    topic: str | None = None
    settings: Mapping[str, Value] | None = None


def run_demo(wishes: Wishes) -> int:
    """Do `seg_node demo`.

    Returns:
        Exit status: 0 if at least 90% of the frames came back as masks, none was empty and the
        node ended well; 1 if not; 130 after Ctrl-C.

    Raises:
        SegNodeError: no ROS here, unusable data or model, foreign output folder, or the node
            died or never answered.

    """
    _check_wishes(wishes)
    source = open_source(guess_spec(wishes.source), topic=wishes.topic)
    first = next(iter(source), None)
    if first is None:
        msg = (
            f"no image of {source.spec} can be used: {dict(source.skipped) or source.shortfall()}"
        )
        raise DataError(msg)
    config = Config().updated({**DEMO_SETTINGS, **(wishes.settings or {})})
    manifest, _ = find_manifest(config.model)
    if "input.scale" not in (wishes.settings or {}):
        config = config.updated({"input.scale": fitting_scale(first, manifest)})
    prepare_out(wishes.out, COMMAND, source_path(source))
    with noted_interrupt() as interrupt:
        try:
            played = _perform(wishes, source, config, manifest, interrupt)
        except InterruptedDemoError:
            logger.info("interrupted before the clip was played; the node's log is kept")
            return EXIT_INTERRUPTED
        except SegNodeError as error:
            failed = {"command": COMMAND, "interrupted": False, "error": str(error)}
            write_json(failed, wishes.out / RESULTS)
            raise
        results = write_report(wishes.out, source, played)
    logger.info("%s", summary(results, wishes.out))
    if interrupt:
        return EXIT_INTERRUPTED
    return 1 if results["demo"]["problems"] else 0


def _check_wishes(wishes: Wishes) -> None:
    if importlib.util.find_spec("rclpy") is None:
        msg = (
            "the demo runs a real ROS 2 node, and this Python has no rclpy: run it as 'make demo' "
            "(which installs ROS from the package index), or source /opt/ros/<distro>/setup.bash "
            "first; 'seg_node replay' needs no ROS"
        )
        raise SegNodeError(msg)
    for name, value in (("--seconds", wishes.seconds), ("--rate", wishes.rate_hz)):
        if value is not None and not (math.isfinite(value) and 0 < value <= 1000):  # noqa: PLR2004
            msg = f"{name} is {value}: use a number above 0, at most 1000"
            raise SegNodeError(msg)


def fitting_scale(sample: Sample, manifest: Manifest) -> float:
    """Return the `input.scale` that gives the network about as many pixels as in training.

    Never more than 1; two decimals, so that the setting can be read and copied.
    """
    height, width = sample.frame.image.shape[:2]
    wide, high = manifest.training_size
    scale = math.sqrt(wide * high / (width * height))
    return min(1.0, max(0.05, round(scale, 2)))


def _perform(
    wishes: Wishes,
    source: Source,
    config: Config,
    manifest: Manifest,
    interrupt: Interrupt,
) -> Played:
    """Start the node, play, and stop the node."""
    # Both processes read these when ROS starts in them.
    os.environ.update(private_environment(os.environ, os.getpid()))
    from seg_node.ros.playback import middleware, Playback  # noqa: PLC0415 - after the environment

    log = wishes.out / "node.log"
    logger.info("starting the node (log: %s)", log)
    with NodeProcess(node_parameters(config), log, os.environ) as node, Playback() as playback:

        def check() -> None:
            node.check()
            if interrupt:
                raise InterruptedDemoError

        await_node(playback, check)
        trip_s = rehearse(playback, list(islice(source, 1 + REHEARSALS)), check)
        source_hz = estimate_rate(source)
        clip = plan_clip(source_hz, len(source), trip_s, wishes.seconds, wishes.rate_hz)
        for note in clip.notes:
            logger.info("%s", note)
        with progress("demo", min(clip.count, -(-len(source) // clip.stride))) as show:
            sent = play(playback, clip.samples(source), clip.rate_hz, check, show)
        drain(playback, sent, trip_s, check)
        playback.close()
        status = node.stop()
    return Played(
        config=config,
        manifest=manifest,
        clip=clip,
        source_hz=source_hz,
        sent=tuple(sent),
        masks=playback.masks,
        stats=playback.stats,
        plans=playback.plans,
        ages=playback.ages,
        diagnostics=playback.diagnostics,
        worst=playback.worst,
        node_status=status,
        node_command=tuple(node.command),
        middleware=middleware(),
        interrupted=bool(interrupt),
    )


def node_parameters(config: Config) -> dict[str, Value]:
    """Return the ROS parameters that differ from the defaults, by name."""
    defaults = {option.name: option.value for option in options(Config())}
    return {o.name: o.value for o in options(config) if o.value != defaults[o.name]}
