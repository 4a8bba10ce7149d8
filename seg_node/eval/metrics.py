"""Overlap scores from confusion matrices: pooled over the data set, and image by image.

Definitions, sources and pitfalls of every score: docs/metrics.md.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all frames; scores divide once, at the end.

    All scores but `image_miou` are pooled over the data set, not averaged over images: a class
    missing from an image neither helps nor hurts it.

    Args:
        classes: number of classes; label `IGNORE_LABEL` (255) is left out of every count.

    Attributes:
        counts: pixels by true class (row) and predicted class (column), int64.

    """

    def __init__(self, classes: int) -> None:
        """Start with all counts at zero."""
        self.classes = classes
        self.counts = np.zeros((classes, classes), np.int64)
        self._image_sum = 0.0
        self._images = 0

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> float | None:
        """Count one frame.

        Args:
            truth: true class per pixel, uint8 [H, W], 0..classes-1 or 255.
            prediction: predicted class per pixel, uint8 [H, W], 0..classes-1.

        Returns:
            Mean IoU (0..1) of this frame alone, see `image_miou`; None if it is all void.

        Raises:
            DataError: shapes differ, or a value is out of range.

        """
        return self.add(self.count(truth, prediction))

    def add(self, counts: NDArray[np.int64]) -> float | None:
        """Add the counts of one frame, see `count`; returns what `update` does."""
        self.counts += counts
        score = mean_of_seen(class_iou(counts))
        if score is not None:
            self._image_sum += score
            self._images += 1
        return score

    def plus(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return a matrix of the frames of both."""
        both = ConfusionMatrix(self.classes)
        both.counts += self.counts + other.counts
        both._image_sum = self._image_sum + other._image_sum
        both._images = self._images + other._images
        return both

    def state(self) -> dict[str, Any]:
        """Return all that was counted, to be written as JSON; see `restore`."""
        return {
            "counts": self.counts.tolist(),
            "image_sum": self._image_sum,
            "images": self._images,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same classes, to the last bit."""
        self.counts[:] = state["counts"]
        self._image_sum = float(state["image_sum"])
        self._images = int(state["images"])

    def class_iou(self) -> list[float | None]:
        """Return intersection over union (0..1) per class; None for a class never seen."""
        return class_iou(self.counts)

    def dataset_miou(self) -> float | None:
        """Return the mean of `class_iou` over the classes seen; None before any pixel."""
        return mean_of_seen(self.class_iou())

    def image_miou(self) -> float | None:
        """Return the mean over frames of each frame's own mean IoU; None before any pixel.

        A frame's own mean goes over the classes in its truth or its prediction: one wrong pixel
        of a class that is not there costs that frame a whole zero.
        """
        return self._image_sum / self._images if self._images else None

    def pixel_accuracy(self) -> float | None:
        """Return the share (0..1) of labelled pixels that are right; None before any pixel."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else None

    def class_share(self) -> list[float] | None:
        """Return the share (0..1) of the labelled pixels per true class; None before any pixel."""
        total = self.counts.sum()
        return [float(n / total) for n in self.counts.sum(1)] if total else None

    def count(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the counts of one frame, int64 [classes, classes], without adding them.

        Args and errors: see `update`.
        """
        if truth.shape != prediction.shape:
            msg = f"labels {truth.shape} and prediction {prediction.shape} differ in size"
            raise DataError(msg)
        known = truth != IGNORE_LABEL
        true, predicted = truth[known], prediction[known]
        for name, values in (("label", true), ("predicted class", predicted)):
            if values.size and values.max() >= self.classes:
                msg = f"{name} {values.max()} is not in 0..{self.classes - 1} nor {IGNORE_LABEL}"
                raise DataError(msg)
        pairs = true.astype(np.int64) * self.classes + predicted
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.counts.shape)


def class_iou(counts: NDArray[np.int64]) -> list[float | None]:
    """Return intersection over union (0..1) per class of a confusion matrix [classes, classes].

    None for a class that is neither in the truth nor in the prediction.
    """
    return [float(hit / union) if union else None for hit, union in overlaps(counts)]


def overlaps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (intersection, union) in pixels per class of a confusion matrix, int64 [classes, 2].

    They add up over frames, so the pooled mIoU of any selection of frames follows from theirs.
    """
    hit = np.diag(counts)
    return np.stack([hit, counts.sum(0) + counts.sum(1) - hit], axis=1)


def mean_of_seen(scores: list[float | None]) -> float | None:
    """Return the mean of the scores that are not None; None without any."""
    seen = [score for score in scores if score is not None]
    return float(np.mean(seen)) if seen else None
