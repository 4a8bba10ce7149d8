"""Confidence is compared with the share of right pixels, bin by bin."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.eval.calibration import Calibration


def row(*values: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return a map of one row."""
    return np.array([values], np.uint8)


def test_error_of_a_hand_counted_case() -> None:
    calibration = Calibration()
    # Sure of four and right in two: gap 0.5. At 102 (0.4) right in one of one: gap 0.6.
    calibration.update(
        row(0, 0, 0, 0, 1), row(0, 0, 1, 1, 1), confidence=row(255, 255, 255, 255, 102)
    )
    assert calibration.error() == pytest.approx((4 * 0.5 + 1 * 0.6) / 5)
    sure = calibration.table()[14]
    assert (sure["pixels"], sure["confidence"], sure["accuracy"]) == (4, 1.0, 0.5)
    assert (sure["low"], sure["high"]) == (14 / 15, 1.0)


def test_bins_are_seventeen_levels_wide_and_the_last_one_has_the_top() -> None:
    calibration = Calibration()
    levels = np.arange(256, dtype=np.uint8)[None]
    calibration.update(np.zeros_like(levels), np.zeros_like(levels), levels)
    assert [entry["pixels"] for entry in calibration.table()] == [17] * 14 + [18]
    assert calibration.table()[1]["confidence"] == pytest.approx(25 / 255)  # 17..33


def test_gaps_of_either_sign_inside_a_bin_cancel_and_across_bins_do_not() -> None:
    calibration = Calibration()
    calibration.update(row(0, 0), row(0, 1), row(136, 119))  # 0.53 right, 0.47 wrong: one bin each
    assert calibration.error() == pytest.approx((1 - 136 / 255 + 119 / 255) / 2)
    same = Calibration()
    same.update(row(0, 0), row(0, 1), row(135, 120))
    assert same.error() == pytest.approx(0.0)


def test_void_is_left_out_and_nothing_seen_gives_no_score() -> None:
    calibration = Calibration()
    calibration.update(row(255, 255), row(0, 1), row(255, 0))
    assert calibration.error() is None
    assert all(entry["accuracy"] is None for entry in calibration.table())
    calibration.update(row(255, 1), row(0, 1), row(0, 255))
    assert calibration.error() == 0.0


def test_counting_by_hand_gives_the_same() -> None:
    rng = np.random.default_rng(5)
    calibration = Calibration()
    bins: dict[int, list[tuple[float, bool]]] = {}
    for _ in range(3):
        truth, prediction = rng.integers(0, 4, (2, 9, 11)).astype(np.uint8)
        confidence = rng.integers(0, 256, (9, 11)).astype(np.uint8)
        truth[rng.random((9, 11)) < 0.2] = 255
        calibration.update(truth, prediction, confidence)
        for place, label in np.ndenumerate(truth):
            share = int(confidence[place]) / 255
            if label != 255:
                index = min(14, int(confidence[place]) // 17)
                bins.setdefault(index, []).append((share, label == prediction[place]))
    total = sum(len(pixels) for pixels in bins.values())
    expected = sum(
        len(pixels)
        / total
        * abs(np.mean([s for s, _ in pixels]) - np.mean([r for _, r in pixels]))
        for pixels in bins.values()
    )
    assert calibration.error() == pytest.approx(expected)


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match="must be of one size"):
        Calibration().update(row(0), row(0), row(0, 0))
