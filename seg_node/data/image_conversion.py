"""Turns ROS image messages, raw or compressed, into frames.

Node, replay and demo all convert here, so they see the same pixels. Nothing of ROS is imported:
a message is anything with the fields of `sensor_msgs/Image` or `sensor_msgs/CompressedImage`,
as rclpy (data in an `array.array`) and rosbags (data in a NumPy array) make them.
"""

from __future__ import annotations

from typing import Any, cast, TYPE_CHECKING

from seg_node.core.types import Frame, ImageError
from seg_node.data.compressed_images import compressed_to_rgb
from seg_node.data.raw_images import image_to_rgb

if TYPE_CHECKING:
    from seg_node.data.compressed_images import CompressedMessage
    from seg_node.data.converters import Converter
    from seg_node.data.raw_images import ImageMessage

_NS_PER_S = 1_000_000_000


def message_to_frame(
    msg: ImageMessage | CompressedMessage,
    *,
    topic: str = "",
    camera: str = "",
    convert: Converter = image_to_rgb,
) -> Frame:
    """Turn a raw or compressed image message into a frame.

    Args:
        msg: a message with an `encoding` (raw) or a `format` (compressed).
        topic: where it came from, for errors.
        camera: name of the camera.
        convert: the converter of raw images; compressed ones always use the built-in.

    Raises:
        ImageError: the picture cannot be converted, or the stamp is not a time.

    """
    if hasattr(msg, "encoding"):
        raw = cast("ImageMessage", msg)
        described = (raw.encoding, int(raw.width), int(raw.height))
        stamp_ns = stamp_to_ns(msg.header.stamp, topic, described)
        image = convert(raw, topic)
    elif hasattr(msg, "format"):
        stamp_ns = stamp_to_ns(msg.header.stamp, topic, (msg.format, 0, 0))
        image = compressed_to_rgb(msg, topic)
    else:
        problem = (
            f"a {type(msg).__name__} is neither sensor_msgs/Image nor sensor_msgs/CompressedImage"
        )
        raise ImageError(problem, topic=topic)
    return Frame(image, stamp_ns=stamp_ns, frame_id=msg.header.frame_id, camera=camera)


def stamp_to_ns(stamp: Any, topic: str, described: tuple[str, int, int]) -> int:
    """Return a `builtin_interfaces/Time` in nanoseconds.

    Args:
        stamp: anything with `sec` and `nanosec`.
        topic: where its image came from, for errors.
        described: encoding, width and height of the image, for errors.

    Raises:
        ImageError: it is not a time.

    """
    sec, nanosec = int(stamp.sec), int(stamp.nanosec)
    if sec < 0 or not 0 <= nanosec < _NS_PER_S:
        encoding, width, height = described
        problem = f"the stamp (sec {sec}, nanosec {nanosec}) is not a time"
        raise ImageError(problem, topic=topic, encoding=encoding, width=width, height=height)
    return sec * _NS_PER_S + nanosec
