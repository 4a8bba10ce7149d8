"""Segmentation scores from one pooled confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all frames; scores divide once, at the end.

    Every score is pooled over the data set, not averaged over images: a class missing from an
    image neither helps nor hurts it.

    Args:
        classes: number of classes; label `IGNORE_LABEL` (255) is left out of every count.

    """

    def __init__(self, classes: int) -> None:
        """Start with all counts at zero."""
        self.classes = classes
        self.counts = np.zeros((classes, classes), np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one frame.

        Args:
            truth: true class per pixel, uint8 [H, W], 0..classes-1 or 255.
            prediction: predicted class per pixel, uint8 [H, W], 0..classes-1.

        Raises:
            DataError: shapes differ, or a value is out of range.

        """
        if truth.shape != prediction.shape:
            msg = f"labels {truth.shape} and prediction {prediction.shape} differ in size"
            raise DataError(msg)
        known = truth != IGNORE_LABEL
        true, predicted = truth[known].astype(np.int64), prediction[known].astype(np.int64)
        for name, values in (("label", true), ("predicted class", predicted)):
            if values.size and values.max() >= self.classes:
                msg = f"{name} {values.max()} is not in 0..{self.classes - 1} nor {IGNORE_LABEL}"
                raise DataError(msg)
        flat = np.bincount(true * self.classes + predicted, minlength=self.classes**2)
        self.counts += flat.reshape(self.classes, self.classes)

    def class_iou(self) -> list[float | None]:
        """Return intersection over union (0..1) per class; None for a class never seen."""
        hit = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return [float(h / u) if u else None for h, u in zip(hit, union, strict=True)]

    def dataset_miou(self) -> float | None:
        """Return the mean of `class_iou` over the classes seen; None before any pixel."""
        present = [iou for iou in self.class_iou() if iou is not None]
        return float(np.mean(present)) if present else None

    def pixel_accuracy(self) -> float | None:
        """Return the share (0..1) of labelled pixels that are right; None before any pixel."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else None
