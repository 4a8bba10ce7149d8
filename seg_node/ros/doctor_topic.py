"""What `seg_node doctor --topic` finds out about an image topic; imports rclpy when called."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
import os
import time
from typing import Any

from seg_node.core.types import ConfigError
from seg_node.ros.image_topics import message_type, transport_of, TYPES

DISCOVERY_S = 5.0
"""Publishers that have not been discovered by then are taken for absent."""
MEASURE_S = 2.0
UNNAMED = "_UNKNOWN_"
"""Part of the names of a node whose name has not been discovered yet."""


@dataclass(frozen=True)
class Publisher:
    """One publisher of the topic; `mismatch` is empty if the node's subscription fits it."""

    node: str
    type: str
    reliability: str
    durability: str
    mismatch: str


@dataclass(frozen=True)
class Arrivals:
    """Images that came in `seconds` over one subscription."""

    count: int
    seconds: float

    @property
    def rate_hz(self) -> float:
        """Images per second."""
        return self.count / self.seconds


@dataclass(frozen=True)
class Topic:
    """What is known of the topic.

    Attributes:
        name: its full name.
        publishers: all publishers, of images or not.
        others: topics of this ROS graph that carry images.
        best_effort: what came the way the node subscribes; None if not measured.
        reliable: what came over a reliable subscription; None if not measured.
        image: size and encoding of an image that came, such as "1280x720 rgb8".
        encoding: its encoding, or format if compressed; empty if none came.

    """

    name: str
    publishers: tuple[Publisher, ...]
    others: tuple[str, ...]
    best_effort: Arrivals | None = None
    reliable: Arrivals | None = None
    image: str = ""
    encoding: str = ""


class Probe:
    """A node of its own that looks at the graph and counts messages."""

    def __init__(self) -> None:
        """Join the ROS graph."""
        import rclpy  # noqa: PLC0415 - only where a topic is asked for
        from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415

        self._context = rclpy.Context()
        self._context.init()
        self._node = rclpy.create_node(f"seg_node_doctor_{os.getpid()}", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def resolve(self, topic: str) -> str:
        """Return the full name of a topic."""
        return str(self._node.resolve_topic_name(topic))

    def publishers(self, topic: str) -> tuple[Publisher, ...]:
        """Return the publishers of a topic, waiting a while for the first, and for their names."""
        end = time.monotonic() + DISCOVERY_S
        while True:
            infos = self._node.get_publishers_info_by_topic(topic)
            named = all(UNNAMED not in info.node_name for info in infos)
            if (infos and named) or time.monotonic() > end:
                return tuple(self._describe(info) for info in infos)
            time.sleep(0.1)

    def _describe(self, info: Any) -> Publisher:
        from rclpy.qos import qos_check_compatible, QoSCompatibility  # noqa: PLC0415

        verdict, reason = qos_check_compatible(info.qos_profile, node_qos(reliable=False))
        name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        return Publisher(
            node="an unnamed participant" if UNNAMED in name else name,
            type=info.topic_type,
            reliability=info.qos_profile.reliability.name.lower(),
            durability=info.qos_profile.durability.name.lower(),
            mismatch=reason if verdict == QoSCompatibility.ERROR else "",
        )

    def image_topics(self) -> tuple[str, ...]:
        """Return the topics that carry images."""
        found = self._node.get_topic_names_and_types()
        return tuple(sorted(name for name, types in found if any(map(transport_of, types))))

    def count(self, topic: str, type_name: str, *, reliable: bool) -> tuple[Arrivals, bytes]:
        """Count messages for a while; return that and the last message, serialised."""
        last = b""
        count = 0

        def on_message(message: bytes) -> None:
            nonlocal last, count
            last, count = message, count + 1

        subscription = self._node.create_subscription(
            _class_of(type_name),
            topic,
            on_message,
            node_qos(reliable=reliable),
            raw=True,
        )
        match_end = time.monotonic() + DISCOVERY_S
        while not subscription.get_publisher_count() and time.monotonic() < match_end:
            self._executor.spin_once(timeout_sec=0.05)
        start = time.monotonic()
        count = 0
        while time.monotonic() < start + MEASURE_S:
            self._executor.spin_once(timeout_sec=0.05)
        arrivals = Arrivals(count, time.monotonic() - start)
        self._node.destroy_subscription(subscription)
        return arrivals, last


def node_qos(*, reliable: bool) -> Any:
    """Return the QoS that the node subscribes with, or its reliable twin."""
    from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: PLC0415

    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=1, reliability=policy)


def _class_of(type_name: str) -> Any:
    """Return the message class of a type that carries images; None if it is not installed."""
    transport = transport_of(type_name)
    with suppress(ConfigError):
        return message_type(transport) if transport else None
    return None


def describe_image(type_name: str, serialised: bytes) -> tuple[str, str]:
    """Return (size and encoding, encoding) of a serialised image."""
    from rclpy.serialization import deserialize_message  # noqa: PLC0415

    message = deserialize_message(serialised, _class_of(type_name))
    if type_name == TYPES["raw"]:
        return f"{message.width}x{message.height} {message.encoding}", message.encoding
    name = str(message.format if hasattr(message, "format") else message.encoding)
    return f"compressed, {name}", name


def look_at(topic: str) -> Topic:
    """Return what is known of a topic; takes a few seconds."""
    probe = Probe()
    try:
        name = probe.resolve(topic)
        publishers = probe.publishers(name)
        others = tuple(other for other in probe.image_topics() if other != name)
        kinds = [item.type for item in publishers if _class_of(item.type)]
        if not kinds:
            return Topic(name, publishers, others)
        best_effort, last = probe.count(name, kinds[0], reliable=False)
        reliable = None
        if any(item.reliability == "reliable" for item in publishers):
            reliable, more = probe.count(name, kinds[0], reliable=True)
            last = last or more
        image, encoding = describe_image(kinds[0], last) if last else ("", "")
        return Topic(name, publishers, others, best_effort, reliable, image, encoding)
    finally:
        probe.close()
