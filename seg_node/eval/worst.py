"""The frames that a model gets worst, as a picture sheet and as pictures of the page."""

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
from seg_node.core.plan_drawing import draw_plan
from seg_node.core.types import ClassInfo, IGNORE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import Plan
    from seg_node.data.datasets import Sample
    from seg_node.eval.session import Session

COUNT = 6
"""Frames on the sheet."""
CELL = 480
"""Width of each picture in pixels."""
APART_NS = 500_000_000
"""Frames of a video that are closer show the same mistakes, so only the worst one is kept."""
COLUMNS = ("image", "reference", "mask", "plan", "error")
WRONG = ClassInfo("wrong", (235, 30, 30))
VOID = ClassInfo("void", (255, 255, 255))
_BAND = 22
"""Height of a line of text in pixels."""


@dataclass(frozen=True)
class _Kept:
    """What decides which frames stay."""

    score: float
    name: str
    camera: str
    stamp_ns: int


@dataclass(frozen=True)
class _Pictures:
    """What is drawn of a frame; image and labels in the size of the sheet."""

    image: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    plan: NDArray[np.uint8]


@dataclass(frozen=True)
class Views:
    """One of the worst frames as pictures.

    Attributes:
        name: name of the frame.
        score: its score, 0..1.
        pictures: RGB uint8 [H, W, 3] each, by the names of `COLUMNS`.

    """

    name: str
    score: float
    pictures: dict[str, NDArray[np.uint8]]


class WorstFrames:
    """Keeps the frames of lowest score.

    While there is room all are kept. Then a frame with a worse one less than `apart_ns` away
    makes way first, and the best of all only if there is none.

    Args:
        config: settings in force: size of the blocks, and weight of the colours.
        classes: classes in label order.
        count: how many frames to keep.
        apart_ns: see above, in nanoseconds; 0 to keep the worst frames, however alike.

    """

    def __init__(
        self,
        config: Config,
        classes: Sequence[ClassInfo],
        count: int = COUNT,
        apart_ns: int = APART_NS,
    ) -> None:
        """Start without any."""
        self._side_in = config.shown_side
        self._opacity = config.publish.overlay_opacity
        self._classes = classes
        self._count = count
        self._apart_ns = apart_ns
        self._kept: list[_Kept] = []  # worst first
        self._pictures: dict[_Kept, _Pictures] = {}

    def add(
        self,
        score: float,
        sample: Sample,
        reference: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        plan: Plan,
    ) -> None:
        """Look at one frame; of equal scores the earlier frame is kept.

        Args:
            score: how right it is, 0..1: its mean IoU, or where there are no labels the share of
                its pixels with the class of the reference.
            sample: the frame.
            reference: what should have come out, uint8 [H, W], 255 = void.
            mask: what did, uint8 [H, W].
            plan: what was computed of it.

        """
        frame = sample.frame
        kept = _Kept(score, sample.name, frame.camera, frame.stamp_ns)
        ranked = sorted([*self._kept, kept], key=lambda k: k.score)
        if len(ranked) > self._count and ranked.pop(self._dispensable(ranked)) is kept:
            return
        self._pictures[kept] = _Pictures(
            _fit(frame.image),
            _fit_labels(reference),
            _fit_labels(mask),
            draw_plan(frame.image, plan, self._side_in(frame.image), width=CELL),
        )
        self._pictures = {k: self._pictures[k] for k in ranked}
        self._kept = ranked

    def _dispensable(self, ranked: Sequence[_Kept]) -> int:
        """Return the index of the frame to drop."""
        for index in range(len(ranked) - 1, 0, -1):
            frame = ranked[index]
            for worse in ranked[:index]:
                same = worse.camera == frame.camera
                if same and abs(worse.stamp_ns - frame.stamp_ns) < self._apart_ns:
                    return index
        return len(ranked) - 1

    def entries(self) -> list[dict[str, Any]]:
        """Return name and score of the frames, worst first."""
        return [{"frame": kept.name, "score": kept.score} for kept in self._kept]

    def state(self) -> dict[str, float]:
        """Return the scores of the frames by name, worst first: enough to `add` them again."""
        return {kept.name: kept.score for kept in self._kept}

    def views(self) -> list[Views]:
        """Return the frames as pictures, worst first."""
        return [
            Views(kept.name, kept.score, self._drawn(self._pictures[kept])) for kept in self._kept
        ]

    def sheet(self) -> NDArray[np.uint8] | None:
        """Draw one row per frame with the pictures of `COLUMNS`; RGB uint8 [H, W, 3].

        Returns:
            The sheet with a legend below, worst frame on top; None without any frame.

        """
        if not self._kept:
            return None
        cells = []
        for views in self.views():
            first, *others = views.pictures.values()
            named = first.copy()
            _write(named, f"{views.name}  score {views.score:.3f}")
            cells += [named, *others]
        sheet = contact_sheet(cells, len(COLUMNS), CELL)
        chips = legend([*self._classes, VOID, WRONG], sheet.shape[1])
        return np.vstack([_headings(sheet.shape[1]), sheet, chips])

    def _drawn(self, kept: _Pictures) -> dict[str, NDArray[np.uint8]]:
        colors = color_table(self._classes)
        colors[IGNORE_LABEL] = VOID.color
        pictures = (
            kept.image,
            overlay(kept.image, kept.reference, colors, self._opacity),
            overlay(kept.image, kept.mask, colors, self._opacity),
            kept.plan,
            error_map(kept.image, kept.reference, kept.mask),
        )
        return dict(zip(COLUMNS, pictures, strict=True))


def worst_frames(sessions: Mapping[str, Session]) -> dict[str, WorstFrames]:
    """Return what keeps the worst frames of each mode."""
    return {
        mode: WorstFrames(session.config, session.manifest.classes)
        for mode, session in sessions.items()
    }


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
