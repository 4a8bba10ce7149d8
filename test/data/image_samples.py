"""Image messages of every encoding that show a marked pixel.

Pictures are packed here by their definition, pixel by pixel, never with the functions under
test. Padding is filled with 0xEE, so that a padding byte that leaks into a picture is seen.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.data.raw_images import SUPPORTED_ENCODINGS

if TYPE_CHECKING:
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
