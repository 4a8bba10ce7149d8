"""Plays a camera over DDS and records what the segmentation node answers.

It runs in a process of its own, apart from the node, so images and masks take the same way as on
a robot. A thread spins its executor; the callbacks only note and compress.
"""

from __future__ import annotations

from contextlib import suppress
import threading
import time
from typing import Any, TYPE_CHECKING
import zlib

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from seg_node.core.closing import Closing
from seg_node.ros.messages import make_image
from seg_node.ros.recorded import RecordedMask, RecordedStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

NS_PER_S = 1_000_000_000

CAMERA_QOS = QoSProfile(
    depth=5, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT
)
"""What camera drivers use: a frame that is lost is not sent again."""
RECORD_QOS = QoSProfile(
    depth=50, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Playback(Closing):
    """A camera on `/image` and a recorder of `/segmentation/*`; use it as a context manager.

    Attributes:
        masks: masks by header stamp.
        stats: per-frame statistics by header stamp.
        plans: grids of actions, uint8 [gh, gw], by header stamp.
        ages: ages of the blocks in ms, uint16 [gh, gw], by header stamp.
        diagnostics: newest status of the node's health, by name.
        worst: highest level seen of each of them.
        legend: text of the latched legend, empty before it comes.

    """

    def __init__(self) -> None:
        """Create publisher and subscriptions and start spinning."""
        self.masks: dict[int, RecordedMask] = {}
        self.stats: dict[int, RecordedStatus] = {}
        self.plans: dict[int, NDArray[np.uint8]] = {}
        self.ages: dict[int, NDArray[np.uint16]] = {}
        self.diagnostics: dict[str, RecordedStatus] = {}
        self.worst: dict[str, int] = {}
        self.legend = ""
        self._last_stamp_ns = 0
        self._context = rclpy.Context()
        # Ctrl-C belongs to whoever plays, not to this context.
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("seg_node_playback", context=self._context)
        self._publisher = self._node.create_publisher(Image, "/image", CAMERA_QOS)
        listen = self._node.create_subscription
        self._mask = listen(Image, "/segmentation/mask", self._on_mask, RECORD_QOS)
        self._stats = listen(DiagnosticArray, "/segmentation/stats", self._on_stats, RECORD_QOS)
        self._plan = listen(Image, "/segmentation/plan", self._on_plan, RECORD_QOS)
        self._age = listen(Image, "/segmentation/age", self._on_age, RECORD_QOS)
        listen(String, "/segmentation/legend", self._on_legend, LATCHED_QOS)
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, RECORD_QOS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="playback", daemon=True)
        self._thread.start()

    @property
    def matched(self) -> bool:
        """Whether the node listens to the images and its outputs reach us."""
        listening = (self._mask, self._stats, self._plan, self._age)
        heard = all(subscription.get_publisher_count() for subscription in listening)
        return bool(heard and self._publisher.get_subscription_count())

    def send(self, image: NDArray[np.uint8], frame_id: str) -> int:
        """Publish an RGB image uint8 [H, W, 3] stamped with the wall clock; returns the stamp."""
        stamp_ns = max(time.time_ns(), self._last_stamp_ns + 1)
        self._last_stamp_ns = stamp_ns
        header = Header(frame_id=frame_id)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
        self._publisher.publish(make_image(header, image, "rgb8"))
        return stamp_ns

    def forget(self) -> None:
        """Forget what was recorded so far, all but the legend, which comes only once."""
        by_stamp = (self.masks, self.stats, self.plans, self.ages)
        for recorded in (*by_stamp, self.diagnostics, self.worst):
            recorded.clear()

    def close(self) -> None:
        """Leave the ROS network; a second call does nothing."""
        if self._context.ok():
            self._executor.shutdown()
            rclpy.try_shutdown(context=self._context)
            self._thread.join()
            self._node.destroy_node()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_mask(self, message: Any) -> None:
        received_ns = time.time_ns()
        rows = np.frombuffer(message.data, np.uint8)
        if message.step and message.step != message.width and rows.size % message.step == 0:
            rows = rows.reshape(-1, message.step)[:, : message.width]
        self.masks[_stamp_ns(message.header)] = RecordedMask(
            received_ns,
            message.height,
            message.width,
            message.encoding,
            zlib.compress(rows.tobytes(), 1),
        )

    def _on_stats(self, message: Any) -> None:
        for status in message.status:
            self.stats[_stamp_ns(message.header)] = _record(status)

    def _on_plan(self, message: Any) -> None:
        self.plans[_stamp_ns(message.header)] = _plane(message, np.dtype(np.uint8))

    def _on_age(self, message: Any) -> None:
        order = np.dtype(">u2" if message.is_bigendian else "<u2")
        self.ages[_stamp_ns(message.header)] = _plane(message, order).astype(np.uint16)

    def _on_legend(self, message: Any) -> None:
        self.legend = message.data

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            recorded = _record(status)
            self.diagnostics[recorded.name] = recorded
            self.worst[recorded.name] = max(recorded.level, self.worst.get(recorded.name, 0))


def middleware() -> str:
    """Return the name of the ROS middleware in use."""
    return str(rclpy.get_rmw_implementation_identifier())


def _plane(message: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the pixels of an image of one channel, [H, W], without row padding."""
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width * dtype.itemsize].copy().view(dtype)


def _stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * NS_PER_S + int(header.stamp.nanosec)


def _record(status: Any) -> RecordedStatus:
    values = {item.key: item.value for item in status.values}
    return RecordedStatus(status.name, ord(status.level), status.message, values)
