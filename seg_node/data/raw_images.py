"""Turns raw ROS image messages into RGB arrays.

What each conversion means:

- Rows are cut out of `step` bytes each, so padded rows are right. rgb8 and rgba8 come back as a
  view on the message: no copy, read-only where the message is, and the message's buffer cannot
  be resized while the view lives.
- 16 bit samples keep their high byte, whatever their byte order. A stretch to the brightest
  sample of each picture would look better, but one lamp would then darken the whole frame and
  every block would count as changed.
- 8UC3 names no colours; it is taken as bgr8, because that is how OpenCV holds a picture.
- YUV is BT.601 with limited range, as OpenCV converts it. Semi-planar pictures (nv12, nv21)
  carry height * 3/2 rows in `data`, while `height` is that of the picture.
- Bayer pictures are interpolated bilinearly by OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BAYER_SIDE = 3
"""Smallest side of a Bayer picture in pixels; below, OpenCV has no neighbours to interpolate from
and answers with black."""


class ImageMessage(Protocol):
    """The fields of `sensor_msgs/Image`."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: Any  # uint8 in rclpy, bool or int elsewhere
    step: int
    data: Any  # array.array, NumPy array, bytes: anything with the buffer protocol


@dataclass(frozen=True)
class _Layout:
    """How the bytes of one encoding become RGB.

    Attributes:
        channels: samples per pixel in a row.
        code: OpenCV's colour conversion; None if the first three samples are R, G, B already.
        sample_bytes: bytes per sample; of two, the high one is kept.
        even: which of "width", "height" must be even because chroma is shared by two pixels.
        chroma_rows: whether height / 2 more rows of chroma follow the picture.
        min_side: smallest side that can be converted, in pixels.

    """

    channels: int
    code: int | None = None
    sample_bytes: int = 1
    even: tuple[str, ...] = ()
    chroma_rows: bool = False
    min_side: int = 1

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row without padding."""
        return width * self.channels * self.sample_bytes

    def rows(self, height: int) -> int:
        """Return the number of rows in the data of an image of this height."""
        return height * 3 // 2 if self.chroma_rows else height


def _bayer(code: int, sample_bytes: int) -> _Layout:
    return _Layout(1, code, sample_bytes, min_side=BAYER_SIDE)


_GREY = _Layout(1, cv2.COLOR_GRAY2RGB)
_BGR = _Layout(3, cv2.COLOR_BGR2RGB)
_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, even=("width",))
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, even=("width",))
_NV12 = _Layout(1, cv2.COLOR_YUV2RGB_NV12, even=("width", "height"), chroma_rows=True)
_NV21 = _Layout(1, cv2.COLOR_YUV2RGB_NV21, even=("width", "height"), chroma_rows=True)

# ROS names a mosaic by its first four pixels; OpenCV by the second row from its second column.
BAYER_CODES = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}

_LAYOUTS = {
    "rgb8": _Layout(3),
    "bgr8": _BGR,
    "rgba8": _Layout(4),
    "bgra8": _Layout(4, cv2.COLOR_BGRA2RGB),
    "mono8": _GREY,
    "mono16": _Layout(1, cv2.COLOR_GRAY2RGB, sample_bytes=2),
    "8UC1": _GREY,
    "8UC3": _BGR,
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _NV12,
    "nv21": _NV21,
    **{f"{name}8": _bayer(code, 1) for name, code in BAYER_CODES.items()},
    **{f"{name}16": _bayer(code, 2) for name, code in BAYER_CODES.items()},
}

SUPPORTED_ENCODINGS: tuple[str, ...] = tuple(_LAYOUTS)
"""Encodings of raw images that can be converted."""


def image_to_rgb(msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
    """Convert a raw image with the built-in converter.

    Args:
        msg: an image of one of `SUPPORTED_ENCODINGS`.
        topic: where it came from, for errors.

    Returns:
        RGB, uint8 [H, W, 3]; a view on the message for rgb8 and rgba8.

    Raises:
        ImageError: the encoding is not supported, or size, step and data contradict each other.

    """
    layout = _layout_of(msg, topic)
    rows = _rows_of(msg, layout, topic)
    try:
        return _develop(rows, layout, big_endian=bool(msg.is_bigendian))
    except cv2.error as error:
        raise image_error(msg, topic, f"OpenCV cannot convert it: {error}") from error


def checked_rows(msg: ImageMessage, topic: str) -> NDArray[np.uint8]:
    """View the rows of a message without their padding, uint8 [rows, row bytes].

    Raises:
        ImageError: the encoding is not supported, or size, step and data contradict each other.

    """
    return _rows_of(msg, _layout_of(msg, topic), topic)


def image_error(msg: ImageMessage, topic: str, problem: str) -> ImageError:
    """Return the error that tells what is wrong with a message from a topic."""
    return ImageError(
        problem,
        topic=topic,
        encoding=str(msg.encoding),
        width=int(msg.width),
        height=int(msg.height),
    )


def _layout_of(msg: ImageMessage, topic: str) -> _Layout:
    """Return the layout of the message's encoding, or raise ImageError with the known ones."""
    layout = _LAYOUTS.get(msg.encoding)
    if layout is None:
        known = ", ".join(SUPPORTED_ENCODINGS)
        problem = f"this encoding is not supported; have the driver publish one of: {known}"
        raise image_error(msg, topic, problem)
    return layout


def _rows_of(msg: ImageMessage, layout: _Layout, topic: str) -> NDArray[np.uint8]:
    """View the message's rows without their padding, uint8 [rows, row bytes]."""
    problem = _size_problem(msg, layout)
    if problem:
        raise image_error(msg, topic, problem)
    try:
        data = np.frombuffer(msg.data, np.uint8)
    except (TypeError, ValueError) as error:
        kind = type(msg.data).__name__
        problem = f"`data` is a {kind} that cannot be read as bytes: {error}"
        raise image_error(msg, topic, problem) from error
    step, rows = int(msg.step), layout.rows(int(msg.height))
    if data.size != step * rows:
        relation = "short" if data.size < step * rows else "long"
        problem = (
            f"data too {relation}: {rows} rows of `step` {step} are {step * rows} bytes, "
            f"got {data.size}"
        )
        raise image_error(msg, topic, problem)
    return data.reshape(rows, step)[:, : layout.row_bytes(int(msg.width))]


def _size_problem(msg: ImageMessage, layout: _Layout) -> str:
    """Return what is wrong with width, height and step, empty if nothing is."""
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    if width <= 0 or height <= 0:
        return "width and height must be positive"
    if min(width, height) < layout.min_side:
        return f"width and height must be at least {layout.min_side} for a Bayer pattern"
    odd = [name for name in layout.even if int(getattr(msg, name)) % 2]
    if odd:
        return f"{' and '.join(odd)} must be even, as neighbouring pixels share their colour"
    if step < layout.row_bytes(width):
        return f"`step` is {step}, but a row needs at least {layout.row_bytes(width)} bytes"
    return ""


def _develop(rows: NDArray[np.uint8], layout: _Layout, *, big_endian: bool) -> NDArray[np.uint8]:
    """Turn rows [rows, row bytes] into RGB [H, W, 3]; a view if no colour changes."""
    if layout.sample_bytes == 2:  # noqa: PLR2004 - two bytes: keep the high one
        rows = np.ascontiguousarray(rows[:, 0 if big_endian else 1 :: 2])
    pixels = rows if layout.channels == 1 else rows.reshape(len(rows), -1, layout.channels)
    if layout.code is None:
        return pixels[..., :3]
    return cast("NDArray[np.uint8]", cv2.cvtColor(pixels, layout.code))
