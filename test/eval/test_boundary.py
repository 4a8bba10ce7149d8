"""Boundaries are met within a tolerance, class by class; void is not judged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.eval.boundary import boundary, BoundaryScore, near, tolerance_px

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Map = NDArray[np.uint8]


def halves(edge: int, height: int = 8, width: int = 24) -> Map:
    """Return class 0 left of column `edge` and class 1 from there on."""
    return np.repeat((np.arange(width) >= edge)[None, :], height, axis=0).astype(np.uint8)


def scores(truth: Map, prediction: Map, classes: int = 3) -> list[float | None]:
    """Return the F-score of each class for one frame."""
    score = BoundaryScore(classes)
    score.update(truth, prediction)
    return score.class_f()


def blobs(seed: int, classes: int) -> Map:
    """Return a map [120, 160] of blocks of 10 pixels, whose tolerance is 2 pixels."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, classes, (12, 16)), np.ones((10, 10), int)).astype(np.uint8)


def edge_pixels(labels: Map, of: int) -> Iterator[tuple[int, int]]:
    """Yield the pixels of a class beside another class, looking at each neighbour."""
    height, width = labels.shape
    for y, x in zip(*np.nonzero(labels == of), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < height and 0 <= u < width and labels[v, u] not in {of, 255}:
                yield int(y), int(x)
                break


def met(pixels: set[tuple[int, int]], others: set[tuple[int, int]], radius: int) -> int:
    """Return how many pixels have one of the others within the radius."""
    reach = range(-radius, radius + 1)
    near_by = [(v, u) for v in reach for u in reach if math.hypot(v, u) <= radius]
    return sum(any((y + v, x + u) in others for v, u in near_by) for y, x in pixels)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(8, 8, 1), (120, 160, 2), (360, 480, 4), (720, 960, 9), (1024, 2048, 17)],
)
def test_tolerance_grows_with_the_image(height: int, width: int, expected: int) -> None:
    assert tolerance_px(height, width) == expected


def test_an_edge_may_be_off_by_the_tolerance_and_no_further() -> None:
    assert scores(halves(10), halves(10)) == [1.0, 1.0, None]
    assert scores(halves(10), halves(11)) == [1.0, 1.0, None]
    assert scores(halves(10), halves(12)) == [0.0, 0.0, None]


def test_half_an_edge_met_gives_precision_and_recall() -> None:
    # Truth: an edge in all 8 rows. Prediction: the same edge in the upper 4 rows, none below.
    prediction = halves(10)
    prediction[4:, 10:] = 0
    score = BoundaryScore(2)
    score.update(halves(10), prediction)
    # Class 0 predicted: 4 pixels left of the edge and 14 below the block, with one at their
    # meeting counted in either; only those near column 9 are met.
    ours = set(edge_pixels(prediction, 0))
    theirs = set(edge_pixels(halves(10), 0))
    precision = met(ours, theirs, 1) / len(ours)
    recall = met(theirs, ours, 1) / len(theirs)
    assert 0 < precision < 1
    assert recall == 5 / 8
    expected = 2 * precision * recall / (precision + recall)
    assert score.class_f()[0] == pytest.approx(expected)


def test_scores_are_pooled_over_frames() -> None:
    # 8 rows met and 24 rows missed: a quarter, where a mean over the frames would say a half.
    score = BoundaryScore(2)
    score.update(halves(10), halves(10))
    score.update(halves(10, height=24), halves(14, height=24))
    assert score.class_f() == [0.25, 0.25]
    assert score.mean_f() == 0.25


def test_a_class_without_edges_has_no_score_and_a_false_one_has_zero() -> None:
    plain = np.zeros((8, 24), np.uint8)
    assert scores(plain, plain) == [None, None, None]
    assert scores(halves(10), plain) == [0.0, 0.0, None]
    assert scores(plain, halves(10)) == [0.0, 0.0, None]
    score = BoundaryScore(3)
    score.update(plain, plain)
    assert score.mean_f() is None


def test_void_makes_no_edge_and_near_it_nothing_is_judged() -> None:
    truth = halves(10)
    truth[:, 9:12] = 255
    # The true edge may lie anywhere in the void: no pixel up to one away from it is judged.
    for edge in (9, 10, 12):
        assert scores(truth, halves(edge)) == [None, None, None], edge
    assert scores(truth, halves(8)) == [0.0, None, None], "class 0 ends two pixels away"
    assert scores(truth, halves(7)) == [0.0, 0.0, None]
    assert (boundary(truth) == 255).all()


def test_the_image_border_is_no_edge() -> None:
    assert (boundary(np.ones((4, 6), np.uint8)) == 255).all()
    expected = np.full((8, 24), 255)
    expected[:, 9], expected[:, 10] = 0, 1
    assert np.array_equal(boundary(halves(10)), expected)


def test_near_is_a_euclidean_disc() -> None:
    rng = np.random.default_rng(0)
    marks = (rng.random((13, 17)) < 0.03) * rng.integers(1, 2**16, (13, 17))
    for radius in range(6):
        expected = np.zeros_like(marks)
        for (y, x), bits in np.ndenumerate(marks):
            for (v, u), _ in np.ndenumerate(marks):
                if (y - v) ** 2 + (x - u) ** 2 <= radius**2:
                    expected[v, u] |= bits
        assert np.array_equal(near(marks.astype(np.uint16), radius), expected)


def test_counting_pixel_by_pixel_gives_the_same() -> None:
    classes, radius = 4, 2
    truth = blobs(1, classes)
    prediction = np.roll(truth, (1, 2), (0, 1))
    prediction[40:80] = blobs(2, classes)[40:80]
    truth[30:60, 70:100] = 255
    void = set(zip(*(i.tolist() for i in np.nonzero(truth == 255)), strict=True))
    expected = []
    for c in range(classes):
        ours, theirs = set(edge_pixels(truth, c)), set(edge_pixels(prediction, c))
        judged, judged_theirs = (
            {p for p in edge if not met({p}, void, radius)} for edge in (ours, theirs)
        )
        recall = met(judged, theirs, radius) / len(judged)
        precision = met(judged_theirs, ours, radius) / len(judged_theirs)
        expected.append(2 * precision * recall / (precision + recall))
    assert scores(truth, prediction, classes) == pytest.approx(expected)
    assert 0.3 < min(expected) <= max(expected) < 0.95, "the case must be able to tell"


def test_many_classes_score_like_few() -> None:
    # Classes are dilated sixteen at a time: the second sixteen must count like the first.
    truth, prediction = blobs(1, 4), np.roll(blobs(1, 4), 3, 1)
    few = scores(truth, prediction, 4)
    many = scores(truth * 5 + 3, prediction * 5 + 3, 20)
    assert [many[c * 5 + 3] for c in range(4)] == few
    assert sum(score is not None for score in many) == 4


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match="differ in size"):
        scores(halves(3), halves(3, height=9))
