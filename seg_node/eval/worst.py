"""The picture sheet of the frames that a model gets worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.drawing import (
    BACKGROUND,
    color_table,
    contact_sheet,
    FONT,
    INK,
    legend,
    overlay,
)
from seg_node.core.types import ClassInfo, IGNORE_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.data.datasets import Sample

COUNT = 6
"""Frames on the sheet."""
CELL = 480
"""Width of each picture in pixels."""
APART_NS = 500_000_000
"""Frames of a video that are closer show the same mistakes, so only the worst one is kept."""
COLUMNS = ("image", "truth", "prediction", "error")
WRONG = ClassInfo("wrong", (235, 30, 30))
VOID = ClassInfo("void", (255, 255, 255))
_BAND = 22
"""Height of a line of text in pixels."""


@dataclass(frozen=True)
class _Kept:
    """One frame in the size of the sheet."""

    score: float
    name: str
    camera: str
    stamp_ns: int
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


class WorstFrames:
    """Keeps the frames of lowest image mIoU.

    While there is room all are kept. Then a frame with a worse one less than `apart_ns` away
    makes way first, and the best of all only if there is none.

    Args:
        count: how many frames to keep.
        apart_ns: see above, in nanoseconds; 0 to keep the worst frames, however alike.

    """

    def __init__(self, count: int = COUNT, apart_ns: int = APART_NS) -> None:
        """Start without any."""
        self._count = count
        self._apart_ns = apart_ns
        self._kept: list[_Kept] = []

    def add(self, score: float, sample: Sample, prediction: NDArray[np.uint8]) -> None:
        """Look at one frame with labels; of equal scores the earlier frame is kept.

        Args:
            score: its mean IoU, 0..1.
            sample: image and truth.
            prediction: predicted classes, uint8 [H, W].

        """
        assert sample.labels is not None, "a frame without labels has no score"
        frame = sample.frame
        pictures = (_fit(frame.image), _fit_labels(sample.labels), _fit_labels(prediction))
        kept = _Kept(score, sample.name, frame.camera, frame.stamp_ns, *pictures)
        self._kept = sorted([*self._kept, kept], key=lambda k: k.score)
        if len(self._kept) > self._count:
            self._kept.pop(self._dispensable())

    def _dispensable(self) -> int:
        """Return the index of the frame to drop; the list is sorted, worst first."""
        for index in range(len(self._kept) - 1, 0, -1):
            frame = self._kept[index]
            for worse in self._kept[:index]:
                same = worse.camera == frame.camera
                if same and abs(worse.stamp_ns - frame.stamp_ns) < self._apart_ns:
                    return index
        return len(self._kept) - 1

    def entries(self) -> list[dict[str, Any]]:
        """Return name and image mIoU of the frames, worst first."""
        return [{"frame": kept.name, "image_miou": kept.score} for kept in self._kept]

    def sheet(self, classes: Sequence[ClassInfo], opacity: float) -> NDArray[np.uint8] | None:
        """Draw one row per frame: image, truth, prediction, error; RGB uint8 [H, W, 3].

        Args:
            classes: classes in label order.
            opacity: weight of their colours, 0..1.

        Returns:
            The sheet with a legend below, worst frame on top; None without any frame.

        """
        if not self._kept:
            return None
        colors = color_table(classes)
        colors[IGNORE_LABEL] = VOID.color
        cells = [cell for kept in self._kept for cell in _row(kept, colors, opacity)]
        sheet = contact_sheet(cells, len(COLUMNS), CELL)
        chips = legend([*classes, VOID, WRONG], sheet.shape[1])
        return np.vstack([_headings(sheet.shape[1]), sheet, chips])


def error_map(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the image in dark grey with wrong pixels red and void ones white.

    Args:
        image: RGB, uint8 [H, W, 3].
        truth: true class per pixel, uint8 [H, W], 255 = void.
        prediction: predicted class per pixel, uint8 [H, W].

    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2
    picture = np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)
    picture[truth != prediction] = WRONG.color
    picture[truth == IGNORE_LABEL] = VOID.color
    return picture


def _row(kept: _Kept, colors: NDArray[np.uint8], opacity: float) -> list[NDArray[np.uint8]]:
    named = kept.image.copy()
    _write(named, f"{kept.name}  image mIoU {kept.score:.3f}")
    return [
        named,
        overlay(kept.image, kept.truth, colors, opacity),
        overlay(kept.image, kept.prediction, colors, opacity),
        error_map(kept.image, kept.truth, kept.prediction),
    ]


def _headings(width: int) -> NDArray[np.uint8]:
    """Return a strip with the names of the columns."""
    strip = np.full((_BAND, width, 3), BACKGROUND, np.uint8)
    for index, name in enumerate(COLUMNS):
        _write(strip, name, index * width // len(COLUMNS))
    return strip


def _write(picture: NDArray[np.uint8], text: str, x: int = 0) -> None:
    """Write one line in the top left corner, on a dark ground."""
    (width, _), _ = cv2.getTextSize(text, FONT, 0.5, 1)
    picture[:_BAND, x : x + width + 12] = BACKGROUND
    cv2.putText(picture, text, (x + 6, 16), FONT, 0.5, INK, 1, cv2.LINE_AA)


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if image.shape[1] > CELL else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, _size(image), interpolation=how), np.uint8)


def _fit_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(labels, _size(labels), interpolation=how), np.uint8)


def _size(picture: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = picture.shape[:2]
    return CELL, max(1, round(height * CELL / width))
