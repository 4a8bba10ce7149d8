"""Calibration: whether the published confidence is the share of pixels that are right.

Expected calibration error after Naeini et al., AAAI 2015, and Guo et al., "On Calibration of
Modern Neural Networks", ICML 2017, over all labelled pixels. Definition: docs/metrics.md.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINS = 15
"""Bins of equal width, as Guo et al. use."""
_LEVELS = 256
_TOP = _LEVELS - 1


class Calibration:
    """Counts labelled pixels, and right ones, by their confidence of 0..255."""

    def __init__(self) -> None:
        """Start with all counts at zero."""
        self._pixels = np.zeros(_LEVELS, np.int64)
        self._right = np.zeros(_LEVELS, np.int64)

    def update(
        self,
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
        confidence: NDArray[np.uint8],
    ) -> None:
        """Count one frame; void (255) in the truth is left out.

        Args:
            truth: true class per pixel, uint8 [H, W].
            prediction: predicted class per pixel, uint8 [H, W].
            confidence: probability of the predicted class times 255, uint8 [H, W].

        Raises:
            DataError: shapes differ.

        """
        if not truth.shape == prediction.shape == confidence.shape:
            shapes = f"{truth.shape}, {prediction.shape} and {confidence.shape}"
            msg = f"labels, prediction and confidence of sizes {shapes} must be of one size"
            raise DataError(msg)
        self._pixels += np.bincount(confidence[truth != IGNORE_LABEL], minlength=_LEVELS)
        self._right += np.bincount(confidence[truth == prediction], minlength=_LEVELS)

    def plus(self, other: Calibration) -> Calibration:
        """Return the counts of the frames of both."""
        both = Calibration()
        both._pixels = self._pixels + other._pixels
        both._right = self._right + other._right
        return both

    def state(self) -> dict[str, Any]:
        """Return all that was counted, to be written as JSON; see `restore`."""
        return {"pixels": self._pixels.tolist(), "right": self._right.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, to the last bit."""
        self._pixels = np.array(state["pixels"], np.int64).reshape(_LEVELS)
        self._right = np.array(state["right"], np.int64).reshape(_LEVELS)

    def error(self) -> float | None:
        """Return the expected calibration error, 0 (calibrated) .. 1; None before any pixel."""
        total = self._pixels.sum()
        if not total:
            return None
        _, right, confidence = self._binned()
        return float(np.abs(right - confidence).sum() / total)

    def table(self) -> list[dict[str, Any]]:
        """Return what a reliability diagram shows, one entry per bin, lowest confidence first.

        `low` and `high` bound the confidence of the bin (0..1, `high` exclusive but in the last
        one), `pixels` counts; mean `confidence` and `accuracy` (0..1) are None in an empty bin.
        """
        entries = []
        for index, (pixels, right, confidence) in enumerate(zip(*self._binned(), strict=True)):
            entries.append(
                {
                    "low": index / BINS,
                    "high": (index + 1) / BINS,
                    "confidence": float(confidence / pixels) if pixels else None,
                    "accuracy": float(right / pixels) if pixels else None,
                    "pixels": int(pixels),
                }
            )
        return entries

    def _binned(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return per bin: pixels, right ones, and the sum of their confidences of 0..1."""
        levels = np.arange(_LEVELS)
        index = np.minimum(levels * BINS // _TOP, BINS - 1)
        pixels, right = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        confidence = np.zeros(BINS)
        np.add.at(pixels, index, self._pixels)
        np.add.at(right, index, self._right)
        np.add.at(confidence, index, self._pixels * levels / _TOP)
        return pixels, right, confidence
