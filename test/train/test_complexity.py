"""Scores of complexity put pictures in the order that everybody would."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import IGNORE_LABEL
from seg_node.train.augment import Picture
from seg_node.train.complexity import (
    boundaries,
    entropy,
    gradient,
    jpeg_size,
    png_size,
    rank_correlation,
    ranks,
    score_pictures,
    SCORES,
)
from seg_node.train.slim_settings import COMPLEXITIES
from test.train.slim_samples import frames


def plain(grey: int = 90) -> Picture:
    return Picture(np.full((80, 96, 3), grey, np.uint8), np.zeros((80, 96), np.uint8))


@pytest.mark.parametrize("name", ["gradient", "jpeg", "png", "boundaries"])
def test_finer_checks_are_more_complex(name: str) -> None:
    pictures = frames()
    scored = score_pictures([str(i) for i in range(len(pictures))], pictures, name)
    assert np.all(np.diff(scored.scores) > 0)
    assert SCORES[name](plain()) < scored.scores[0]


def test_the_settings_know_every_score() -> None:
    assert tuple(SCORES) == COMPLEXITIES


def test_the_gradient_is_the_slope() -> None:
    columns = np.arange(64) * 3
    ramp = np.broadcast_to(columns[None, :, None], (48, 64, 3)).astype(np.uint8)
    inner = Picture(np.ascontiguousarray(ramp), np.zeros((48, 64), np.uint8))
    # Borders are mirrored: the slope is lost in the first and the last column.
    assert gradient(inner) == pytest.approx(3.0 * 62 / 64)


def test_entropy_is_that_of_the_grey_levels() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    assert entropy(plain()) == 0.0
    image[:, 32:] = 255
    assert entropy(Picture(image, np.zeros((48, 64), np.uint8))) == pytest.approx(1.0)
    image[:24] //= 3
    assert entropy(Picture(image, np.zeros((48, 64), np.uint8))) == pytest.approx(1.5)


def test_sizes_are_bits_per_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    picture = Picture(noise, np.zeros((48, 64), np.uint8))
    assert 24.0 < png_size(picture) < 26.0  # noise cannot be packed
    assert 0.0 < jpeg_size(plain()) < jpeg_size(picture) < 24.0


def test_boundaries_ignore_void() -> None:
    labels = np.zeros((4, 4), np.uint8)
    labels[:, 2:] = 1
    picture = Picture(np.zeros((4, 4, 3), np.uint8), labels)
    assert boundaries(picture) == 4 / 16
    labels[0] = IGNORE_LABEL
    assert boundaries(picture) == 3 / 12
    labels[0, :2], labels[0, 2:], labels[:, 0] = 0, 1, IGNORE_LABEL
    assert boundaries(picture) == 4 / 12
    labels[:] = IGNORE_LABEL
    assert boundaries(picture) == 0.0


def test_equal_scores_share_their_rank() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [0.5, 0.0, 0.5, 1.0]
    assert ranks(np.array([3.0])).tolist() == [0.5]


def test_rank_correlation_knows_order_only() -> None:
    one = np.array([0.0, 1.0, 2.0, 3.0])
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    assert rank_correlation(one, np.array([1.0, 0.0, 3.0, 2.0])) == pytest.approx(0.6)
