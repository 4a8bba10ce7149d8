"""Reads the size of a JPEG or PNG from its bytes and tells a whole file from a cut one.

Decoders are lenient: OpenCV turns the first half of a JPEG into a picture whose lower half is
grey, without an error, and reserves memory for whatever size a file claims. On a robot both are
ordinary (a full disk, a lost fragment, a hostile sender), so a file is inspected before it is
decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
import re
import struct

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_GREY = 0

# A marker is 0xFF and a code; 0xFF00 is a stuffed data byte, D0..D7 only restart the decoder and
# FF is filling, so the next marker can be searched for through compressed data as well.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_END = 0xD9
_JPEG_WITHOUT_LENGTH = frozenset({0x01, 0xD8})
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_FRAME_HEADER_BYTES = 10  # marker, length, precision, height, width, number of channels


class DamagedPictureError(ValueError):
    """The bytes are not one whole JPEG or PNG file; the text says what is wrong."""


@dataclass(frozen=True)
class PictureInfo:
    """What a picture file says about itself.

    Attributes:
        kind: "jpeg" or "png".
        width: pixels per row.
        height: rows.
        grey: whether there is one channel, without colour or transparency.

    """

    kind: str
    width: int
    height: int
    grey: bool


def inspect_picture(data: memoryview) -> PictureInfo:
    """Read size and kind of a whole JPEG or PNG file; nothing is decoded.

    The kind is taken from the first bytes: names beside the file are often wrong. Bytes after
    the end of the picture are allowed, since cameras pad their buffers.

    Args:
        data: the file, unsigned bytes.

    Raises:
        DamagedPictureError: the file is empty, of another kind, or ends early.

    """
    if not data:
        msg = "the compressed data are empty"
        raise DamagedPictureError(msg)
    if data[: len(_PNG_SIGNATURE)] == _PNG_SIGNATURE:
        return _inspect_png(data)
    if data[: len(_JPEG_SIGNATURE)] == _JPEG_SIGNATURE:
        return _inspect_jpeg(data)
    first = bytes(data[:4]).hex(" ")
    msg = f"the data are neither JPEG nor PNG (they begin with {first})"
    raise DamagedPictureError(msg)


def _inspect_png(data: memoryview) -> PictureInfo:
    """Walk the chunks (length, name, body, checksum) from IHDR to IEND."""
    info: PictureInfo | None = None
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            break
        if name == b"IHDR" and length == 13:  # noqa: PLR2004 - fixed by the PNG standard
            width, height, _depth, colour = struct.unpack_from(">IIBB", data, at + 8)
            info = PictureInfo("png", width, height, colour == _PNG_GREY)
        if name == b"IEND" and info is not None:
            return info
        at += 12 + length
    msg = f"the PNG is cut off: no end chunk in its {len(data)} bytes"
    raise DamagedPictureError(msg)


def _inspect_jpeg(data: memoryview) -> PictureInfo:
    """Walk the markers to the end marker, noting the frame header on the way."""
    info: PictureInfo | None = None
    at = 0
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        start = found.start()
        code = data[start + 1]
        if code == _JPEG_END and info is not None:
            return info
        if code == _JPEG_END or start + _JPEG_FRAME_HEADER_BYTES > len(data):
            break
        if code in _JPEG_WITHOUT_LENGTH:
            at = start + 2
            continue
        if code in _JPEG_FRAME_HEADERS and info is None:
            height, width, channels = struct.unpack_from(">HHB", data, start + 5)
            info = PictureInfo("jpeg", width, height, channels == 1)
        # The body is skipped, not searched: a thumbnail in it has markers of its own.
        at = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    msg = f"the JPEG is cut off: no end marker in its {len(data)} bytes"
    raise DamagedPictureError(msg)
