"""Reads label pictures: class ids or class colours, checked value by value at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL
from seg_node.data.picture_files import inspect_picture, without_palette
from seg_node.data.pictures import decode, decode_rgb, inspect_file, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Color = tuple[int, int, int]

_GREY_NDIM = 2


@dataclass(frozen=True)
class LabelFormat:
    """What the pixels of a label picture mean.

    A greyscale picture holds values, and so does a PNG with a palette where no colours are
    known: the numbers of its colours. Any other picture holds colours.

    Attributes:
        values: stored value -> class id, or 255 for void; 255 itself is always void.
        colors: stored RGB colour -> class id, or 255 for void.
        other_colors_are_void: whether a colour that is not in `colors` is void, not an error.

    """

    values: Mapping[int, int] = field(default_factory=dict)
    colors: Mapping[Color, int] = field(default_factory=dict)
    other_colors_are_void: bool = False

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read a label file as class ids, uint8 [H, W], 255 = void.

        Raises:
            DataError: the file is missing, unreadable, cut off or no PNG, or holds a value or
                colour that means no class; the text names file, value and pixel.

        """
        return self.from_png(str(path), read_file(path))

    def from_png(self, name: str, data: bytes) -> NDArray[np.uint8]:
        """Read the bytes of a label file.

        Args:
            name: where they come from, for errors.
            data: the bytes.

        Raises:
            DataError: as `read`.

        """
        palette = inspect_file(name, data)
        if inspect_picture(memoryview(data)).kind != "png":
            msg = f"{name} is a JPEG, which blends neighbouring classes: store labels as PNG"
            raise DataError(msg)
        if palette and self.colors:
            return self._from_colors(name, decode_rgb(name, data))
        stored = _palette_numbers(name, data) if palette else _as_stored(name, data)
        if stored.ndim == _GREY_NDIM:
            return self.from_values(name, stored)
        return self._from_colors(name, decode_rgb(name, data))

    def from_values(self, name: str, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn stored values, uint8 [H, W], into class ids.

        Args:
            name: where they come from, for errors.
            stored: the values.

        Raises:
            DataError: a value means no class.

        """
        if not self.values:
            msg = f"{name} is greyscale; expected the colours of the classes"
            raise DataError(msg)
        table = np.full(256, IGNORE_LABEL, np.uint8)
        known = np.zeros(256, np.bool_)
        known[IGNORE_LABEL] = True
        for value, label in self.values.items():
            table[value], known[value] = label, True
        # `LUT` is far quicker than indexing; labels are read in the thread that feeds training.
        bad = np.asarray(cv2.LUT(stored, (~known).astype(np.uint8)))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            classes = len(set(self.values.values()) - {IGNORE_LABEL})
            allowed = (
                f"{min(self.values)}..{max(self.values)} or {IGNORE_LABEL} for {classes} classes"
            )
            msg = (
                f"{name} holds label {stored[row, column]} at row {row}, column {column}; "
                f"expected {allowed}"
            )
            raise DataError(msg)
        return np.asarray(cv2.LUT(stored, table), np.uint8)

    def _from_colors(self, name: str, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not self.colors:
            msg = (
                f"{name} is not an 8-bit greyscale picture of class ids: store ids, or name the "
                "colours of the classes in a classes.csv"
            )
            raise DataError(msg)
        codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        pairs = sorted((r << 16 | g << 8 | b, label) for (r, g, b), label in self.colors.items())
        known = np.array([code for code, _ in pairs], np.uint32)
        labels = np.array([label for _, label in pairs], np.uint8)
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        bad = known[at] != codes
        if bad.any() and not self.other_colors_are_void:
            row, column = np.argwhere(bad)[0]
            color = tuple(int(x) for x in rgb[row, column])
            msg = f"{name} holds colour {color} at row {row}, column {column}: no class has it"
            raise DataError(msg)
        return np.asarray(np.where(bad, IGNORE_LABEL, labels[at]), np.uint8)


def ids(classes: int) -> LabelFormat:
    """Return the format whose values are the class ids 0..classes-1."""
    return LabelFormat(values={value: value for value in range(classes)})


def _palette_numbers(name: str, data: bytes) -> NDArray[np.uint8]:
    grey, factor = without_palette(memoryview(data))
    return np.asarray(_as_stored(name, grey) // factor, np.uint8)


def _as_stored(name: str, data: bytes) -> NDArray[np.uint8]:
    """Decode without changing colours: [H, W] or [H, W, C].

    Raises:
        DataError: it has 16 bits a sample.

    """
    stored = decode(name, data, cv2.IMREAD_UNCHANGED)
    if stored.dtype != np.uint8:
        msg = f"{name} is not an 8-bit greyscale picture of class ids, but {stored.dtype}"
        raise DataError(msg)
    return np.asarray(stored, np.uint8)
