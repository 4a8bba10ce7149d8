"""Turns ROS image messages, raw or compressed, into RGB arrays.

Node, replay and demo all convert here, so they see the same pixels. Nothing of ROS is imported:
a message is anything with the fields of `sensor_msgs/Image` or `sensor_msgs/CompressedImage`,
as rclpy (data in an `array.array`) and rosbags (data in a NumPy array) make them.

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
- A compressed picture's own bytes decide about kind and colours; `format` only says whether it
  is depth (refused) or an undeveloped Bayer picture (developed). Orientation tags are ignored,
  since camera_info describes the picture as the sensor read it.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast, Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import ConfigError, Frame, ImageError
from seg_node.data.picture_files import DamagedPictureError, inspect_picture, PictureInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_DECODED_PIXELS = 64_000_000
"""Largest compressed picture that is decoded; beyond it a few kilobytes could fill the memory."""

_NS_PER_S = 1_000_000_000

SELF_CHECK_TIMEOUT_S = 60.0
"""Time that cv_bridge gets to be imported and tried, in seconds."""


class ImageMessage(Protocol):
    """The fields of `sensor_msgs/Image`."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: Any  # uint8 in rclpy, bool or int elsewhere
    step: int
    data: Any  # array.array, NumPy array, bytes: anything with the buffer protocol


class CompressedMessage(Protocol):
    """The fields of `sensor_msgs/CompressedImage`."""

    header: Any
    format: str
    data: Any


class Converter(Protocol):
    """Turns a raw image message into RGB."""

    def __call__(self, msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        """Return RGB, uint8 [H, W, 3]; raise ImageError if the message cannot be used."""
        ...


# Raw images ---------------------------------------------------------------------------------


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
    # Below 3x3 OpenCV has no neighbours to interpolate from and answers with black.
    return _Layout(1, code, sample_bytes, min_side=3)


_GREY = _Layout(1, cv2.COLOR_GRAY2RGB)
_BGR = _Layout(3, cv2.COLOR_BGR2RGB)
_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, even=("width",))
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, even=("width",))
_NV12 = _Layout(1, cv2.COLOR_YUV2RGB_NV12, even=("width", "height"), chroma_rows=True)
_NV21 = _Layout(1, cv2.COLOR_YUV2RGB_NV21, even=("width", "height"), chroma_rows=True)

