"""What moves pixels moves labels and soft labels alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seg_node.train.augment import augment, jitter_color, jpeg_round_trip, paste, Picture
from seg_node.train.settings import SegmentTraining
from test.train.samples import halves

PLAIN = SegmentTraining(jitter=0.0, blur=0.0, jpeg=0.0)


def test_labels_and_soft_labels_follow_their_pixels() -> None:
    rng = np.random.default_rng(0)
    flipped = 0
    for _ in range(30):
        moved = augment(halves(1, soft=True)[0], PLAIN, (64, 48), rng)
        inside = moved.labels != 255
        bright = moved.image[..., 0] > 125
        assert np.mean(bright[inside] == (moved.labels == 1)[inside]) > 0.97
        assert moved.soft is not None
        assert moved.soft.shape == (12, 16, 11)
        known = moved.soft.sum(2) > 200
        cells = bright[2::4, 2::4]
        assert np.mean((moved.soft.argmax(2) == 1)[known] == cells[known]) > 0.9
        flipped += bool(moved.labels[0, 0] == 1)
    assert 0 < flipped < 30


def test_soft_labels_lie_where_the_labels_are_to_a_fraction_of_a_pixel() -> None:
    # A ramp of probability along x: its value says at which image column a cell was sampled.
    soft = np.zeros((20, 24, 2), np.uint8)
    soft[..., 0] = np.round((np.arange(24) * 4 + 2) * 2)
    soft[..., 1] = 255 - soft[..., 0]
    columns = np.repeat(np.arange(96, dtype=np.uint8)[None], 80, 0)
    picture = Picture(np.repeat(columns[..., None], 3, 2), columns, soft)
    how = replace(PLAIN, flip=0.0, scale_min=1.5, scale_max=1.5)
    moved = augment(picture, how, (64, 48), np.random.default_rng(1))
    assert moved.soft is not None
    at = moved.soft[:, :, 0] / 2  # image column of each cell's centre
    # Pixels i and i + 1 lie half a pixel beside the cell's centre on both sides.
    truth = (moved.image[1::4, 1::4, 0].astype(float) + moved.image[1::4, 2::4, 0]) / 2 + 0.5
    assert np.abs(at - truth).max() < 1.0


def test_beyond_the_picture_nothing_is_known() -> None:
    how = replace(PLAIN, scale_min=0.5, scale_max=0.5)
    moved = augment(halves(1, soft=True)[0], how, (96, 80), np.random.default_rng(0))
    assert moved.soft is not None
    assert (moved.labels[40:] == 255).all()
    assert (moved.soft[11:] == 0).all()
    assert (moved.soft[:9].sum(2)[:, moved.labels[0, ::4] != 255] > 100).all()


def scene(value: int, things: int) -> Picture:
    """Return a picture of class 0 with a thing of class 3, 4 ... in every other column block."""
    labels = np.zeros((64, 64), np.uint8)
    for index in range(things):
        labels[8:16, 8 * index : 8 * index + 8] = 3 + index
    image = np.full((64, 64, 3), value, np.uint8)
    image[..., 1] = labels
    soft = np.zeros((16, 16, 11), np.uint8)
    np.put_along_axis(soft, labels[2::4, 2::4][..., None].astype(np.int64), 255, 2)
    return Picture(image, labels, soft)


def test_small_things_are_pasted_with_their_labels_and_soft_labels() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        mixed = paste(scene(10, 0), scene(200, 4), rng)
        pasted = mixed.image[..., 0] == 200
        assert set(np.unique(mixed.labels[~pasted])) == {0}
        assert (mixed.labels[pasted] >= 3).all()  # class 0 covers too much to be pasted
        assert np.array_equal(mixed.image[..., 1], mixed.labels)
        assert mixed.soft is not None
        assert np.array_equal(mixed.soft.argmax(2), mixed.labels[2::4, 2::4])
        seen |= set(np.unique(mixed.labels))
    assert seen == {0, 3, 4, 5, 6}


def test_pasted_pixels_without_a_teacher_are_unknown_to_it() -> None:
    street = replace(scene(200, 4), soft=None)
    mixed = paste(scene(10, 0), street, np.random.default_rng(0))
    assert mixed.soft is not None
    assert (mixed.soft[mixed.labels[2::4, 2::4] > 0] == 0).all()
    assert paste(street, scene(10, 4), np.random.default_rng(0)).soft is None


def test_jitter_keeps_grey_grey_and_zero_jitter_keeps_all() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(jitter_color(image, 0.0, np.random.default_rng(0)), image)
    grey = np.repeat(image[..., :1], 3, 2)
    changed = jitter_color(grey, 0.5, np.random.default_rng(3))
    assert not np.array_equal(changed, grey)
    assert np.ptp(changed.astype(int), axis=2).max() <= 1


def test_jpeg_keeps_the_order_of_channels() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    back = jpeg_round_trip(image, 90)
    assert back[..., 0].mean() == pytest.approx(200, abs=8)
    assert back[..., 2].mean() < 8
