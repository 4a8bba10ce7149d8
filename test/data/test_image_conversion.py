"""Every encoding gives the marked pixel its place and colour; everything else gives ImageError.

Pictures are packed here by their definition, pixel by pixel, never with the functions under
test. Padding is filled with 0xEE, so that a padding byte that leaks into a picture is seen.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
import struct
import sys
from typing import Any, TYPE_CHECKING
import zlib

import cv2
import numpy as np
import pytest
from rosbags.typesys import get_typestore, Stores

from seg_node.core.types import ConfigError, ImageError
from seg_node.data import image_conversion
from seg_node.data.image_conversion import (
    choose_converter,
    ChosenConverter,
    compressed_to_rgb,
    CONVERTER_NAMES,
    encode_jpeg,
    encode_png,
    image_to_rgb,
    message_to_frame,
    SUPPORTED_ENCODINGS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT = 16, 12
BACKGROUND, MARK = (30, 60, 90), (200, 100, 50)
BAYER = [name for name in SUPPORTED_ENCODINGS if name.startswith("bayer")]
YUV = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"]
GREY = ["mono8", "mono16", "8UC1"]


@dataclass(frozen=True)
class Stamp:
    """`builtin_interfaces/Time`."""

    sec: int = 12
    nanosec: int = 345


@dataclass(frozen=True)
class Header:
    """`std_msgs/Header`."""

    stamp: Stamp = field(default_factory=Stamp)
    frame_id: str = "camera_front"


@dataclass
class Image:
    """`sensor_msgs/Image`."""

    width: int
    height: int
    encoding: str
    step: int
    data: Any
    is_bigendian: int = 0
    header: Header = field(default_factory=Header)


@dataclass
class Compressed:
    """`sensor_msgs/CompressedImage`."""

    format: str
    data: Any
    header: Header = field(default_factory=Header)


# Pictures -----------------------------------------------------------------------------------


def marked_picture(mark_rows: slice, mark_columns: slice) -> NDArray[np.uint8]:
    """Return RGB [HEIGHT, WIDTH, 3] in which only the given pixels differ."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = BACKGROUND
    picture[mark_rows, mark_columns] = MARK
    return picture


def picture_for(encoding: str) -> NDArray[np.uint8]:
    """Return the picture with the smallest mark that the encoding can carry exactly."""
    if encoding in BAYER:  # colours are interpolated from the 3x3 neighbours
        return marked_picture(slice(3, 8), slice(6, 13))
    if encoding in ("nv12", "nv21"):  # 2x2 pixels share their colour
        return marked_picture(slice(2, 4), slice(6, 8))
    if encoding in YUV:  # 1x2 pixels share their colour
        return marked_picture(slice(2, 3), slice(6, 8))
    return marked_picture(slice(2, 3), slice(5, 6))