# ROS names a mosaic by its first four pixels; OpenCV by the second row from its second column.
_BAYER_CODES = {
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
    **{f"{name}8": _bayer(code, 1) for name, code in _BAYER_CODES.items()},
    **{f"{name}16": _bayer(code, 2) for name, code in _BAYER_CODES.items()},
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
        raise _image_error(msg, topic, f"OpenCV cannot convert it: {error}") from error


def _image_error(msg: ImageMessage, topic: str, problem: str) -> ImageError:
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
        raise _image_error(msg, topic, problem)
    return layout


def _rows_of(msg: ImageMessage, layout: _Layout, topic: str) -> NDArray[np.uint8]:
    """View the message's rows without their padding, uint8 [rows, row bytes]."""
    problem = _size_problem(msg, layout)
    if problem:
        raise _image_error(msg, topic, problem)
    try:
        data = np.frombuffer(msg.data, np.uint8)
    except (TypeError, ValueError) as error:
        kind = type(msg.data).__name__
        problem = f"`data` is a {kind} that cannot be read as bytes: {error}"
        raise _image_error(msg, topic, problem) from error
    step, rows = int(msg.step), layout.rows(int(msg.height))
    if data.size != step * rows:
        relation = "short" if data.size < step * rows else "long"
        problem = (
            f"data too {relation}: {rows} rows of `step` {step} are {step * rows} bytes, "
            f"got {data.size}"
        )
        raise _image_error(msg, topic, problem)
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


# Compressed images --------------------------------------------------------------------------


def compressed_to_rgb(msg: CompressedMessage, topic: str = "") -> NDArray[np.uint8]:
    """Decode a JPEG or PNG image message.

    Args:
        msg: an image whose `format` is of the kind "jpeg", "png" or
            "rgb8; jpeg compressed bgr8".
        topic: where it came from, for errors.

    Returns:
        RGB, uint8 [H, W, 3]; 16 bit samples keep their high byte, transparency is dropped.

    Raises:
        ImageError: the picture is depth, neither JPEG nor PNG, cut off, damaged, or larger than
            `MAX_DECODED_PIXELS`.

    """
    if "compressedDepth" in msg.format:
        problem = "depth is not a picture; subscribe to the colour camera's `compressed` topic"
        raise ImageError(problem, topic=topic, encoding=msg.format)
    try:
        data = np.frombuffer(msg.data, np.uint8)
        info = inspect_picture(data.data)
    except DamagedPictureError as error:
        problem = f"{error}; supported are JPEG and PNG"
        raise ImageError(problem, topic=topic, encoding=msg.format) from error
    except (TypeError, ValueError) as error:
        kind = type(msg.data).__name__
        problem = f"`data` is a {kind} that cannot be read as bytes: {error}"
        raise ImageError(problem, topic=topic, encoding=msg.format) from error
    try:
        return _decode(data, info, msg.format)
    except (cv2.error, DamagedPictureError) as error:
        size = {"width": info.width, "height": info.height}
        problem = f"the {info.kind} cannot be decoded: {error}"
        raise ImageError(problem, topic=topic, encoding=msg.format, **size) from error


def _decode(data: NDArray[np.uint8], info: PictureInfo, text: str) -> NDArray[np.uint8]:
    """Decode a whole file; `text` is the message's `format`.

    image_transport compresses a Bayer picture as the grey mosaic that it is and says so before
    the semicolon ("bayer_rggb8; jpeg compressed "): such a picture is developed here.
    """
    if info.width * info.height > MAX_DECODED_PIXELS:
        msg = f"more than {MAX_DECODED_PIXELS} pixels; is it damaged?"
        raise DamagedPictureError(msg)
    code = _BAYER_CODES.get(text.partition(";")[0].strip().rstrip("0123456789"))
    mosaic = info.grey and code is not None
    if mosaic and min(info.width, info.height) < 3:  # noqa: PLR2004 - as in _bayer
        msg = "width and height must be at least 3 for a Bayer pattern"
        raise DamagedPictureError(msg)
    flags = cv2.IMREAD_GRAYSCALE if mosaic else cv2.IMREAD_COLOR
    picture = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:  # type: ignore[redundant-expr,unused-ignore] # OpenCV's types omit it
        msg = "its contents are damaged"
        raise DamagedPictureError(msg)
    wanted = code if mosaic and code is not None else cv2.COLOR_BGR2RGB
    return cast("NDArray[np.uint8]", cv2.cvtColor(picture, wanted))


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return a mono8 [H, W] or RGB [H, W, 3] picture as the bytes of a PNG file.

    Raises:
        ImageError: the array has another shape or type, is empty, or is too large for the format.

    """
    return _encode(image, ".png", [])


def encode_jpeg(image: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Return a mono8 [H, W] or RGB [H, W, 3] picture as the bytes of a JPEG file.

    Never for masks: JPEG blends neighbouring class ids into classes that are not there.

    Args:
        image: the picture.
        quality: 0..100.

    Raises:
        ImageError: the array has another shape or type, is empty, or is too large for the format.

    """
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(image: NDArray[np.uint8], suffix: str, options: list[int]) -> bytes:
    known = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)  # noqa: PLR2004 - RGB
    if not known or image.dtype != np.uint8 or image.size == 0:
        problem = f"can encode uint8 [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}"
        raise ImageError(problem)
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image  # noqa: PLR2004 - RGB
    done, data = cv2.imencode(suffix, stored, options)
    if not done:
        height, width = image.shape[:2]
        problem = f"OpenCV cannot write it as {suffix}; are its sides too long for the format?"
        raise ImageError(problem, width=width, height=height)
    return data.tobytes()


# Frames -------------------------------------------------------------------------------------


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


# The choice of a converter ------------------------------------------------------------------

CONVERTER_NAMES = ("auto", "cv_bridge", "builtin")
"""Values of the parameter `input.converter`."""

# For these both converters give the same picture, bit for bit, so the choice changes no mask.
# rgb8 and rgba8 are absent because the built-in converter returns them without a copy; 16 bit
# because cv_bridge rounds x * 255 / 65535, which is the high byte or one more or less; the others
# because some version of cv_bridge does not know them.
_CV_BRIDGE_ENCODINGS = frozenset(
    {"bgr8", "bgra8", "mono8", "yuv422"} | {f"{name}8" for name in _BAYER_CODES}
)


