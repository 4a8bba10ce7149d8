"""Plays a recording through the real node over DDS, in real time: `seg_node replay --clock live`.

The node runs in a process of its own, in a DDS domain of its own. Every frame is sent when its
header stamp says, counted from the first one; the times from sending to the arrival of the mask
include all transport. What the node left out is known by the masks that never came.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib.util
from itertools import islice
import logging
import os
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.types import ConfigError, Plan, Reason, SegNodeError, StepReport, StepResult
from seg_node.demo.clip import (
    await_node,
    drain,
    InterruptedDemoError,
    REHEARSALS,
    rehearse,
    Sent,
)
from seg_node.demo.process import NodeProcess
from seg_node.demo.run import node_parameters
from seg_node.eval.clocks import LIVE, Turn
from seg_node.eval.progress import noted_interrupt
from seg_node.eval.replay import follow, summary
from seg_node.eval.replay_command import open_recording, Request, tell
from seg_node.eval.session import open_model, sessions_of
from seg_node.eval.virtual import Arrival, Outcome
from seg_node.ros.domain import private_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.data.sources import Sample, Source
    from seg_node.eval.session import Session
    from seg_node.ros.playback import Playback
    from seg_node.ros.recorded import RecordedMask, RecordedStatus

NS_PER_MS = 1e6
LATE_MS = 5.0
"""Delay of the player itself from which on it is told: the machine cannot play the recording."""
_NOT_STAGES = frozenset({"age_mean", "age_max", "step", "predicted"})
"""Keys of ~/stats that end in `_ms` and are no stage of a step."""
_REASONS = {reason.value: reason for reason in Reason}

logger = logging.getLogger(__name__)


def run_live(request: Request) -> int:
    """Do `seg_node replay DATA --clock live`.

    Returns:
        Exit status: 0, 1 if a rule was broken, or 130 after Ctrl-C.

    Raises:
        SegNodeError: no ROS here, several modes, unusable data or model, or the node died.

    """
    modes = request.modes or (request.config.mode,)
    if len(modes) > 1 or request.reference.dense:
        msg = "--clock live runs one mode on one node: give a single --mode and no dense reference"
        raise ConfigError(msg)
    if importlib.util.find_spec("rclpy") is None:
        msg = (
            "--clock live runs a real ROS 2 node, and this Python has no rclpy: source "
            "/opt/ros/<distro>/setup.bash first, or use --clock virtual, which needs no ROS"
        )
        raise SegNodeError(msg)
    config = request.config.updated({"mode": modes[0]})
    source = open_recording(request)
    sessions = sessions_of(open_model(config), config, modes)
    course = LiveCourse(source, sessions, request.out / "node.log")
    results = follow(source, course, request.out, request.extent, rules=request.rules)
    logger.info("%s", summary(results, request.out))
    return tell(results)


@dataclass(frozen=True)
class Heard:
    """What the node said of the frames, by their stamps on the wire.

    Attributes:
        sent: the frames that were played.
        masks: masks that came back.
        stats: statistics.
        plans: grids of actions, uint8 [gh, gw].
        ages: ages of the blocks in ms, uint16 [gh, gw].

    """

    sent: Sequence[Sent]
    masks: Mapping[int, RecordedMask]
    stats: Mapping[int, RecordedStatus]
    plans: Mapping[int, NDArray[np.uint8]]
    ages: Mapping[int, NDArray[np.uint16]]

    def whole(self, stamp_ns: int) -> bool:
        """Return whether all of a frame's outputs came."""
        parts = (self.masks, self.stats, self.plans, self.ages)
        return all(stamp_ns in part for part in parts)