def yuv_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return BT.601 limited range Y, U, V of an RGB picture, by the standard's matrix."""
    matrix = np.array(
        [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
    )
    yuv: NDArray[np.float64] = picture / 255 @ matrix.T + (16, 128, 128)
    return np.rint(yuv).astype(np.uint8)


def packed_rows(encoding: str, picture: NDArray[np.uint8], big_endian: int) -> NDArray[np.uint8]:
    """Return the rows of a message that shows the picture, uint8 [rows, row bytes]."""
    if encoding in YUV:
        return packed_yuv(encoding, yuv_of(picture))
    samples: NDArray[np.uint8]
    if encoding in BAYER:
        samples = mosaic_of(encoding, picture)
    else:
        alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
        red, green, blue = (picture[..., i : i + 1] for i in range(3))
        channels = {"r": red, "g": green, "b": blue, "a": alpha}
        names = {"8UC3": "bgr", **dict.fromkeys(GREY, "r")}.get(encoding, encoding[:-1])
        samples = np.concatenate([channels[name] for name in names], axis=2)
    if not encoding.endswith("16"):
        return samples.reshape(HEIGHT, -1)
    low = np.full_like(samples, 0xEE)
    order = (samples, low) if big_endian else (low, samples)
    return np.stack(order, axis=-1).reshape(HEIGHT, -1)


def packed_yuv(encoding: str, yuv: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the rows of a YUV message; the chroma of the first pixel stands for its group."""
    luma, u, v = yuv[..., 0], yuv[..., 1], yuv[..., 2]
    if encoding in ("nv12", "nv21"):
        first, second = (u, v) if encoding == "nv12" else (v, u)
        chroma = np.stack([first[::2, ::2], second[::2, ::2]], axis=-1).reshape(HEIGHT // 2, WIDTH)
        return np.concatenate([luma, chroma])
    colour = np.stack([u[:, ::2], v[:, ::2]], axis=-1).reshape(HEIGHT, WIDTH)
    pair = (colour, luma) if encoding in ("yuv422", "uyvy") else (luma, colour)
    return np.stack(pair, axis=-1).reshape(HEIGHT, -1)


def mosaic_of(encoding: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a sensor with the named colour filters sees of the picture, [H, W]."""
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    names = encoding.removeprefix("bayer_")[:4]
    for name, (row, column) in zip(names, product((0, 1), (0, 1)), strict=True):
        mosaic[row::2, column::2] = picture[row::2, column::2, "rgb".index(name)]
    return mosaic


def message(encoding: str, padding: int = 0, big_endian: int = 0) -> Image:
    """Return a message that shows `picture_for(encoding)`."""
    rows = packed_rows(encoding, picture_for(encoding), big_endian)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xEE)
    data = array("B", rows.tobytes())
    return Image(WIDTH, HEIGHT, encoding, rows.shape[1], data, is_bigendian=big_endian)


def expected_rgb(encoding: str) -> NDArray[np.uint8]:
    """Return the RGB that the message must give."""
    picture = picture_for(encoding)
    return np.repeat(picture[..., :1], 3, axis=2) if encoding in GREY else picture


def assert_shows(result: NDArray[np.uint8], encoding: str) -> None:
    """Check all pixels: exactly, but for the rounding of YUV and the edges of a Bayer mark."""
    expected = expected_rgb(encoding)
    assert result.dtype == np.uint8
    assert result.shape == expected.shape
    difference = np.abs(result.astype(int) - expected).max(axis=2)
    if encoding in BAYER:
        reach = np.ones((3, 3), np.uint8)
        marked = (expected[..., 0] == MARK[0]).astype(np.uint8)
        difference[cv2.dilate(marked, reach) != cv2.erode(marked, reach)] = 0
        difference[[0, -1]] = difference[:, [0, -1]] = 0  # OpenCV repeats the border's colours
    assert difference.max() <= (3 if encoding in YUV else 0)


# Raw images ---------------------------------------------------------------------------------


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


# Compressed images --------------------------------------------------------------------------


def blocks() -> NDArray[np.uint8]:
    """Return RGB [48, 64, 3] with one marked 16x16 block, which JPEG keeps but for rounding."""
    picture = np.empty((48, 64, 3), np.uint8)
    picture[:] = BACKGROUND
    picture[16:32, 32:48] = MARK
    return picture


def assert_shows_blocks(result: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    """Check all pixels but those beside the mark's edge, where JPEG mixes colours."""
    assert result.dtype == np.uint8
    assert result.shape == expected.shape
    difference = np.abs(result.astype(int) - expected)
    for edge in (16, 32):
        difference[edge - 2 : edge + 2] = 0
    for edge in (32, 48):
        difference[:, edge - 2 : edge + 2] = 0
    assert difference.max() <= 4


def jpeg_with(segment: bytes, picture: NDArray[np.uint8], *options: int) -> bytes:
    """Return a JPEG with an additional segment behind its start marker."""
    data = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
    return data[:2] + segment + data[2:]


def exif(body: bytes) -> bytes:
    """Return an APP1 segment."""
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "text", ["jpeg", "jpg", "JPEG", "", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"]
)
@pytest.mark.parametrize("container", [bytes, np.frombuffer, "array"])
def test_jpeg(text: str, container: Any) -> None:
    """Whatever its format says: the colours of the file are those of the picture."""
    data: Any = encode_jpeg(blocks(), quality=100)
    if container == "array":
        data = array("B", data)
    elif container is np.frombuffer:
        data = np.frombuffer(data, np.uint8)
    assert_shows_blocks(compressed_to_rgb(Compressed(text, data)), blocks())


@pytest.mark.parametrize(
    "text", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed ", "jpeg"]
)
def test_png(text: str) -> None:
    """Lossless, so exact."""
    picture = marked_picture(slice(2, 3), slice(5, 6))
    result = compressed_to_rgb(Compressed(text, encode_png(picture)))
    np.testing.assert_array_equal(result, picture)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_files(suffix: str) -> None:
    """One channel is repeated."""
    grey = blocks()[..., 0]
    data = cv2.imencode(suffix, grey)[1].tobytes()
    result = compressed_to_rgb(Compressed("mono8; png compressed mono8", data))
    assert_shows_blocks(result, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_any_depth(channels: int, dtype: type[np.unsignedinteger[Any]]) -> None:
    """16 bit keep the high byte, as in raw images; transparency is dropped."""
    picture = marked_picture(slice(2, 3), slice(5, 6))
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    bgra = np.concatenate([picture[..., ::-1], alpha], axis=2)
    stored = picture[..., :1] if channels == 1 else bgra[..., :channels]
    if dtype == np.uint16:
        stored = stored.astype(np.uint16) * 256 + 0xEE
    data = cv2.imencode(".png", stored)[1].tobytes()
    expected = np.repeat(picture[..., :1], 3, axis=2) if channels == 1 else picture
    np.testing.assert_array_equal(compressed_to_rgb(Compressed("png", data)), expected)


@pytest.mark.parametrize("encoding", BAYER)
def test_a_compressed_mosaic_is_developed(encoding: str) -> None:
    """image_transport stores a Bayer picture as grey and names its pattern in the format."""
    mosaic: NDArray[Any] = mosaic_of(encoding, picture_for(encoding))
    if encoding.endswith("16"):
        mosaic = mosaic.astype(np.uint16) * 256 + 0xEE
    data = cv2.imencode(".png", mosaic)[1].tobytes()
    assert_shows(compressed_to_rgb(Compressed(f"{encoding}; png compressed ", data)), encoding)


def test_a_developed_bayer_picture_is_left_alone() -> None:
    """The format names the sensor's pattern, but the file has colours already."""
    data = encode_png(blocks())
    msg = Compressed("bayer_rggb8; png compressed bgr8", data)
    np.testing.assert_array_equal(compressed_to_rgb(msg), blocks())


@pytest.mark.parametrize(
    "options",
    [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)],
    ids=["baseline", "progressive", "restart markers"],
)
def test_a_jpeg_cut_anywhere_is_refused(options: tuple[int, ...]) -> None:
    """OpenCV alone would return a half-grey picture; padding behind the end is fine."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = jpeg_with(b"", noise, *options)
    whole = compressed_to_rgb(Compressed("jpeg", data))
    padded = compressed_to_rgb(Compressed("jpeg", data + bytes(500)))
    np.testing.assert_array_equal(padded, whole)
    for length in range(len(data)):
        with pytest.raises(ImageError, match=r"cut off|empty|neither"):
            compressed_to_rgb(Compressed("jpeg", data[:length]))


def test_a_png_cut_anywhere_is_refused() -> None:
    """Chunks are counted to the end chunk."""
    data = encode_png(blocks())
    for length in range(len(data)):
        with pytest.raises(ImageError, match=r"cut off|empty|neither"):
            compressed_to_rgb(Compressed("png", data[:length]))


def test_a_thumbnail_does_not_hide_a_cut() -> None:
    """The end marker of a thumbnail inside a segment is not that of the picture."""
    thumbnail = encode_jpeg(blocks()[:16, :16])
    data = jpeg_with(exif(b"Exif\0\0" + thumbnail), blocks())
    assert compressed_to_rgb(Compressed("jpeg", data)).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="cut off"):
        compressed_to_rgb(Compressed("jpeg", data[:-2]))


def test_an_orientation_tag_is_ignored() -> None:
    """A mask has to fit camera_info, which knows no orientation."""
    tag = (
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    )
    data = jpeg_with(exif(tag), blocks(), cv2.IMWRITE_JPEG_QUALITY, 100)
    turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert turned is not None
    assert turned.shape == (64, 48, 3), "the tag is not read, so this test shows nothing"
    assert_shows_blocks(compressed_to_rgb(Compressed("jpeg", data)), blocks())


def claiming(width: int, height: int, suffix: str) -> bytes:
    """Return a small file whose header claims another size."""
    data = bytearray(cv2.imencode(suffix, blocks())[1].tobytes())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_decompression_bomb_is_not_decoded(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is read from the header before any memory is taken for it."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match="more than 64000000 pixels") as caught:
        compressed_to_rgb(Compressed("x", claiming(64_000, 1_001, suffix)), "/camera")
    assert (caught.value.width, caught.value.height) == (64_000, 1_001)


def damaged_png() -> bytes:
    """Return a whole PNG with one wrong byte in its pixels."""
    data = bytearray(encode_png(blocks()))
    data[data.index(b"IDAT") + 20] ^= 0x55
    return bytes(data)


@pytest.mark.parametrize(
    ("text", "data", "problem"),
    [
        ("16UC1; compressedDepth png", encode_png(blocks()), "depth is not a picture"),
        ("32FC1; compressedDepth", b"", "depth is not a picture"),
        ("jpeg", b"", "empty; supported are JPEG and PNG"),
        ("h264", b"\x00\x00\x00\x01\x67", "neither JPEG nor PNG .*00 00 00 01"),
        ("jpeg", b"\xff\xd8\xff\xd9", "cut off"),
        ("png", damaged_png(), "png cannot be decoded: its contents are damaged"),
        ("jpeg", claiming(0, 48, ".jpg"), "jpeg cannot be decoded"),
        ("png", claiming(0, 48, ".png"), "png cannot be decoded"),
        ("jpeg", [255, 216], "a list that cannot be read as bytes"),
        ("bayer_rggb8; png compressed ", encode_png(blocks()[:2, :, 0]), "at least 3"),
    ],
)
def test_a_bad_compressed_image_is_refused(text: str, data: Any, problem: str) -> None:
    """One error that names topic, format and problem."""
    with pytest.raises(ImageError, match=problem) as caught:
        compressed_to_rgb(Compressed(text, data), "/camera/compressed")
    assert "on /camera/compressed" in str(caught.value)
    assert caught.value.encoding == text


def test_random_damage_gives_a_picture_or_an_image_error() -> None:
    """No other exception gets out, whichever byte is wrong."""
    rng = np.random.default_rng(4)
    for original in (encode_png(blocks()), encode_jpeg(blocks())):
        for _ in range(150):
            data = bytearray(original)
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
            with suppress(ImageError):
                assert compressed_to_rgb(Compressed("x", bytes(data))).ndim == 3


# Encoding -----------------------------------------------------------------------------------


def test_encoded_masks_and_pictures_come_back() -> None:
    """PNG keeps every class id; JPEG is a JPEG."""
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    decoded = cv2.imdecode(np.frombuffer(encode_png(labels), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, labels)
    assert encode_jpeg(blocks())[:3] == b"\xff\xd8\xff"
    assert len(encode_jpeg(blocks(), quality=10)) < len(encode_jpeg(blocks(), quality=95))


@pytest.mark.parametrize(
    "array_", [np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_what_cannot_be_encoded_is_refused(array_: NDArray[np.uint8]) -> None:
    """Shapes are named."""
    with pytest.raises(ImageError, match=r"can encode uint8 \[H, W\]"):
        encode_png(array_)


def test_a_picture_too_large_for_jpeg_is_refused() -> None:
    """Its sides are 16 bit numbers."""
    with pytest.raises(ImageError, match=r"70000x1\): OpenCV cannot write it as \.jpg"):
        encode_jpeg(np.zeros((1, 70_000), np.uint8))


# Frames -------------------------------------------------------------------------------------


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


# The choice of a converter ------------------------------------------------------------------

WORKING = """
from seg_node.data.image_conversion import image_to_rgb
calls = []
class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding):
        calls.append(msg.encoding)
        if bytes(msg.data[:3]) == b"bad":
            raise TypeError("as CvBridgeError is")
        return image_to_rgb(msg)
"""
SWAPPED = """
from seg_node.data.image_conversion import image_to_rgb
class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding):
        return image_to_rgb(msg)[..., ::-1]
