"""The thread that turns waiting image messages into published masks, from activate to deactivate.

Pictures that wait may be dropped for a newer one. The packets of a video may not, since each
depends on those before it: all that wait are decoded, and the newest of their frames is
segmented.

Everything that belongs to one activation lives here, so that an activation never sees the frames,
stamps or late results of the one before.
"""

from __future__ import annotations

from dataclasses import replace
import threading
import time
import traceback
from typing import Any, TYPE_CHECKING

from seg_node.core.intake import Intake
from seg_node.core.motion import compose
from seg_node.core.stamps import StampCheck
from seg_node.core.types import ImageError
from seg_node.data.image_conversion import message_to_frame
from seg_node.ros.diagnostics import Processed
from seg_node.ros.inputs import is_video, VideoInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame, Motion
    from seg_node.data.image_conversion import Converter
    from seg_node.ros.diagnostics import Health
    from seg_node.ros.outputs import Outputs


MAX_COMPOSED = 8
"""Most motions that are joined into one; over more overtaken frames, estimating it anew is better
and costs less."""


class Worker:
    """Converts, segments and publishes one message after the other.

    Args:
        segmenter: makes the masks.
        convert: converter of raw images.
        outputs: where results go.
        health: counts what happens.
        topic: image topic, for errors.
        warn: called with a subject and a text when something is wrong with an image.
        now_ns: the node's clock, in nanoseconds.

    Attributes:
        camera_info: newest calibration of the camera, None until one arrives.
        failure: traceback of what killed the thread, empty while it is well.

    """

    def __init__(  # noqa: PLR0913 - all that one frame meets, handed in by name
        self,
        *,
        segmenter: Segmenter,
        convert: Converter,
        outputs: Outputs,
        health: Health,
        topic: str,
        warn: Callable[[str, str], None],
        now_ns: Callable[[], int],
    ) -> None:
        """Take the parts; `start` starts the thread."""
        self.camera_info: Any = None
        self.failure = ""
        self._segmenter = segmenter
        self._convert = convert
        self._outputs = outputs
        self._health = health
        self._topic = topic
        self._warn = warn
        self._now_ns = now_ns
        self._intake: Intake[tuple[Any, int]] = Intake()
        self._overload = "newest"
        self._video: VideoInput | None = None
        self._overtaken = 0
        self._stamps = StampCheck()
        self._size: tuple[int, ...] | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Forget what waits and end after the frame in work.

        Returns:
            False if that frame takes longer than `timeout_s`; its result will not be published.

        """
        self._intake.close()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
        return not self._thread.is_alive()

    def put(self, message: Any) -> None:
        """Add an image message; never waits."""
        now_ns = time.monotonic_ns()
        self._health.arrived(now_ns)
        if self._video is None and is_video(message):
            self._video = self._health.video = VideoInput(self._topic, self._warn)
            self._intake.keep("every")
        self._intake.put((message, now_ns))

    def keep(self, overload: str) -> None:
        """Apply the setting `overload`."""
        self._overload = overload
        if self._video is None:
            self._intake.keep(overload)

    def clear(self) -> None:
        """Forget what waits."""
        self._intake.clear()

    @property
    def dropped(self) -> int:
        """Messages or frames that were overtaken by newer ones."""
        return self._intake.dropped + self._overtaken

    def _run(self) -> None:
        try:
            while (item := self._intake.take()) is not None:
                frames = self._frames(*item)
                if self._video is not None and self._overload == "newest":
                    frames = self._newest(frames)
                for frame, arrived_ns in frames:
                    self._process(frame, arrived_ns)
        except Exception:  # noqa: BLE001 - told, and raised by the node in its main thread
            self.failure = traceback.format_exc()

    def _frames(self, message: Any, arrived_ns: int) -> list[tuple[Frame, int]]:
        """Return the frames of a message, each with the message's time of arrival."""
        try:
            if self._video is not None and is_video(message):
                config = self._segmenter.config
                motion = config.motion.source in {"auto", "codec"}
                found = self._video.frames(message, motion=motion)
            else:
                found = [
                    message_to_frame(
                        message, topic=self._topic, camera=self._topic, convert=self._convert
                    )
                ]
        except ImageError as err:
            self._health.refuse(str(err))
            self._warn("refused", f"frame dropped: {err}")
            return []
        return [(frame, arrived_ns) for frame in found]

    def _newest(self, frames: list[tuple[Frame, int]]) -> list[tuple[Frame, int]]:
        """Decode all that waits, and keep the newest frame with its motion since the last kept."""
        while (item := self._intake.take(0.0)) is not None:
            frames += self._frames(*item)
        if len(frames) <= 1:
            return frames
        self._overtaken += len(frames) - 1
        newest, arrived_ns = frames[-1]
        motion = _joined([frame.motion for frame, _ in frames])
        return [(replace(newest, motion=motion), arrived_ns)]

    def _process(self, frame: Frame, arrived_ns: int) -> None:
        self._watch(frame)
        result = self._segmenter.step(frame)
        if self._abandoned.is_set():
            return
        extra = {"dropped": self.dropped, "refused": self._health.refused}
        settings = self._segmenter.config.publish
        self._outputs.publish(frame, result, settings, extra, self.camera_info)
        done_ns = time.monotonic_ns()
        lag_ns = self._now_ns() - frame.stamp_ns
        self._health.done(Processed(done_ns, result.report.total_ns, done_ns - arrived_ns, lag_ns))

    def _watch(self, frame: Frame) -> None:
        """Notice a camera that jumps in time or changes size."""
        problem = self._stamps.update(frame.stamp_ns)
        if problem:
            self._warn("stamp", problem)
        self._health.jumps = self._stamps.counts["back"]
        size = frame.image.shape[:2]
        if self._size is not None and size != self._size:
            self._health.resizes += 1
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
