"""Where images come from: a topic and a message type for each `input.transport`.

The names of the transports and the endings of their topics are those of image_transport and its
plugins, except that `compressed` may be a video here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from seg_node.core.types import ConfigError

TYPES = {
    "raw": "sensor_msgs/msg/Image",
    "compressed": "sensor_msgs/msg/CompressedImage",
    "ffmpeg": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove": "foxglove_msgs/msg/CompressedVideo",
}
"""Message type of each `input.transport`."""


def transport_of(type_name: str) -> str | None:
    """Return the transport of a message type; None if it carries no images."""
    return next((transport for transport, known in TYPES.items() if known == type_name), None)


def topic_of(base: str, transport: str) -> str:
    """Return the topic of a transport beside the image topic `base`, which may be it already."""
    if transport == "raw" or base.endswith(f"/{transport}"):
        return base
    return f"{base}/{transport}"


def message_type(transport: str) -> Any:
    """Return the message class of a transport.

    Raises:
        ConfigError: the package of its messages is not installed.

    """
    package, _, name = TYPES[transport].split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except ImportError as error:
        msg = (
            f"input.transport is {transport!r}, which needs the messages of {package}: install "
            f"ros-$ROS_DISTRO-{package.replace('_', '-')}"
        )
        raise ConfigError(msg) from error
