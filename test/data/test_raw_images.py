"""Every encoding gives the marked pixel its place and colour; everything else gives ImageError."""

from __future__ import annotations

from dataclasses import replace
import sys
from typing import Any

import numpy as np
import pytest

from seg_node.core.types import ImageError
from seg_node.data.raw_images import image_to_rgb, SUPPORTED_ENCODINGS
from test.data.image_samples import assert_shows, HEIGHT, Image, message, WIDTH


@pytest.mark.parametrize("big_endian", [0, 1])
@pytest.mark.parametrize("padding", [0, 1, 5, 12])
@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
def test_every_encoding_padding_and_byte_order(
    encoding: str, padding: int, big_endian: int
) -> None:
    """The mark has its place and colour, and padding never shows."""
    assert_shows(image_to_rgb(message(encoding, padding, big_endian)), encoding)


@pytest.mark.parametrize("padding", [0, 1, 12])
@pytest.mark.parametrize("encoding", ["rgb8", "rgba8"])
def test_rgb_is_a_view_on_the_message(encoding: str, padding: int) -> None:
    """No byte is copied where none has to move, padded or not."""
    msg = message(encoding, padding)
    result = image_to_rgb(msg)
    assert np.shares_memory(result, np.frombuffer(msg.data, np.uint8))
    msg.data[msg.step * 3 + (3 if encoding == "rgb8" else 4) * 2 + 1] = 77
    assert result[3, 2, 1] == 77


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview, np.frombuffer, "rclpy"])
def test_data_may_be_any_buffer(container: Any) -> None:
    """Data of rclpy are an array, of rosbags a NumPy array, of tests bytes."""
    msg = message("bgr8", padding=5)
    if container == "rclpy":
        pytest.importorskip("sensor_msgs.msg", reason="real rclpy messages need sensor_msgs")
        real = sys.modules["sensor_msgs.msg"].Image(
            width=msg.width, height=msg.height, encoding=msg.encoding, step=msg.step
        )
        real.data.frombytes(msg.data)
        msg = real
    else:
        raw = msg.data.tobytes()
        msg.data = container(raw, np.uint8) if container is np.frombuffer else container(raw)
    assert_shows(image_to_rgb(msg), "bgr8")


@pytest.mark.parametrize(
    ("encoding", "change", "problem"),
    [
        ("rgb8", {"encoding": "32FC1"}, "not supported; .* rgb8, bgr8.*bayer_grbg16"),
        ("rgb8", {"encoding": ""}, "not supported"),
        ("rgb8", {"encoding": "RGB8"}, "not supported"),
        ("rgb8", {"width": 0}, "must be positive"),
        ("rgb8", {"height": 0}, "must be positive"),
        ("rgb8", {"height": -1}, "must be positive"),
        ("rgb8", {"step": WIDTH * 3 - 1}, "`step` is 47, but a row needs at least 48"),
        ("rgb8", {"step": 0}, "`step` is 0"),
        ("mono16", {"step": WIDTH}, "`step` is 16, but a row needs at least 32"),
        ("rgb8", {"data": bytes(WIDTH * HEIGHT * 3 - 1)}, "data too short: 12 rows .* got 575"),
        ("rgb8", {"data": bytes(WIDTH * HEIGHT * 3 + 1)}, "data too long: 12 rows .* got 577"),
        ("rgb8", {"data": b""}, "data too short: .* got 0"),
        ("rgb8", {"data": [0] * WIDTH * HEIGHT * 3}, "a list that cannot be read as bytes"),
        ("rgb8", {"data": np.zeros((4, 2), np.uint8)[:, :1]}, "cannot be read as bytes"),
        ("rgb8", {"width": 4_294_967_295, "height": 4_294_967_295}, "`step` is 48"),
        ("yuv422", {"width": WIDTH - 1}, "width must be even"),
        ("yuyv", {"width": WIDTH - 1}, "width must be even"),
        ("nv12", {"width": WIDTH - 1}, "width must be even"),
        ("nv12", {"height": HEIGHT - 1}, "height must be even"),
        ("nv21", {"width": 15, "height": 11}, "width and height must be even"),
        ("nv12", {"data": bytes(WIDTH * HEIGHT)}, "data too short: 18 rows"),
        ("bayer_rggb8", {"width": 2}, "at least 3"),
        ("bayer_rggb16", {"height": 2}, "at least 3"),
    ],
)
def test_a_bad_image_is_refused(encoding: str, change: dict[str, Any], problem: str) -> None:
    """One error that names topic, encoding, size and problem."""
    msg = replace(message(encoding), **change)
    with pytest.raises(ImageError, match=problem) as caught:
        image_to_rgb(msg, "/camera/image")
    assert "on /camera/image" in str(caught.value)
    assert caught.value.encoding == msg.encoding
    assert (caught.value.width, caught.value.height) == (msg.width, msg.height)


def test_one_row_and_one_pixel() -> None:
    """The smallest pictures of encodings that share no colour between pixels."""
    rgb = image_to_rgb(Image(1, 1, "bgr8", 3, bytes([1, 2, 3])))
    assert rgb.tolist() == [[[3, 2, 1]]]
    assert image_to_rgb(Image(2, 1, "mono8", 2, bytes([1, 2]))).tolist() == [[[1] * 3, [2] * 3]]


def test_random_messages_give_a_picture_or_an_image_error() -> None:
    """No other exception gets out, whatever the fields say."""
    rng = np.random.default_rng(3)
    converted = 0
    for _ in range(2000):
        encoding = str(rng.choice(SUPPORTED_ENCODINGS))
        width, height, step = (int(value) for value in rng.integers(0, 9, 3))
        step += 4 * width
        rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
        size = rows * step + int(rng.choice([-1, 0, 0, 0, 1]))
        msg = Image(width, height, encoding, step, bytes(max(size, 0)))
        try:
            assert image_to_rgb(msg).shape == (height, width, 3)
            converted += 1
        except ImageError:
            pass
    assert converted > 500
