"""Scores pool over the data set or go image by image, ignore void, refuse labels out of range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.eval.metrics import ConfusionMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 5


def random_frames(count: int = 6) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return pairs of truth, with void and without the last class, and prediction."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(count):
        truth = rng.integers(0, CLASSES - 1, (7, 9)).astype(np.uint8)
        prediction = np.where(rng.random((7, 9)) < 0.4, truth, rng.integers(0, CLASSES, (7, 9)))
        truth[rng.random((7, 9)) < 0.2] = 255
        frames.append((truth, prediction.astype(np.uint8)))
    return frames


def counted(frames: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> ConfusionMatrix:
    """Return the matrix of some frames."""
    matrix = ConfusionMatrix(CLASSES)
    for truth, prediction in frames:
        matrix.update(truth, prediction)
    return matrix


def iou_by_sets(
    frames: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> list[float | None]:
    """Return the IoU per class, pixel by pixel and by sets, as the definition says."""
    true, predicted = set(), set()
    for index, (truth, prediction) in enumerate(frames):
        for place, label in np.ndenumerate(truth):
            if label != 255:
                true.add((index, place, int(label)))
                predicted.add((index, place, int(prediction[place])))
    scores: list[float | None] = []
    for c in range(CLASSES):
        ours, theirs = ({x for x in s if x[2] == c} for s in (true, predicted))
        scores.append(len(ours & theirs) / len(ours | theirs) if ours | theirs else None)
    return scores


def mean(scores: list[float | None]) -> float:
    """Return the mean of what is there."""
    return float(np.mean([s for s in scores if s is not None]))


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


def test_image_miou_is_the_mean_over_images() -> None:
    # The same two images: (99/100 + 0) / 2 and 1, so 0.7475 where the pool says 0.99.
    matrix = ConfusionMatrix(2)
    first = np.zeros((10, 10), np.uint8)
    first[0, 0] = 1
    assert matrix.update(first, np.zeros_like(first)) == pytest.approx(0.495)
    assert matrix.update(np.ones_like(first), np.ones_like(first)) == 1.0
    assert matrix.image_miou() == pytest.approx(0.7475)


def test_an_image_of_void_alone_has_no_score_and_does_not_count() -> None:
    matrix = ConfusionMatrix(2)
    ones = np.ones((2, 2), np.uint8)
    assert matrix.update(np.full((2, 2), 255, np.uint8), ones) is None
    matrix.update(ones, ones)
    assert matrix.image_miou() == 1.0


def test_an_image_that_is_all_wrong_counts() -> None:
    matrix = ConfusionMatrix(2)
    ones = np.ones((2, 2), np.uint8)
    assert matrix.update(ones, np.zeros_like(ones)) == 0.0
    matrix.update(ones, ones)
    assert matrix.image_miou() == 0.5


def test_share_of_each_class_is_of_the_labelled_truth() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 0, 0, 1, 255]], np.uint8), np.zeros((1, 5), np.uint8))
    assert matrix.class_share() == [0.75, 0.25, 0.0]


def test_counting_by_hand_gives_the_same() -> None:
    frames = random_frames()
    matrix = counted(frames)
    expected = iou_by_sets(frames)
    assert matrix.class_iou() == pytest.approx(expected)
    assert matrix.dataset_miou() == pytest.approx(mean(expected))
    assert matrix.image_miou() == pytest.approx(np.mean([mean(iou_by_sets([f])) for f in frames]))
    right = sum(int((t == p).sum()) for t, p in frames)
    labelled = sum(int((t != 255).sum()) for t, _ in frames)
    assert matrix.pixel_accuracy() == pytest.approx(right / labelled)


def test_scikit_learn_gives_the_same() -> None:
    scores = pytest.importorskip("sklearn.metrics")
    frames = random_frames()
    true = np.concatenate([t[t != 255] for t, _ in frames])
    predicted = np.concatenate([p[t != 255] for t, p in frames])
    expected = scores.jaccard_score(true, predicted, labels=range(CLASSES), average=None)
    assert counted(frames).class_iou() == pytest.approx(list(expected))
    assert counted(frames).pixel_accuracy() == pytest.approx(
        scores.accuracy_score(true, predicted)
    )


def test_torchmetrics_gives_the_same() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    torch = pytest.importorskip("torch")
    frames = random_frames()
    metric = classification.MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
    for truth, prediction in frames:
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth).long())
    assert counted(frames).dataset_miou() == pytest.approx(metric.compute().item())


def test_nothing_seen_gives_no_score() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert (matrix.dataset_miou(), matrix.pixel_accuracy()) == (None, None)
    assert (matrix.image_miou(), matrix.class_share()) == (None, None)


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
