"""Reads picture files of data sets; a file that is not whole is an error with its name."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import DataError
from seg_node.data.picture_files import (
    check_png,
    DamagedPictureError,
    glance_picture,
    has_known_kind,
    inspect_picture,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: it is missing or may not be read.

    """
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise DataError(msg) from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture file as RGB, uint8 [H, W, 3], turned as its EXIF orientation asks.

    Raises:
        DataError: the file is missing, unreadable, cut off or not a picture.

    """
    data = read_file(path)
    # Of other kinds only decoding tells whether they are whole.
    if has_known_kind(memoryview(data)):
        inspect_file(path, data)
    return decode_rgb(path, data)


def inspect_file(path: Path | str, data: bytes) -> bool:
    """Tell whether the bytes of a JPEG or PNG file are a PNG with a palette.

    Raises:
        DataError: they are cut off, damaged or no such picture.

    """
    try:
        info = inspect_picture(memoryview(data))
        if info.kind == "png":
            check_png(memoryview(data))
    except DamagedPictureError as error:
        msg = f"{path} is not a readable picture: {error}"
        raise DataError(msg) from error
    return info.palette


def decode_rgb(path: Path | str, data: bytes) -> NDArray[np.uint8]:
    """Decode a picture as RGB, uint8 [H, W, 3].

    Raises:
        DataError: OpenCV cannot decode it.

    """
    image = decode(path, data, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode(path: Path | str, data: bytes, flags: int) -> NDArray[np.integer[Any]]:
    """Decode a picture with OpenCV's flags.

    Raises:
        DataError: OpenCV cannot decode it.

    """
    problem = "its contents are damaged or of an unknown kind"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        image, problem = None, str(error).strip()
    if image is None:
        msg = f"{path} is not a readable picture: {problem}"
        raise DataError(msg)
    return np.asarray(image)


def picture_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as a file's header states them, before EXIF orientation.

    Raises:
        DataError: the file is missing, unreadable, cut off or not a picture.

    """
    try:
        # Mapped, so that only the pages that are looked at are read; nothing cannot be mapped.
        empty = path.stat().st_size == 0
        data = memoryview(b"") if empty else np.memmap(path, np.uint8, "r").data
        if has_known_kind(data):
            info = glance_picture(data)
            return info.height, info.width
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise DataError(msg) from error
    except DamagedPictureError as error:
        msg = f"{path} is not a readable picture: {error}"
        raise DataError(msg) from error
    height, width = read_image(path).shape[:2]
    return height, width


def list_pictures(folder: Path, ending: str = "") -> tuple[Path, ...]:
    """Return the pictures of a folder in name order; hidden files do not count.

    Args:
        folder: where to look, not below it.
        ending: how their names end, such as `_leftImg8bit.png`; any picture if empty.

    Raises:
        DataError: the folder is missing, unreadable, or holds none.

    """
    try:
        files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        msg = f"cannot list {folder}: {error.strerror}"
        raise DataError(msg) from error
    found = tuple(
        p
        for p in files
        if (p.name.endswith(ending) if ending else p.suffix.lower() in IMAGE_SUFFIXES)
    )
    if not found:
        wanted = f"*{ending}" if ending else ", ".join(sorted(IMAGE_SUFFIXES))
        msg = f"{folder} holds no picture ({wanted}); name a folder of pictures"
        raise DataError(msg)
    return found


def list_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders in a folder in name order; hidden ones do not count.

    Raises:
        DataError: the folder is missing or unreadable, or holds none.

    """
    try:
        found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        msg = f"cannot list {folder}: {error.strerror}"
        raise DataError(msg) from error
    if not found:
        msg = f"{folder} is empty: it should hold one folder for each place or recording"
        raise DataError(msg)
    return tuple(found)
