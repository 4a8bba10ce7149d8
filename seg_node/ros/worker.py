"""The thread that turns waiting image messages into published masks, from activate to deactivate.

Everything that belongs to one activation lives here, so that an activation never sees the frames,
stamps or late results of the one before.
"""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any, TYPE_CHECKING

from seg_node.core.intake import Intake
from seg_node.core.stamps import StampCheck
from seg_node.core.types import ImageError
from seg_node.data.image_conversion import message_to_frame
from seg_node.ros.diagnostics import Processed

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame
    from seg_node.data.image_conversion import Converter
    from seg_node.ros.diagnostics import Health
    from seg_node.ros.outputs import Outputs


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
        self._intake.put((message, now_ns))

    def keep(self, overload: str) -> None:
        """Apply the setting `overload`."""
        self._intake.keep(overload)

    def clear(self) -> None:
        """Forget what waits."""
        self._intake.clear()

    @property
    def dropped(self) -> int:
        """Messages that were overtaken by newer ones."""
        return self._intake.dropped

    def _run(self) -> None:
        try:
            while (item := self._intake.take()) is not None:
                self._process(*item)
        except Exception:  # noqa: BLE001 - told, and raised by the node in its main thread
            self.failure = traceback.format_exc()

    def _process(self, message: Any, arrived_ns: int) -> None:
        try:
            frame = message_to_frame(
                message, topic=self._topic, camera=self._topic, convert=self._convert
            )
        except ImageError as err:
            self._health.refuse(str(err))
            self._warn("refused", f"frame dropped: {err}")
            return
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
