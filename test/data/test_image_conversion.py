"""Messages of every kind become frames, with the stamp and frame of their header."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
from rosbags.typesys import get_typestore, Stores

from seg_node.core.types import ImageError
from seg_node.data.compressed_images import encode_png
from seg_node.data.image_conversion import message_to_frame
from test.data.image_samples import assert_shows, Compressed, Header, message, picture_for, Stamp

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_a_message_of_rosbags_becomes_a_frame() -> None:
    """A message that went through rosbags' own serialisation, with its own types."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    msg = message("rgb8", padding=5)
    stamp = store.types["builtin_interfaces/msg/Time"](sec=12, nanosec=345)
    header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera_front")
    kind = "sensor_msgs/msg/Image"
    stored = store.types[kind](
        header=header,
        height=msg.height,
        width=msg.width,
        encoding=msg.encoding,
        is_bigendian=0,
        step=msg.step,
        data=np.frombuffer(msg.data, np.uint8),
    )
    read: Any = store.deserialize_cdr(store.serialize_cdr(stored, kind), kind)
    frame = message_to_frame(read, camera="front")
    assert_shows(frame.image, "rgb8")
    assert (frame.stamp_ns, frame.frame_id, frame.camera) == (
        12_000_000_345,
        "camera_front",
        "front",
    )


def test_raw_and_compressed_messages_become_frames() -> None:
    """The fields decide the kind; stamp and frame come from the header."""
    raw = message_to_frame(message("bgr8"), camera="front")
    packed = message_to_frame(Compressed("png", encode_png(picture_for("bgr8"))), camera="front")
    for frame in (raw, packed):
        np.testing.assert_array_equal(frame.image, picture_for("bgr8"))
        assert frame.stamp_ns == 12_000_000_345
        assert (frame.frame_id, frame.camera) == ("camera_front", "front")


def test_the_given_converter_is_used() -> None:
    """With message and topic."""
    seen = []

    def convert(msg: Any, topic: str = "") -> NDArray[np.uint8]:
        seen.append((msg.encoding, topic))
        return np.zeros((1, 1, 3), np.uint8)

    assert message_to_frame(message("mono8"), topic="/t", convert=convert).image.shape == (1, 1, 3)
    assert seen == [("mono8", "/t")]


@pytest.mark.parametrize("stamp", [Stamp(-1, 0), Stamp(1, 1_000_000_000), Stamp(1, -1)])
@pytest.mark.parametrize("msg", [message("rgb8"), Compressed("png", b"")], ids=["raw", "png"])
def test_a_stamp_that_is_no_time_is_refused(msg: Any, stamp: Stamp) -> None:
    """A nanosecond below is fine, see the next test."""
    with pytest.raises(ImageError, match=r"on /t .* is not a time"):
        message_to_frame(replace(msg, header=Header(stamp)), topic="/t")


def test_the_last_nanosecond_of_a_second_is_a_time() -> None:
    """And so is zero, as simulators stamp their first frame."""
    for stamp, expected in ((Stamp(1, 999_999_999), 1_999_999_999), (Stamp(0, 0), 0)):
        msg = replace(message("rgb8"), header=Header(stamp))
        assert message_to_frame(msg).stamp_ns == expected


def test_a_message_of_another_kind_is_refused() -> None:
    """By name."""
    other: Any = Header()
    with pytest.raises(ImageError, match="a Header is neither"):
        message_to_frame(other)
