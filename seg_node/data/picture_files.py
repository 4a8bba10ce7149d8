"""Reads the size of a JPEG or PNG from its bytes and tells a whole file from a cut one.

Decoders are lenient: OpenCV turns the first half of a JPEG into a picture whose lower half is
grey, without an error, and reserves memory for whatever size a file claims. On a robot both are
ordinary (a full disk, a lost fragment, a hostile sender), so a file is inspected before it is
decoded.

Of a PNG with a palette OpenCV returns the colours; a label file means the numbers behind them,
so its header can be rewritten to that of a grey picture.
"""

from __future__ import annotations

from dataclasses import dataclass
import re
import struct
from typing import TYPE_CHECKING
import zlib

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_GREY = 0
_PNG_PALETTE = 3
_PNG_KEPT_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND"})
_PNG_GREY_STEPS = {1: 255, 2: 85, 4: 17, 8: 1}
"""Bits per sample -> what a decoder multiplies grey samples with to fill 0..255."""

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
        palette: whether it is a PNG whose samples are numbers of a table of colours.

    """

    kind: str
    width: int
    height: int
    grey: bool
    palette: bool = False


def has_known_kind(data: memoryview) -> bool:
    """Tell whether a file begins like a JPEG or PNG, the kinds that can be inspected."""
    signatures = (_PNG_SIGNATURE, _JPEG_SIGNATURE)
    return any(data[: len(x)] == x for x in signatures)


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


def glance_picture(data: memoryview) -> PictureInfo:
    """Read size and kind like `inspect_picture`, looking at as few bytes as possible.

    A JPEG that ends with its end marker is taken for whole. For data sets of many gigabytes,
    mapped into memory.

    Raises:
        DamagedPictureError: as `inspect_picture`.

    """
    jpeg = data[: len(_JPEG_SIGNATURE)] == _JPEG_SIGNATURE
    if jpeg and data[-2:] == bytes((0xFF, _JPEG_END)):
        return _inspect_jpeg(data, to_end=False)
    return inspect_picture(data)


def check_png(data: memoryview) -> None:
    """Compare the checksum of every chunk of a PNG; older decoders show damage as pixels.

    Raises:
        DamagedPictureError: a checksum is wrong, or the file ends early.

    """
    for name, chunk in _png_chunks(data):
        (stated,) = struct.unpack_from(">I", chunk, len(chunk) - 4)
        if zlib.crc32(chunk[4:-4]) != stated:
            msg = f"the PNG is damaged: the checksum of its {name.decode('latin-1')} is wrong"
            raise DamagedPictureError(msg)


def without_palette(data: memoryview) -> tuple[bytes, int]:
    """Rewrite a PNG with a palette as a grey one whose samples are the numbers of the colours.

    Returns:
        The rewritten file, and the factor that its decoded samples are to be divided by.

    Raises:
        DamagedPictureError: it ends early, or is no PNG with a palette.

    """
    kept = [_PNG_SIGNATURE]
    factor = 0
    for name, chunk in _png_chunks(data):
        if name == b"IHDR" and chunk[17] == _PNG_PALETTE:
            factor = _PNG_GREY_STEPS.get(chunk[16], 0)
            body = bytes(chunk[4:17]) + bytes([_PNG_GREY]) + bytes(chunk[18:-4])
            kept += [bytes(chunk[:4]), body, struct.pack(">I", zlib.crc32(body))]
        elif name in _PNG_KEPT_CHUNKS:
            kept.append(bytes(chunk))
    if not factor:
        msg = "the picture is no PNG with a palette"
        raise DamagedPictureError(msg)
    return b"".join(kept), factor


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and bytes (length, name, body, checksum) of the chunks up to IEND.

    Raises:
        DamagedPictureError: there is no IEND.

    """
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            break
        yield name, data[at : at + 12 + length]
        if name == b"IEND":
            return
        at += 12 + length
    msg = f"the PNG is cut off: no end chunk in its {len(data)} bytes"
    raise DamagedPictureError(msg)


def _inspect_png(data: memoryview) -> PictureInfo:
    """Walk the chunks from IHDR to IEND."""
    info: PictureInfo | None = None
    for name, chunk in _png_chunks(data):
        if name == b"IHDR" and len(chunk) == 25:  # noqa: PLR2004 - fixed by the PNG standard
            width, height, _depth, colour = struct.unpack_from(">IIBB", chunk, 8)
            palette = colour == _PNG_PALETTE
            info = PictureInfo("png", width, height, colour == _PNG_GREY, palette)
    if info is None:
        msg = "the PNG is damaged: it has no header"
        raise DamagedPictureError(msg)
    return info


def _inspect_jpeg(data: memoryview, *, to_end: bool = True) -> PictureInfo:
    """Walk the markers to the end marker, or only to the frame header."""
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
            if not to_end:
                return info
        # The body is skipped, not searched: a thumbnail in it has markers of its own.
        at = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    msg = f"the JPEG is cut off: no end marker in its {len(data)} bytes"
    raise DamagedPictureError(msg)