"""


@pytest.fixture(autouse=True)
def _forget_cv_bridge() -> Iterator[None]:
    """Remove what a test imported under this name."""
    before = sys.modules.pop("cv_bridge", None)
    yield
    sys.modules.pop("cv_bridge", None)
    if before is not None:
        sys.modules["cv_bridge"] = before


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Make a cv_bridge of this source importable."""
    (folder / "cv_bridge.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_unknown_names_are_refused() -> None:
    """With the known ones."""
    assert CONVERTER_NAMES == ("auto", "cv_bridge", "builtin")
    with pytest.raises(ConfigError, match="auto, cv_bridge, builtin, got 'opencv'"):
        choose_converter("opencv")


def test_builtin_can_be_asked_for() -> None:
    """And converts."""
    chosen = choose_converter("builtin")
    assert chosen.name == "builtin"
    assert "asked for" in chosen.note
    assert_shows(chosen(message("bgr8", 5), "/t"), "bgr8")


def test_without_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto falls back and says so; asking for it is an error with the fix."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    chosen = choose_converter("auto")
    assert (chosen.name, "not installed" in chosen.note) == ("builtin", True)
    with pytest.raises(ConfigError, match=r"not installed .* set it to builtin or auto, or inst"):
        choose_converter("cv_bridge")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libboost is missing')", "ImportError: libboost is missing"),
        ("raise AttributeError('_ARRAY_API not found')", "it was built for NumPy 1"),
        ("import os; print('noise'); os.abort()", "ended by signal 6"),
        ("import sys; sys.exit(3)", "exit status 3"),
        (SWAPPED, "it converts rgb8 wrongly"),
    ],
)
def test_a_broken_cv_bridge_is_not_used(
    source: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The reason is named, nothing is printed, and this process goes on."""
    install(monkeypatch, tmp_path, source)
    chosen = choose_converter("auto")
    assert chosen.name == "builtin"
    assert reason in chosen.note
    assert capfd.readouterr() == ("", "")
    assert "cv_bridge" not in sys.modules


def test_a_cv_bridge_that_hangs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name, it is an error."""
    install(monkeypatch, tmp_path, "import time; time.sleep(60)")
    monkeypatch.setattr(image_conversion, "SELF_CHECK_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match=r"did not finish its self-check within 0\.2 s"):
        choose_converter("cv_bridge")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChosenConverter, Any]]:
    """Return the converter around a cv_bridge that works, and that module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch, tmp_path_factory.mktemp("working"), WORKING)
        chosen = choose_converter("auto")
        yield chosen, sys.modules["cv_bridge"]


def test_a_working_cv_bridge_is_used(working: tuple[ChosenConverter, Any]) -> None:
    """For what it converts as the built-in does; the rest it never sees."""
    chosen, bridge = working
    assert chosen.name == "cv_bridge"
    for encoding, padding, big_endian in product(SUPPORTED_ENCODINGS, (0, 5), (0, 1)):
        bridge.calls.clear()
        assert_shows(chosen(message(encoding, padding, big_endian)), encoding)
        trusted = encoding in ("bgr8", "bgra8", "mono8", "yuv422") or (
            encoding in BAYER and encoding.endswith("8")
        )
        asked = trusted and not padding and not big_endian
        assert bridge.calls == ([encoding] if asked else []), encoding


def test_messages_are_checked_before_cv_bridge_sees_them(
    working: tuple[ChosenConverter, Any],
) -> None:
    """It would read past the end of short data, or raise what nobody catches."""
    chosen, bridge = working
    bridge.calls.clear()
    for change in ({"data": b"x"}, {"width": 0}, {"encoding": "32FC1"}):
        with pytest.raises(ImageError, match="on /t"):
            chosen(replace(message("bgr8"), **change), "/t")
    assert not bridge.calls
    bad = message("bgr8")
    bad.data[:3] = array("B", b"bad")
    with pytest.raises(ImageError, match=r"on /t .*cv_bridge cannot convert it: as CvBridgeError"):
        chosen(bad, "/t")


def test_rgb8_stays_a_view_with_cv_bridge(working: tuple[ChosenConverter, Any]) -> None:
    """It would copy what needs no conversion."""
    msg = message("rgb8")
    assert np.shares_memory(working[0](msg), np.frombuffer(msg.data, np.uint8))
