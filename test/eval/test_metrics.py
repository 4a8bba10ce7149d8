"""Scores are pooled over the data set, ignore void, and refuse labels out of range."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.eval.metrics import ConfusionMatrix


def test_iou_of_a_hand_counted_case() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 2]], np.uint8))
    assert matrix.class_iou() == [0.5, 0.5, None]
    assert matrix.dataset_miou() == 0.5
    assert matrix.pixel_accuracy() == pytest.approx(2 / 3)


def test_miou_is_pooled_and_not_a_mean_over_images() -> None:
    # One wrong pixel in an image where the class is rare halves that image's IoU, not the pool's.
    matrix = ConfusionMatrix(2)
    first = np.zeros((10, 10), np.uint8)
    first[0, 0] = 1
    matrix.update(first, np.zeros_like(first))
    second = np.ones((10, 10), np.uint8)
    matrix.update(second, second)
    assert matrix.class_iou() == [99 / 100, 100 / 101]
    assert matrix.dataset_miou() == pytest.approx(0.99005, abs=1e-5)


def test_nothing_seen_gives_no_score() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert (matrix.dataset_miou(), matrix.pixel_accuracy()) == (None, None)


def test_a_false_alarm_of_an_absent_class_counts_as_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((1, 2), np.uint8), np.array([[0, 1]], np.uint8))
    assert matrix.class_iou() == [0.5, 0.0]


@pytest.mark.parametrize(("truth", "prediction", "text"), [(3, 0, "label 3"), (0, 3, "class 3")])
def test_out_of_range_is_refused_with_the_value(truth: int, prediction: int, text: str) -> None:
    with pytest.raises(DataError, match=text):
        ConfusionMatrix(3).update(
            np.full((1, 1), truth, np.uint8), np.full((1, 1), prediction, np.uint8)
        )


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match="differ in size"):
        ConfusionMatrix(3).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
