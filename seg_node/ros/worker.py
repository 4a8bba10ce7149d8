"""The thread that turns waiting image messages into published masks, from activate to deactivate.

One thread and one network serve all cameras: in turns, or together what waits at one time.
"""

from __future__ import annotations

from collections import deque
import threading
import time
import traceback
from typing import TYPE_CHECKING

from seg_node.core.types import DeviceMemoryError
from seg_node.ros.diagnostics import Processed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from seg_node.core.intake import Turns
    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame, StepResult
    from seg_node.ros.feed import Arrived, Feed

    Waiting = tuple[Feed, Frame, int]


class Worker:
    """Converts, segments and publishes one message after the other.

    Args:
        segmenter: makes the masks.
        turns: where messages wait, and whose turn it is.
        feeds: every camera's input and output, by the names of `turns`.
        now_ns: the node's clock, in nanoseconds.

    Attributes:
        failure: traceback of what killed the thread, empty while it is well.

    """

    def __init__(
        self,
        *,
        segmenter: Segmenter,
        turns: Turns[Arrived],
        feeds: Mapping[str, Feed],
        now_ns: Callable[[], int],
    ) -> None:
        """Take the parts; `start` starts the thread."""
        self.failure = ""
        self._feeds = feeds
        self._segmenter = segmenter
        self._turns = turns
        self._now_ns = now_ns
        self._abandoned = threading.Event()
        self._waiting: deque[Waiting] = deque()  # with the time of their arrival
        self._cleared = turns.cleared
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Forget what waits and end after the frame in work.

        Returns:
            False if that frame takes longer than `timeout_s`; its result will not be published.

        """
        self._turns.close()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._fetch():
                self._process(self._waiting.popleft())
        except Exception:  # noqa: BLE001 - told, and raised by the node in its main thread
            self.failure = traceback.format_exc()

    def _fetch(self) -> bool:
        """Wait until a frame waits; False if no more are to come."""
        if self._cleared != self._turns.cleared:  # what was opened ahead is forgotten, too
            self._waiting.clear()
            self._cleared = self._turns.cleared
        while not self._waiting:
            turn = self._turns.take()
            if turn is None:
                return False
            self._open(*turn)
        return not self._turns.closed

    def _with_others(self, first: Waiting) -> list[Waiting]:
        """Return a frame, and those of other cameras that wait and can be computed with it."""
        together = [first]
        if not self._segmenter.may_join:
            return together
        served = [name for name, feed in self._feeds.items() if feed is first[0]]
        while turn := self._turns.take(0.0, without=served):
            served.append(turn[0])
            self._open(*turn)
        self._join(together)
        return together

    def _join(self, together: list[Waiting]) -> None:
        """Move the first waiting frame of every other camera to those that are computed now."""
        left: deque[Waiting] = deque()
        for other in self._waiting:
            joins = all(own is not other[0] for own, _, _ in together)
            (together if joins else left).append(other)
        self._waiting = left

    def _open(self, name: str, arrived: Arrived) -> None:
        """Add the frames of a message to those that wait."""
        feed = self._feeds[name]
        motion = self._segmenter.config.motion.source in {"auto", "codec"}
        found = feed.frames(arrived, motion=motion)
        self._waiting.extend((feed, frame, arrived_ns) for frame, arrived_ns in found)

    def _look_ahead(self) -> None:
        """Send the image of the next frame to the device, beside its work on the present one.

        A message is opened for it only where none is dropped for a newer one.
        """
        while not self._waiting and self._segmenter.config.overload == "every":
            turn = self._turns.take(0.0)
            if turn is None:
                return
            self._open(*turn)
        if self._waiting:
            self._segmenter.send_ahead(self._waiting[0][1])

    def _process(self, first: Waiting) -> None:
        together = self._with_others(first)
        try:
            results = self._computed([frame for _, frame, _ in together])
        except DeviceMemoryError as err:
            for feed, _, _ in together:
                feed.lose(str(err))
            return
        for waiting, result in zip(together, results, strict=True):
            if self._abandoned.is_set():
                return
            self._publish(*waiting, result)

    def _computed(self, frames: list[Frame]) -> list[StepResult]:
        if len(frames) > 1:
            return self._segmenter.step_together(frames)
        return [self._segmenter.step(frames[0], self._look_ahead)]

    def _publish(self, feed: Feed, frame: Frame, arrived_ns: int, result: StepResult) -> None:
        extra = {"dropped": feed.dropped, "refused": feed.health.refused}
        config = self._segmenter.config
        feed.outputs.publish(frame, result, config, extra, feed.camera_info)
        done_ns = time.monotonic_ns()
        lag_ns = self._now_ns() - frame.stamp_ns
        latency_ns, report = done_ns - arrived_ns, result.report
        feed.health.done(
            Processed(
                done_ns, report.total_ns, latency_ns, lag_ns, result.plan.fits, report.memory
            )
        )
