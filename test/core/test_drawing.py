"""Overlays, legends and contact sheets put the right colour at the right place."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.drawing import (
    BACKGROUND,
    color_table,
    contact_sheet,
    legend,
    overlay,
    side_by_side,
)
from seg_node.core.types import CAMVID_CLASSES


def test_overlay_mixes_image_and_class_colour_by_opacity() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    mixed = overlay(image, labels, color_table(CAMVID_CLASSES), 0.25)
    assert tuple(mixed[0, 1]) == (107, 75, 75)  # Building is (128, 0, 0)
    assert tuple(mixed[1, 2]) == (75, 75, 75)  # 255 has no class: black


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, (7, 8, 9)), (1.0, (64, 0, 128))])
def test_ends_of_the_opacity(opacity: float, expected: tuple[int, int, int]) -> None:
    image = np.tile(np.array([7, 8, 9], np.uint8), (1, 1, 1))
    car = np.full((1, 1), 8, np.uint8)
    assert tuple(overlay(image, car, color_table(CAMVID_CLASSES), opacity)[0, 0]) == expected


def test_legend_shows_every_colour_and_wraps() -> None:
    narrow, wide = legend(CAMVID_CLASSES, 240), legend(CAMVID_CLASSES, 1400)
    assert (narrow.shape, wide.shape) == ((132, 240, 3), (22, 1400, 3))
    for strip in (narrow, wide):
        colors = {tuple(c) for c in strip.reshape(-1, 3).tolist()}
        assert {c.color for c in CAMVID_CLASSES} <= colors


def test_contact_sheet_scales_and_orders_row_by_row() -> None:
    pictures = [np.full((10, 20, 3), 50 * i, np.uint8) for i in range(1, 4)]
    sheet = contact_sheet(pictures, columns=2, cell_width=40)
    assert sheet.shape == (2 * 26 + 6, 2 * 46 + 6, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((10, 10), (10, 60), (40, 10))] == [50, 100, 150]


def test_pictures_beside_each_other_keep_their_size_and_order() -> None:
    """The shorter one stands at the top, on the ground of the legends."""
    left, right = np.full((10, 20, 3), 50, np.uint8), np.full((14, 8, 3), 90, np.uint8)
    row = side_by_side([left, right])
    assert row.shape == (14, 20 + 6 + 8, 3)
    assert (row[:10, :20] == 50).all()
    assert (row[:, 26:] == 90).all()
    assert {tuple(row[y, x]) for y, x in ((12, 5), (5, 22))} == {BACKGROUND}
