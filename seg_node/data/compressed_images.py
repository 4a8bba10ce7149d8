"""JPEG and PNG: RGB arrays out of compressed ROS image messages, and files out of arrays.

A picture's own bytes decide about kind and colours; a message's `format` only says whether it is
depth (refused) or an undeveloped Bayer picture (developed). Orientation tags are ignored, since
camera_info describes the picture as the sensor read it.
"""

from __future__ import annotations

from typing import Any, cast, Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import ImageError
from seg_node.data.picture_files import DamagedPictureError, inspect_picture, PictureInfo
from seg_node.data.raw_images import BAYER_CODES, BAYER_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DECODED_PIXELS = 64_000_000
"""Largest compressed picture that is decoded; beyond it a few kilobytes could fill the memory."""


class CompressedMessage(Protocol):
    """The fields of `sensor_msgs/CompressedImage`."""

    header: Any
    format: str
    data: Any


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
    code = BAYER_CODES.get(text.partition(";")[0].strip().rstrip("0123456789"))
    mosaic = info.grey and code is not None
    if mosaic and min(info.width, info.height) < BAYER_SIDE:
        msg = f"width and height must be at least {BAYER_SIDE} for a Bayer pattern"
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