class LiveCourse:
    """Plays the frames to a node of its own; see `eval.clocks.Course`.

    Args:
        source: the frames, which are read a second time after they were played.
        sessions: model and settings of the one mode.
        log: file for what the node says.

    Attributes:
        interrupted: whether Ctrl-C has ended the playing; what was played is complete.

    """

    clock = LIVE

    def __init__(self, source: Source, sessions: Mapping[str, Session], log: Path) -> None:
        """Take the parts; the node starts with the first turn."""
        self.sessions = sessions
        self.interrupted = False
        self._source = source
        self._log = log

    def turns(self, samples: Iterable[Sample], done: int = 0) -> Iterator[Turn]:
        """Play all frames, then yield what became of each."""
        assert not done, "real time begins at the first frame"
        ((mode, session),) = self.sessions.items()
        with noted_interrupt() as interrupt:
            heard = self._play(samples, session, lambda: bool(interrupt))
        self.interrupted = bool(interrupt)
        beyond_ns, dense_macs = overhead_ns(heard), _dense_macs(heard)
        standing: NDArray[np.uint8] | None = None
        for sent, sample in zip(heard.sent, islice(self._source, len(heard.sent)), strict=True):
            arrival, stamp_ns = Arrival(sent.index, sample), sent.stamp_ns
            if heard.whole(stamp_ns):
                result = _result(heard, stamp_ns, dense_macs)
                standing = result.labels
                late_ns = heard.masks[stamp_ns].received_ns - stamp_ns
                outcome = Outcome(arrival, result, late_ns, overhead_ns=beyond_ns)
            else:
                outcome = Outcome(arrival, None, standing=standing)
            yield Turn(sample, [(mode, outcome)])

    def _play(
        self, samples: Iterable[Sample], session: Session, pressed: Callable[[], bool]
    ) -> Heard:
        """Start the node, play, and stop the node."""
        # Both processes read these when ROS starts in them.
        os.environ.update(private_environment(os.environ, os.getpid()))
        from seg_node.ros.playback import Playback  # noqa: PLC0415 - after the environment

        logger.info("starting the node (log: %s)", self._log)
        parameters = node_parameters(session.config)
        with NodeProcess(parameters, self._log, os.environ) as node, Playback() as playback:

            def check() -> None:
                node.check()
                if pressed():
                    raise InterruptedDemoError

            sent: list[Sent] = []
            try:
                await_node(playback, check)
                trip_s = rehearse(playback, list(islice(self._source, 1 + REHEARSALS)), check)
                logger.info("playing %s in real time", self._source.spec)
                sent = play_by_stamps(playback, samples, check)
                drain(playback, sent, trip_s, check)
            except InterruptedDemoError:
                logger.info("interrupted before the recording was played")
            playback.close()
            status = node.stop()
        if status:
            logger.warning("the node ended with exit status %d after SIGINT, see its log", status)
        return Heard(sent, playback.masks, playback.stats, playback.plans, playback.ages)


def play_by_stamps(
    playback: Playback, samples: Iterable[Sample], check: Callable[[], None]
) -> list[Sent]:
    """Send every frame at the time that its stamp says, counted from the first one.

    Args:
        playback: camera and recorder.
        samples: the frames, in time order.
        check: called for every frame; raises `InterruptedDemoError` to end here.

    """
    sent: list[Sent] = []
    began_s, worst_s = 0.0, 0.0
    first_ns = 0
    for index, sample in enumerate(samples):
        frame = sample.frame
        if not sent:
            began_s, first_ns = time.monotonic(), frame.stamp_ns
        due_s = began_s + (frame.stamp_ns - first_ns) / 1e9
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            check()
        except InterruptedDemoError:
            break
        worst_s = max(worst_s, time.monotonic() - due_s)
        sent.append(Sent(index, playback.send(frame.image, frame.frame_id)))
    if worst_s * 1e3 > LATE_MS:
        logger.warning("this machine sent frames up to %.0f ms late", worst_s * 1e3)
    return sent


def overhead_ns(heard: Heard) -> int | None:
    """Return what the node needed for a frame beyond its step, on the mean; None if unknown.

    Known of a frame that was on its way before the mask before it had come, so that the node went
    from one to the other without a pause: then it is the time between the two masks, less the
    step. The mean, because masks arrive with a jitter: what one lacks the next one has too much.
    """
    beyond: list[int] = []
    before_ns: int | None = None
    for sent in heard.sent:
        if not heard.whole(sent.stamp_ns):
            continue
        received_ns = heard.masks[sent.stamp_ns].received_ns
        if before_ns is not None and sent.stamp_ns < before_ns:
            beyond.append(received_ns - before_ns - _step_ns(heard.stats[sent.stamp_ns]))
        before_ns = received_ns
    return max(0, round(np.mean(beyond))) if beyond else None


def _step_ns(status: RecordedStatus) -> int:
    return round(float(status.values["step_ms"]) * NS_PER_MS)


def _dense_macs(heard: Heard) -> int:
    """Return what the dense network executes on a frame; 1 if no frame tells it.

    ~/stats has the MACs of a frame to 1e6 and the share of dense that they save, which says
    nothing of dense where nothing was computed.
    """
    told = [
        (float(s.values["gmac"]), float(s.values["gmac_saving"])) for s in heard.stats.values()
    ]
    return max([1, *(round(1e9 * gmac / (1 - saving)) for gmac, saving in told if saving < 1)])


def _result(heard: Heard, stamp_ns: int, dense_macs: int) -> StepResult:
    """Return a frame's result as the node has told it; its confidence is not published to us."""
    values: Mapping[str, Any] = heard.stats[stamp_ns].values
    stages = {
        key.removesuffix("_ms"): round(float(text) * NS_PER_MS)
        for key, text in values.items()
        if key.endswith("_ms") and key.removesuffix("_ms") not in _NOT_STAGES
    }
    macs = round(dense_macs * (1.0 - float(values["gmac_saving"])))
    report = StepReport(stages, _step_ns(heard.stats[stamp_ns]), macs, dense_macs)
    plan = Plan(heard.plans[stamp_ns], _REASONS[values["reason"]])
    labels = heard.masks[stamp_ns].labels()
    nothing = np.zeros((0, 0), np.uint8)
    return StepResult(labels, nothing, plan, heard.ages[stamp_ns], report)
