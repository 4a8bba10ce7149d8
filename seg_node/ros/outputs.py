"""Owns the node's publishers: those of each camera, and the classes that all of them share.

Mask and stats are always published, everything else of a camera only if somebody listens.
"""

from __future__ import annotations

import time
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from seg_node.core.drawing import color_table, overlay
from seg_node.core.plan_drawing import draw_age, draw_plan
from seg_node.core.types import DataError
from seg_node.ros import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import ClassInfo, Frame, StepResult

KINDS = {
    "mask": Image,
    "mask/compressed": CompressedImage,
    "confidence": Image,
    "overlay": Image,
    "age": Image,
    "plan": Image,
    "age/image": Image,
    "plan/image": Image,
    "camera_info": CameraInfo,
    "stats": DiagnosticArray,
}
"""Message type of every per-frame output, by its name below `~/` or `~/<camera>/`."""
PICTURES = ("overlay", "age/image", "plan/image")
"""What is drawn for people, at most `publish.overlay_rate_hz` times a second each."""


def _output_qos() -> QoSProfile:
    """Return a new profile; reliable, which serves best-effort and reliable readers alike.

    New for each publisher, because rclpy writes the overrides of one into the profile it gets.
    """
    return QoSProfile(
        depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
    )


def _latched_qos() -> QoSProfile:
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class Classes:
    """The latched publishers that say what the class ids in the masks mean.

    Args:
        node: lifecycle node that owns them; it enables them while it is active.
        classes: classes of the model.

    """

    def __init__(self, node: Any, classes: tuple[ClassInfo, ...]) -> None:
        """Create the publishers."""
        self._node = node
        self._latched = {"legend": messages.make_legend(classes)}
        try:
            self._latched["label_info"] = messages.make_label_info(self._now_header(), classes)
        except ImportError:
            node.get_logger().info("vision_msgs is not installed: no ~/label_info, see ~/legend")
        self._publishers = {
            name: node.create_lifecycle_publisher(type(message), f"~/{name}", _latched_qos())
            for name, message in self._latched.items()
        }

    def _now_header(self) -> Any:
        header = Header()
        header.stamp = self._node.get_clock().now().to_msg()
        return header

    def announce(self) -> None:
        """Publish the classes; who subscribes later gets them, too."""
        for name, message in self._latched.items():
            if name == "label_info":
                message.header = self._now_header()
            self._publishers[name].publish(message)

    def destroy(self) -> None:
        """Destroy the publishers; a second call does nothing."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


class Outputs:
    """The publishers of one camera of a configured node.

    Args:
        node: lifecycle node that owns them; it enables them while it is active.
        classes: classes of the model, for the overlay.
        warn: called with a subject and a text when something cannot be published.
        camera: name of the camera; empty for the one camera of a node that names none.

    """

    def __init__(
        self,
        node: Any,
        classes: tuple[ClassInfo, ...],
        warn: Callable[[str, str], None],
        camera: str = "",
    ) -> None:
        """Create all publishers."""
        self._node = node
        self._camera = camera
        self._colors = color_table(classes)
        self._warn = warn
        self._drawn_ns = dict.fromkeys(PICTURES, 0)
        self._publishers = {
            name: node.create_lifecycle_publisher(
                kind,
                f"~/{camera}/{name}" if camera else f"~/{name}",
                _output_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for name, kind in KINDS.items()
        }

    def destroy(self) -> None:
        """Destroy the publishers; a second call does nothing."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def publish(
        self,
        frame: Frame,
        result: StepResult,
        config: Config,
        extra: Mapping[str, object],
        camera_info: Any,
    ) -> None:
        """Publish all that one frame gives, with the header of its image.

        Args:
            frame: the frame.
            result: what was made of it.
            config: settings that the frame was segmented with.
            extra: more values for ~/stats.
            camera_info: the newest calibration of the camera, None if there is none.

        """
        header = messages.make_header(frame)
        out = self._publishers
        out["mask"].publish(messages.make_image(header, result.labels, "mono8"))
        name = str(self._node.get_fully_qualified_name())
        name += f"/{self._camera}" if self._camera else ""
        out["stats"].publish(messages.make_stats(header, name, result, extra))
        if self._wanted("mask/compressed"):
            out["mask/compressed"].publish(messages.make_png(header, result.labels))
        planes: dict[str, tuple[NDArray[Any], str]] = {
            "confidence": (result.confidence, "mono8"),
            "age": (result.age_ms, "mono16"),
            "plan": (result.plan.grid, "mono8"),
        }
        for plane, (pixels, encoding) in planes.items():
            if self._wanted(plane):
                out[plane].publish(messages.make_image(header, pixels, encoding))
        self._publish_pictures(header, frame, result, config)
        if camera_info is not None and self._wanted("camera_info"):
            self._publish_camera_info(header, frame, camera_info)

    def _publish_pictures(
        self, header: Any, frame: Frame, result: StepResult, config: Config
    ) -> None:
        for name in PICTURES:
            if not self._due(name, config.publish.overlay_rate_hz):
                continue
            try:
                pixels = self._picture(name, frame.image, result, config)
            except DataError as err:
                # input.scale was set while the frame was in work: the next one fits again.
                self._warn(name, f"no ~/{name} of this frame: {err}")
                continue
            self._publishers[name].publish(messages.make_image(header, pixels, "rgb8"))

    def _picture(
        self, name: str, image: NDArray[np.uint8], result: StepResult, config: Config
    ) -> NDArray[np.uint8]:
        """Draw one of `PICTURES`.

        Raises:
            DataError: the blocks are not those of the settings.

        """
        if name == "overlay":
            return overlay(image, result.labels, self._colors, config.publish.overlay_opacity)
        side = config.shown_side(image)
        if name == "plan/image":
            return draw_plan(image, result.plan, side)
        return draw_age(image, result.age_ms, config.max_age_ms, side)

    def _due(self, name: str, rate_hz: float) -> bool:
        """Return whether somebody wants a picture now, and take note that it is drawn."""
        now_ns = time.monotonic_ns()
        period_ns = 1e9 / rate_hz if rate_hz else 0.0
        if not self._wanted(name) or now_ns - self._drawn_ns[name] < period_ns:
            return False
        self._drawn_ns[name] = now_ns
        return True

    def _publish_camera_info(self, header: Any, frame: Frame, info: Any) -> None:
        """Pass a calibration on, with the image's header; masks have the image's size."""
        if (info.height, info.width) != frame.image.shape[:2]:
            self._warn(
                "camera_info", "camera_info is of another size than the image: not passed on"
            )
            return
        info.header = header
        self._publishers["camera_info"].publish(info)

    def _wanted(self, name: str) -> bool:
        return bool(self._publishers[name].get_subscription_count())
