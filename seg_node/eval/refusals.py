"""What a replay refuses before it begins, one sentence each: recordings that settle nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.stamps import StampCheck
from seg_node.core.types import DataError
from seg_node.data.bag_clip import BagClip

if TYPE_CHECKING:
    from seg_node.core.types import Frame
    from seg_node.data.sources import Source

FATAL = frozenset({"zero", "negative", "back"})
"""Problems of a stamp, as `StampCheck` counts them, that no replay can put right."""


def check_recording(source: Source) -> None:
    """Refuse a recording without times, or of a single picture.

    Only stamps that were recorded are looked at; those of pictures and videos are made up or of
    the container.

    Raises:
        DataError: a header stamp is missing or lies before the one before it, no picture can be
            used, or all are alike.

    """
    _check_stamps(source)
    check_pictures(source)


def _check_stamps(source: Source) -> None:
    if not isinstance(source, BagClip):
        return
    stamps = StampCheck()
    for frame in source.frames():
        problem = stamps.update(frame.stamp_ns)
        if FATAL & stamps.counts.keys():
            msg = (
                f"{source.spec}, frame {frame.name} on {source.topic.name}: {problem}, so there "
                "is no time to replay it by; have the driver stamp every image, and record again"
            )
            raise DataError(msg)


def check_pictures(source: Source) -> None:
    """Refuse a recording of a single picture; decodes up to the second different one.

    Raises:
        DataError: no picture can be used, or all are alike.

    """
    first: Frame | None = None
    count = 0
    for sample in source:
        count += 1
        if first is None:
            first = sample.frame
        elif not np.array_equal(first.image, sample.frame.image):
            return
    if first is None:
        raise DataError(nothing_usable(source))
    what = "holds a single picture" if count == 1 else f"shows one picture {count} times"
    msg = (
        f"{source.spec} {what}: modes that reuse the past would seem free on it; give a "
        "recording with at least two different frames"
    )
    raise DataError(msg)


def nothing_usable(source: Source) -> str:
    """Return why a whole pass over a source gave no image."""
    reasons = "; ".join(f"{count} x {text}" for text, count in source.skipped.items())
    return f"no image of {source.spec} can be used: {reasons or source.shortfall() or 'none came'}"
