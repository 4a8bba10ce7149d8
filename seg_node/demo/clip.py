"""Chooses what of a source a demo plays and how fast, and plays it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
import math
import time
from typing import TYPE_CHECKING

from seg_node.core.types import SegNodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seg_node.data.datasets import Sample, Source
    from seg_node.ros.playback import Playback

LOAD = 0.6
"""Share of the node's time that an automatic rate fills."""
SLACK = 0.01
"""A rate this share too fast is not worth leaving out more frames."""
LOWEST_RATE_HZ = 0.5
REHEARSALS = 5
"""Frames that are timed before the clip starts, after a first one, which is computed in full."""
START_S = 180.0
"""Seconds that the node has to start, and then to answer the first frame."""
RESEND_S = 10.0
"""Without an answer for this long, a rehearsal frame is sent again."""
POLL_S = 0.01
QUIET_S = 3.0
"""At the end, wait this long at least for masks that are under way."""


class InterruptedDemoError(SegNodeError):
    """Ctrl-C was pressed before the clip was played."""


@dataclass(frozen=True)
class Clip:
    """What is played of a source.

    Attributes:
        rate_hz: frames per second on the wire.
        stride: every how many frames of the source one is played.
        count: most frames to play.
        notes: how it differs from the source, one sentence each.

    """

    rate_hz: float
    stride: int
    count: int
    notes: tuple[str, ...]

    def samples(self, source: Source) -> Iterator[Sample]:
        """Yield the frames to play; every pass over the source yields the same."""
        return islice(source.every(self.stride), self.count)


def plan_clip(
    source_hz: float, length: int, trip_s: float, seconds: float, rate_hz: float | None
) -> Clip:
    """Choose rate, stride and length of a clip, so that it plays in about real time.

    Args:
        source_hz: frames per second of the source.
        length: frames of the source, 0 if unknown.
        trip_s: seconds from the sending of an image to its mask.
        seconds: length of the clip.
        rate_hz: rate that the user wants; None for one that this machine keeps up with.

    """
    notes = []
    if rate_hz is None:
        sustainable = max(LOWEST_RATE_HZ, LOAD / trip_s)
        stride = max(1, math.ceil(source_hz / sustainable - SLACK))
        rate_hz = max(LOWEST_RATE_HZ, source_hz / stride)
        if stride > 1:
            notes.append(
                f"a frame takes {trip_s * 1e3:.0f} ms here, so one in {stride} of the source's "
                f"{source_hz:.4g} frames/s is played: {rate_hz:.3g} Hz"
            )
    else:
        stride = max(1, round(source_hz / rate_hz))
    count = max(1, math.ceil(seconds * rate_hz))
    if not length or length > count * stride:
        whole = f" of its {length / source_hz:.0f} s" if length else ""
        notes.append(f"{count * stride / source_hz:.0f} s{whole} are played (--seconds)")
    return Clip(rate_hz, stride, count, tuple(notes))


@dataclass(frozen=True)
class Sent:
    """One published frame.

    Attributes:
        index: place in the clip.
        stamp_ns: its header stamp on the wire, the wall clock at publication.

    """

    index: int
    stamp_ns: int


def await_node(playback: Playback, check: Callable[[], None]) -> None:
    """Wait until the node is active: subscribed to us, and we to it.

    Args:
        playback: camera and recorder.
        check: called again and again; raises to end the wait.

    Raises:
        SegNodeError: nothing in three minutes.

    """
    if not _wait(lambda: playback.matched and bool(playback.legend), START_S, check):
        msg = f"the node runs but was not active within {START_S:.0f} s"
        raise SegNodeError(msg)


def rehearse(playback: Playback, samples: Sequence[Sample], check: Callable[[], None]) -> float:
    """Send the first frames of a clip one by one; returns the longest time to a mask, in seconds.

    The longest, not the middle one: a rate that is kept only half of the time loses frames. Frames
    that differ, because one that is sent again costs nothing in a mode that reuses results.

    Args:
        playback: camera and recorder.
        samples: at least one; taken in turns where they are less than needed.
        check: called again and again; raises to end the rehearsal.

    Raises:
        SegNodeError: the node does not answer.

    """
    shown = islice(cycle(samples), 1 + REHEARSALS)
    times_s = [_round_trip(playback, sample, check) for sample in shown]
    playback.forget()
    return max(times_s[1:])


def _round_trip(playback: Playback, sample: Sample, check: Callable[[], None]) -> float:
    end_s = time.monotonic() + START_S
    stamps: list[int] = []
    while time.monotonic() < end_s:
        stamps.append(playback.send(sample.frame.image, sample.frame.frame_id))
        if _wait(lambda: any(x in playback.masks for x in stamps), RESEND_S, check):
            stamp_ns = next(x for x in stamps if x in playback.masks)
            return (playback.masks[stamp_ns].received_ns - stamp_ns) / 1e9
    msg = f"the node is active, but no mask came within {START_S:.0f} s; see its log"
    raise SegNodeError(msg)


def play(
    playback: Playback,
    samples: Iterator[Sample],
    rate_hz: float,
    check: Callable[[], None],
    show: Callable[[int], None],
) -> list[Sent]:
    """Publish the samples at a steady rate; a late one shifts the rest, nothing is rushed.

    Args:
        playback: camera and recorder.
        samples: the frames.
        rate_hz: frames per second.
        check: called for every frame; raises `InterruptedDemoError` to end the clip here.
        show: told how many are played.

    """
    sent: list[Sent] = []
    due_s = time.monotonic()
    for index, sample in enumerate(samples):
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            check()
        except InterruptedDemoError:
            break
        frame = sample.frame
        sent.append(Sent(index, playback.send(frame.image, frame.frame_id)))
        due_s = max(due_s, time.monotonic() - 0.5 / rate_hz) + 1.0 / rate_hz
        show(len(sent))
    return sent


def drain(playback: Playback, sent: list[Sent], trip_s: float, check: Callable[[], None]) -> None:
    """Wait for what is under way, until all of it is here or none can still come."""
    wanted = {x.stamp_ns for x in sent}
    limit_s = max(QUIET_S, 5 * trip_s)
    recorded = (playback.masks, playback.stats, playback.plans, playback.ages)
    with suppress(InterruptedDemoError):
        _wait(lambda: all(wanted <= each.keys() for each in recorded), limit_s, check)


def _wait(condition: Callable[[], bool], limit_s: float, check: Callable[[], None]) -> bool:
    """Return whether the condition came true in time, asking `check` all along."""
    end_s = time.monotonic() + limit_s
    while not condition():
        check()
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True
