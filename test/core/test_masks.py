"""Logits to masks: where pixels lie, what is probable, and numbers that overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seg_node.core.masks import (
    _decide_at_once,
    _decide_plane_by_plane,
    CONFIDENCE_MAX,
    decide,
    decide_planes,
    resize_result,
    STRIPE,
)
from seg_node.core.types import ModelError


def test_decide_maps_the_feature_pixel_to_its_own_square_of_pixels() -> None:
    logits = torch.zeros(1, 3, 4, 5)
    logits[0, 2, 1, 3] = 20.0
    labels, confidence = decide(logits, 4, (16, 20))
    rows, columns = np.nonzero(labels == 2)
    # Feature pixel (1, 3) covers rows 4..7 and columns 12..15; interpolation spreads evenly.
    assert (rows.mean(), columns.mean()) == (5.5, 13.5)
    assert confidence[5, 13] > 250
    assert confidence[15, 0] == round(255 / 3)


@pytest.mark.parametrize("size", [(13, 16), (12, 17)])
def test_logits_that_do_not_cover_the_image_are_refused(size: tuple[int, int]) -> None:
    """A network that names too small a stride must not have pixels read that it never made."""
    with pytest.raises(
        ModelError, match=r"logits of \(3, 4\) at stride 4 cover \(12, 16\) pixels"
    ):
        decide_planes(torch.zeros(1, 2, 3, 4), 4, size)


def test_resize_keeps_class_ids_and_never_invents_one() -> None:
    labels = np.array([[0, 10], [10, 0]], np.uint8)
    confidence = np.full((2, 2), 100, np.uint8)
    big, smooth = resize_result(labels, confidence, (6, 8))
    assert big.shape == smooth.shape == (6, 8)
    assert set(np.unique(big)) == {0, 10}
    assert (big[0, 0], big[0, -1], big[-1, 0], big[-1, -1]) == (0, 10, 10, 0)


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("rows", [7, STRIPE, 2 * STRIPE + 1])
def test_plane_by_plane_decides_as_all_at_once(stride: int, rows: int) -> None:
    """Also where stripes meet."""
    planes = torch.randn((1, 11, rows, 9), generator=torch.Generator().manual_seed(0)) * 4
    labels, confidence = _decide_plane_by_plane(planes, stride)
    labels_too, confidence_too = _decide_at_once(planes, stride)
    assert labels.shape == confidence.shape == (rows * stride, 9 * stride)
    np.testing.assert_array_equal(labels, labels_too)
    assert (confidence.int() - confidence_too.int()).abs().max() <= 1


def test_huge_logits_neither_overflow_nor_divide_by_zero() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0, 0] = logits[0, 2, 1, 1] = 1e4
    logits[0, 0, 0, 1] = -1e4
    with np.errstate(all="raise"):
        labels, confidence = decide(logits, 4, (8, 8))
    assert (labels[0, 0], labels[-1, -1]) == (1, 2)
    assert confidence[0, 0] == confidence[-1, -1] == CONFIDENCE_MAX
    assert confidence[0, -1] == round(CONFIDENCE_MAX / 2)
