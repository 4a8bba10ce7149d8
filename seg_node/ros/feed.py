"""One camera's way from messages to frames, from activate to deactivate.

Pictures that wait may be dropped for a newer one. The packets of a video may not, since each
depends on those before it: all that wait are decoded, and the newest of their frames goes on.
"""

from __future__ import annotations

from dataclasses import replace
import time
from typing import Any, NamedTuple, TYPE_CHECKING

from seg_node.core.motion import compose
from seg_node.core.stamps import StampCheck
from seg_node.core.types import ImageError
from seg_node.data.image_conversion import message_to_frame
from seg_node.ros.inputs import is_video, VideoInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.intake import Intake
    from seg_node.core.types import Frame, Motion
    from seg_node.data.converters import Converter
    from seg_node.ros.diagnostics import Health
    from seg_node.ros.outputs import Outputs

MAX_COMPOSED = 8
"""Most motions that are joined into one; over more overtaken frames, estimating it anew is better
and costs less."""


class Arrived(NamedTuple):
    """An image message, and the steady time at which it came."""

    message: Any
    now_ns: int


class Feed:
    """What comes from one camera, and where its results go.

    Everything here belongs to one activation, so that an activation never sees the frames, stamps
    or decoders of the one before; and to one camera, so that no camera disturbs another.

    Args:
        topic: image topic, for errors and as the camera's name in frames.
        intake: where messages wait.
        convert: converter of raw images.
        outputs: where results go.
        health: counts what happens.
        warn: called with a subject and a text when something is wrong with an image.

    Attributes:
        camera_info: newest calibration of the camera, None until one arrives.

    """

    def __init__(  # noqa: PLR0913 - all that one camera has, handed in by name
        self,
        *,
        topic: str,
        intake: Intake[Arrived],
        convert: Converter,
        outputs: Outputs,
        health: Health,
        warn: Callable[[str, str], None],
    ) -> None:
        """Begin before the first message."""
        self.outputs = outputs
        self.health = health
        self.camera_info: Any = None
        self._topic = topic
        self._intake = intake
        self._convert = convert
        self._warn = warn
        self._overload = "newest"
        self._video: VideoInput | None = None
        self._overtaken = 0
        self._stamps = StampCheck()
        self._size: tuple[int, ...] | None = None

    def put(self, message: Any) -> None:
        """Add an image message; never waits."""
        now_ns = time.monotonic_ns()
        self.health.arrived(now_ns)
        if self._video is None and is_video(message):
            self._video = self.health.video = VideoInput(self._topic, self._warn)
            self._intake.keep("every")
        self._intake.put(Arrived(message, now_ns))

    def keep(self, overload: str) -> None:
        """Apply the setting `overload`."""
        self._overload = overload
        if self._video is None:
            self._intake.keep(overload)

    @property
    def dropped(self) -> int:
        """Messages or frames that were overtaken by newer ones."""
        return self._intake.dropped + self._overtaken

    def frames(self, arrived: Arrived, *, motion: bool) -> list[tuple[Frame, int]]:
        """Return the frames to segment now, each with the steady time of its arrival.

        Empty if the image cannot be used, which is told and counted. For a video in `newest`, all
        packets that wait are decoded as well, and the newest frame remains.

        Args:
            arrived: the message whose turn it is.
            motion: whether frames of a video shall carry the stream's motion.

        """
        newest_of_all = self._video is not None and self._overload == "newest"
        # Only what waits now: a camera faster than its decoder would keep its turn for ever.
        waiting = self._intake.drain() if newest_of_all else []
        found = (self._decoded(each, motion=motion) for each in (arrived, *waiting))
        frames = [frame for each in found for frame in each]
        if newest_of_all:
            frames = self._newest(frames)
        for frame, _ in frames:
            self._watch(frame)
        return frames

    def lose(self, reason: str) -> None:
        """Tell and count a frame that did not fit into the memory of the device."""
        self.health.lose(reason)
        self._warn("memory", f"frame lost: {reason}")

    def _decoded(self, arrived: Arrived, *, motion: bool) -> list[tuple[Frame, int]]:
        """Return the frames of a message; none, told and counted, if it cannot be used."""
        message, now_ns = arrived
        try:
            if self._video is not None and is_video(message):
                found = self._video.frames(message, motion=motion)
            else:
                topic, convert = self._topic, self._convert
                found = [message_to_frame(message, topic=topic, camera=topic, convert=convert)]
        except ImageError as err:
            self.health.refuse(str(err))
            self._warn("refused", f"frame dropped: {err}")
            return []
        return [(frame, now_ns) for frame in found]

    def _newest(self, frames: list[tuple[Frame, int]]) -> list[tuple[Frame, int]]:
        """Keep the newest frame, with its motion since the last that was kept."""
        if len(frames) <= 1:
            return frames
        self._overtaken += len(frames) - 1
        newest, arrived_ns = frames[-1]
        motion = _joined([frame.motion for frame, _ in frames])
        return [(replace(newest, motion=motion), arrived_ns)]

    def _watch(self, frame: Frame) -> None:
        """Notice a camera that jumps in time or changes size."""
        problem, jumps = self._stamps.update(frame.stamp_ns), self._stamps.counts["back"]
        if problem:
            # Of its own: a warning of a stamp that repeats must not keep that of a jump back.
            self._warn("jump" if jumps > self.health.jumps else "stamp", problem)
        self.health.jumps = jumps
        size = frame.image.shape[:2]
        if self._size is not None and size != self._size:
            self.health.resizes += 1
            self._warn("size", f"image size changed from {self._size} to {size} (height, width)")
        self._size = size


def _joined(motions: list[Motion | None]) -> Motion | None:
    """Join the motions of consecutive frames into one, from the last back to before the first."""
    if len(motions) > MAX_COMPOSED:
        return None
    joined = motions[-1]
    for earlier in reversed(motions[:-1]):
        if joined is None or earlier is None or joined.flow.shape != earlier.flow.shape:
            return None
        joined = compose(joined, earlier)
    return joined
