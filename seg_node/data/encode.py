"""Encodes pictures as H.264 or H.265 with stated settings, for protocols and tests.

The codec experiment of AR-Seg on CamVid (papers.md section 2) is::

    Encoding("h265", rate_hz=30, bitrate_kbps=3000, keyint=12, options={"rect": "1", "amp": "1"})

and its equivalent in H.264, whose vectors libavcodec exports, `Encoding(bitrate_kbps=3000)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast, TYPE_CHECKING

import av
from av.video.reformatter import ColorRange
import numpy as np

from seg_node.core.types import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

_LIBRARIES = {"h264": "libx264", "h265": "libx265"}
_PARAMETERS = {"h264": "x264-params", "h265": "x265-params"}
_RGB_NDIM = 3
_AVCOL_SPC_SMPTE170M = 6
"""FFmpeg's number for the BT.601 matrix, which swscale uses from RGB unless told otherwise."""


@dataclass(frozen=True)
class Encoding:
    """Settings of an encoder; what is not here is x264's or x265's own default.

    Attributes:
        codec: `h264` (x264) or `h265` (x265).
        rate_hz: frames per second, which the bitrate refers to.
        bitrate_kbps: average bitrate in kbit/s; None for constant quality.
        quality: constant rate factor, 0 to 51, where no bitrate is given.
        keyint: most frames from one key frame to the next; a scene cut may start one earlier.
        b_frames: most B frames in a row. With any, a stream carries no usable motion.
        references: most reference frames; only with 1 does every vector state its distance.
        preset: x264's or x265's preset.
        threads: threads of the encoder; with 1 the outcome depends on nothing else.
        options: further settings by x264's or x265's own long names, such as `me`; of a name
            that it does not know, the library itself complains on stderr.

    """

    codec: str = "h264"
    rate_hz: float = 30.0
    bitrate_kbps: int | None = None
    quality: int = 20
    keyint: int = 12
    b_frames: int = 0
    references: int = 1
    preset: str = "medium"
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a codec that is not offered, and numbers out of range.

        Raises:
            DataError: one of the settings cannot be used.

        """
        if self.codec not in _LIBRARIES:
            msg = f"cannot encode {self.codec!r}: use h264 or h265"
            raise DataError(msg)
        lowest = {"rate_hz": 1e-3, "keyint": 1, "b_frames": 0, "references": 1, "threads": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                msg = f"encoding: {name} is {getattr(self, name)}; use {low:g} or more"
                raise DataError(msg)


def encode_packets(images: Iterable[NDArray[np.uint8]], encoding: Encoding) -> Iterator[bytes]:
    """Yield one Annex B packet per picture, parameter sets in front of every key picture.

    Without B frames the packets come in the order of the images, one each. The encoder looks
    ahead, so they come later than their images.

    Args:
        images: RGB, uint8 [H, W, 3], both sides even, all of one size.
        encoding: the settings.

    Raises:
        DataError: an image does not fit, or the encoder refuses its settings.

    """
    context: VideoCodecContext | None = None
    for picture in _pictures(images, encoding):
        if context is None:
            created = av.CodecContext.create(_LIBRARIES[encoding.codec], "w")
            context = cast("VideoCodecContext", created)
            _configure(context, picture, encoding)
        yield from _encoded(context, picture)
    if context is not None:
        yield from _encoded(context, None)


def encode_clip(images: Iterable[NDArray[np.uint8]], path: Path | str, encoding: Encoding) -> Path:
    """Write pictures as a video file and return its path; an existing file is replaced.

    Args:
        images: as for `encode_packets`, at least one.
        path: file to write; its ending says the container, such as `.mp4` or `.mkv`.
        encoding: the settings.

    Raises:
        DataError: there is no image, one does not fit, or the file cannot be written.

    """
    path = Path(path)
    pictures = _pictures(images, encoding)
    first = next(pictures, None)
    if first is None:
        msg = f"cannot write video {path}: there is no image"
        raise DataError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path), "w") as container:
            rate = Fraction(encoding.rate_hz).limit_denominator(1001)
            stream = container.add_stream(_LIBRARIES[encoding.codec], rate=rate)
            _configure(stream.codec_context, first, encoding)
            for picture in chain([first], pictures, [None]):
                container.mux(stream.encode(picture))
    except (av.FFmpegError, OSError, ValueError) as error:
        msg = f"cannot write video {path}: {error}"
        raise DataError(msg) from error
    return path


def _configure(context: VideoCodecContext, picture: av.VideoFrame, encoding: Encoding) -> None:
    rate = Fraction(encoding.rate_hz).limit_denominator(1001)
    context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuv420p"
    context.time_base, context.framerate = 1 / rate, rate
    context.color_range, context.colorspace = ColorRange.MPEG, _AVCOL_SPC_SMPTE170M
    context.options = {
        "preset": encoding.preset,
        _PARAMETERS[encoding.codec]: ":".join(f"{k}={v}" for k, v in _settings(encoding).items()),
    }


def _settings(encoding: Encoding) -> dict[str, object]:
    """Return the settings by the long names that x264 and x265 share, then their own."""
    quality: dict[str, object] = {"crf": encoding.quality}
    if encoding.bitrate_kbps is not None:
        quality = {"bitrate": encoding.bitrate_kbps}
    threads: dict[str, object] = {"threads": encoding.threads}
    if encoding.codec == "h265":
        threads = {"pools": encoding.threads, "frame-threads": 1, "log-level": "error"}
    return {
        **quality,
        "keyint": encoding.keyint,
        "bframes": encoding.b_frames,
        "ref": encoding.references,
        **threads,
        **encoding.options,
    }


def _pictures(images: Iterable[NDArray[np.uint8]], encoding: Encoding) -> Iterator[av.VideoFrame]:
    """Yield the images as pictures, numbered from 0 in units of a frame period.

    Raises:
        DataError: an image is not RGB, has an odd side, or another size than the first.

    """
    shape: tuple[int, ...] = ()
    period = 1 / Fraction(encoding.rate_hz).limit_denominator(1001)
    for index, image in enumerate(images):
        if image.ndim != _RGB_NDIM or image.shape[2] != _RGB_NDIM or image.dtype != np.uint8:
            msg = f"cannot encode image {index}: expected uint8 [H, W, 3], got {image.dtype} "
            msg += f"{list(image.shape)}"
            raise DataError(msg)
        shape = shape or image.shape
        if image.shape != shape or image.shape[0] % 2 or image.shape[1] % 2:
            msg = (
                f"cannot encode image {index} of {image.shape[1]}x{image.shape[0]} after "
                f"{shape[1]}x{shape[0]}: use one size with even sides"
            )
            raise DataError(msg)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture.pts, picture.time_base = index, period
        yield picture


def _encoded(context: VideoCodecContext, picture: av.VideoFrame | None) -> Iterator[bytes]:
    """Yield what an encoder gives for a picture, or for the end.

    Raises:
        DataError: the encoder refuses its settings.

    """
    try:
        packets = context.encode(picture)
    except (av.FFmpegError, ValueError) as error:
        msg = f"{context.name} refuses its settings {context.options}: {error}"
        raise DataError(msg) from error
    for packet in packets:
        yield bytes(packet)
