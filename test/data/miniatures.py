"""Writes data sets of a few 16x12 pictures, for the tests of the sources."""

from __future__ import annotations

from contextlib import contextmanager
import os
import struct
from typing import Any, TYPE_CHECKING
import zlib

import cv2
import numpy as np

from seg_node.data.bag_writer import BagWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HEIGHT, WIDTH = 12, 16
START_NS = 10**15
STEP_NS = 100_000_000
_NOBODY = 65_534


def picture(value: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Return an RGB picture of one brightness, with a red pixel at row 2, column 5."""
    image = np.full((height, width, 3), value, np.uint8)
    image[2, 5] = (255, 0, 0)
    return image


def id_mask(value: int, **marked: int) -> NDArray[np.uint8]:
    """Return ids of one value; `marked`, if given, is the id at row 4, column 7."""
    ids = np.full((HEIGHT, WIDTH), value, np.uint8)
    ids[4, 7] = marked.get("marked", value)
    return ids


def color_mask(
    color: tuple[int, int, int], marked: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Return an RGB mask of one colour; `marked`, if given, is that at row 4, column 7."""
    mask = np.full((HEIGHT, WIDTH, 3), color, np.uint8)
    mask[4, 7] = marked or color
    return mask


def write_picture(path: Path, image: NDArray[np.integer[Any]]) -> Path:
    """Write a picture file, RGB or greyscale, losslessly for PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.ascontiguousarray(image[:, :, ::-1]) if image.ndim == 3 else image
    assert cv2.imwrite(str(path), stored)
    return path


def write_palette(path: Path, numbers: NDArray[np.uint8], depth: int = 8) -> Path:
    """Write a PNG with a palette in which number n has the colour (n, 255 - n, 7)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = numbers.shape
    bits = np.unpackbits(numbers[..., None], axis=-1)[..., 8 - depth :].reshape(height, -1)
    rows = np.packbits(bits, axis=-1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    colors = bytes(x for n in range(2**depth) for x in (n, 255 - n, 7))
    header = struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", colors), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    return path


def make_bag(path: Path, topics: dict[str, int], bad: int = 0) -> Path:
    """Write a bag with this many raw images per topic, `bad` of them of an unknown encoding."""
    with BagWriter(path) as bag:
        for topic, count in topics.items():
            for index in range(count):
                bag.write_image(
                    topic,
                    picture(10 * index),
                    stamp_ns=START_NS + index * STEP_NS,
                    frame_id="front",
                    receive_ns=START_NS + index * STEP_NS + 7,
                    encoding="32FC3" if index < bad else None,
                )
    return path


def cut_off(path: Path, part: float = 0.7) -> None:
    """Leave only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])


@contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """Make a file unreadable for this process while the body runs, also for root."""
    before = path.stat().st_mode
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)
