"""The cameras of a node: what topics each has, and the subscriptions to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TYPE_CHECKING

from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from seg_node.core.types import ConfigError
from seg_node.ros import image_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from seg_node.core.config import Config


@dataclass(frozen=True)
class Camera:
    """One camera, as the setting `cameras` names it.

    Attributes:
        name: its name; empty for the one camera of a node that names none.
        topic: where its images come from: remapped first, then the transport's suffix.

    """

    name: str
    topic: str

    @property
    def prefix(self) -> str:
        """What its topics begin with: `front/`, or nothing."""
        return f"{self.name}/" if self.name else ""


def find_cameras(node: Any, config: Config) -> tuple[Camera, ...]:
    """Return the cameras of a node, in the order of the setting; at least one."""

    def topic(name: str) -> str:
        base = str(node.resolve_topic_name(f"{Camera(name, '').prefix}image"))
        return image_topics.topic_of(base, config.input.transport)

    return tuple(Camera(name, topic(name)) for name in config.cameras or ("",))


def check_topics(cameras: Iterable[Camera]) -> None:
    """Refuse cameras that share a topic: they would share their memory as well.

    Raises:
        ConfigError: names both cameras, the topic and the fix.

    """
    found: dict[str, str] = {}
    for camera in cameras:
        other = found.setdefault(camera.topic, camera.name)
        if other != camera.name:
            msg = (
                f"cameras {other} and {camera.name} both take their images from {camera.topic}; "
                f"remap {other}/image or {camera.name}/image"
            )
            raise ConfigError(msg)


def _input_qos(overload: str) -> QoSProfile:
    """Best effort, so that every camera matches; deep only if no frame may be skipped."""
    return QoSProfile(
        depth=1 if overload == "newest" else 64,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT,
    )


class Subscriptions:
    """The subscriptions to images and calibrations of all cameras; closed at first.

    Args:
        node: the node that owns them.
        cameras: whose topics.
        transport: setting `input.transport`.
        on_image: called with a camera's name and a message of its images.
        on_camera_info: called with a camera's name and its calibration.

    """

    def __init__(
        self,
        node: Any,
        cameras: Sequence[Camera],
        transport: str,
        on_image: Callable[[str, Any], None],
        on_camera_info: Callable[[str, Any], None],
    ) -> None:
        """Subscribe to nothing yet."""
        self._node = node
        self._cameras = cameras
        self._transport = transport
        self._on_image = on_image
        self._on_camera_info = on_camera_info
        self._open: list[Any] = []

    @property
    def are_open(self) -> bool:
        """Whether the node is subscribed."""
        return bool(self._open)

    def open(self, overload: str) -> None:
        """Subscribe, anew if need be; the depth follows the setting `overload`.

        Reliability and history may be overridden by parameters. The depth may not: an override,
        once declared, would hold it at its first value.
        """
        self.close()
        override = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.RELIABILITY))
        # A video's packets are all needed, whatever becomes of the frames.
        depth = overload if self._transport == "raw" else "every"
        for camera in self._cameras:
            topics: tuple[tuple[Any, str, Callable[[str, Any], None], str], ...] = (
                (
                    image_topics.message_type(self._transport),
                    camera.topic,
                    self._on_image,
                    depth,
                ),
                (CameraInfo, f"{camera.prefix}camera_info", self._on_camera_info, "newest"),
            )
            self._open += [
                self._node.create_subscription(
                    kind,
                    topic,
                    partial(callback, camera.name),
                    _input_qos(keep),
                    qos_overriding_options=override,
                )
                for kind, topic, callback, keep in topics
            ]

    def close(self) -> None:
        """Unsubscribe; harmless when closed."""
        for subscription in self._open:
            self._node.destroy_subscription(subscription)
        self._open = []