@dataclass(frozen=True)
class ChosenConverter:
    """A converter and why it was chosen.

    Attributes:
        name: what is used, "cv_bridge" or "builtin".
        note: the reason, one sentence for logs and `seg_node doctor`.
        convert: the converter itself.

    """

    name: str
    note: str
    convert: Converter

    def __call__(self, msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        """Convert a raw image to RGB, uint8 [H, W, 3]; errors as in `image_to_rgb`."""
        return self.convert(msg, topic)


def choose_converter(name: str) -> ChosenConverter:
    """Return the converter of raw images that `input.converter` asks for.

    "auto" takes cv_bridge where it can be imported and converts four known pictures right, else
    the built-in; the note says which and why. The trial runs in a process of its own, because
    a cv_bridge built for another NumPy may print pages of noise or end the process.

    Args:
        name: one of `CONVERTER_NAMES`.

    Raises:
        ConfigError: the name is unknown, or cv_bridge was asked for and does not work.

    """
    if name not in CONVERTER_NAMES:
        msg = f"`input.converter` must be one of {', '.join(CONVERTER_NAMES)}, got {name!r}"
        raise ConfigError(msg)
    if name == "builtin":
        return ChosenConverter("builtin", "the built-in converter was asked for", image_to_rgb)
    problem = _cv_bridge_problem()
    if not problem:
        note = (
            "cv_bridge converts known pictures right; padded rows, 16 bit and what needs no "
            "copy go to the built-in converter"
        )
        return ChosenConverter("cv_bridge", note, _cv_bridge_converter())
    if name == "auto":
        note = f"the built-in converter is used because {problem}"
        return ChosenConverter("builtin", note, image_to_rgb)
    msg = (
        f"`input.converter` is cv_bridge, but {problem}; set it to builtin or auto, or install a "
        f"cv_bridge that fits this Python {sys.version_info.major}.{sys.version_info.minor} and "
        f"NumPy {np.__version__}"
    )
    raise ConfigError(msg)


def _cv_bridge_problem() -> str:
    """Return why cv_bridge cannot be used here, empty if it can."""
    if importlib.util.find_spec("cv_bridge") is None:
        return "cv_bridge is not installed for this Python"
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [path or str(Path.cwd()) for path in sys.path]
    try:
        trial = subprocess.run(  # noqa: S603 - this interpreter, a constant program
            [sys.executable, "-c", f"import {__name__} as c; c.check_cv_bridge()"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, package_root])},
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=SELF_CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"cv_bridge did not finish its self-check within {SELF_CHECK_TIMEOUT_S:g} s"
    except OSError as error:
        return f"the self-check of cv_bridge could not be started: {error}"
    return _trial_problem(trial.returncode, trial.stderr)


def _trial_problem(returncode: int, stderr: str) -> str:
    """Return in words how the trial failed, empty if it did not."""
    if returncode == 0:
        return ""
    if returncode < 0:
        end = f"ended by signal {-returncode}, {signal.strsignal(-returncode)}"
    else:
        end = (stderr.strip().splitlines() or [f"exit status {returncode}"])[-1]
    # The words of NumPy when a module was compiled for the C interface of NumPy 1.
    cause = "; it was built for NumPy 1" if "_ARRAY_API" in stderr else ""
    return f"cv_bridge fails its self-check ({end}{cause})"


def check_cv_bridge() -> None:
    """Import cv_bridge and convert four known pictures; meant for a process of its own.

    Raises:
        ConfigError: a picture comes out wrong. Anything that cv_bridge raises also gets out.

    """
    bridge = importlib.import_module("cv_bridge").CvBridge()
    for encoding, pixels, expected in _known_pictures():
        result = np.asarray(bridge.imgmsg_to_cv2(_plain_message(encoding, pixels), "rgb8"))
        if result.shape != expected.shape or not np.array_equal(result, expected):
            msg = f"it converts {encoding} wrongly"
            raise ConfigError(msg)


def _known_pictures() -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return (encoding, samples, expected RGB) of pictures whose conversion can be told by eye."""
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[1, 2] = (200, 100, 50)
    mono = np.zeros((4, 6), np.uint8)
    mono[1, 2] = 70
    mosaic = np.tile(np.array([[200, 100], [100, 50]], np.uint8), (4, 5))
    even = np.broadcast_to(np.array([200, 100, 50], np.uint8), (8, 10, 3))
    return [
        ("rgb8", rgb, rgb),
        ("bgr8", np.ascontiguousarray(rgb[..., ::-1]), rgb),
        ("mono8", mono, np.repeat(mono[..., None], 3, axis=2)),
        ("bayer_rggb8", mosaic, even),
    ]


def _plain_message(encoding: str, pixels: NDArray[np.uint8]) -> ImageMessage:
    """Return samples [H, W] or [H, W, C] as an image message without padding."""
    height, width = pixels.shape[:2]
    message = SimpleNamespace(
        header=None,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // height,
        data=pixels.tobytes(),
    )
    return cast("ImageMessage", message)


def _cv_bridge_converter() -> Converter:
    """Return a converter that uses cv_bridge for what every version of it converts right.

    Padded rows are not among it: cv_bridge 1.16 ignores `step` and shears the picture, later
    ones divide it by the bytes of a pixel and shear it whenever there is a remainder. Messages
    marked as big-endian are not either: that branch calls a method that NumPy 2 has removed.
    """
    bridge_convert: Callable[[Any, str], Any] = (
        importlib.import_module("cv_bridge").CvBridge().imgmsg_to_cv2
    )

    def convert(msg: ImageMessage, topic: str = "") -> NDArray[np.uint8]:
        layout = _layout_of(msg, topic)
        rows = _rows_of(msg, layout, topic)
        padded = int(msg.step) != rows.shape[1]
        if padded or msg.is_bigendian or msg.encoding not in _CV_BRIDGE_ENCODINGS:
            return image_to_rgb(msg, topic)
        try:
            picture = np.asarray(bridge_convert(msg, "rgb8"))
        except (TypeError, ValueError, AttributeError, RuntimeError, cv2.error) as error:
            # CvBridgeError is a TypeError
            raise _image_error(msg, topic, f"cv_bridge cannot convert it: {error}") from error
        return cast("NDArray[np.uint8]", picture)

    return convert
