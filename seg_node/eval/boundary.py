"""Boundary F-score: how well the outlines of the classes are met.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013,
pooled over the data set. The exact definition is in docs/metrics.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL
from seg_node.eval.metrics import mean_of_seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

Marks = TypeVar("Marks", np.bool_, np.uint16)

TOLERANCE = 0.0075
"""Distance up to which two boundaries meet, as a share of the image diagonal (Csurka et al.)."""
_WORD = 16
"""Classes dilated at once, one bit each; words of 16 stay in the processor's cache."""


def tolerance_px(height: int, width: int) -> int:
    """Return the tolerance in pixels, rounded, at least 1: 4 at 480x360, 9 at 960x720."""
    return max(1, round(TOLERANCE * math.hypot(height, width)))


class BoundaryScore:
    """Counts boundary pixels per class, and those that a boundary of the other map meets.

    Args:
        classes: number of classes.

    """

    def __init__(self, classes: int) -> None:
        """Start with all counts at zero."""
        self.classes = classes
        self._true = np.zeros(classes, np.int64)
        self._true_met = np.zeros(classes, np.int64)
        self._predicted = np.zeros(classes, np.int64)
        self._predicted_met = np.zeros(classes, np.int64)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one frame.

        Args:
            truth: true class per pixel, uint8 [H, W], 0..classes-1 or 255.
            prediction: predicted class per pixel, uint8 [H, W], 0..classes-1.

        Raises:
            DataError: shapes differ.

        """
        if truth.shape != prediction.shape:
            msg = f"labels {truth.shape} and prediction {prediction.shape} differ in size"
            raise DataError(msg)
        radius = tolerance_px(*truth.shape)
        void = truth == IGNORE_LABEL
        # Where void is near, the other map's boundary may hide in it: nothing can be judged.
        judged = ~near(void, radius) if void.any() else ~void
        true, predicted = boundary(truth), boundary(prediction)
        for start in range(0, self.classes, _WORD):
            bits = class_bits(start, min(_WORD, self.classes - start))
            self._count(true, predicted, judged, bits, self._true, self._true_met, radius)
            self._count(
                predicted, true, judged, bits, self._predicted, self._predicted_met, radius
            )

    def class_f(self) -> list[float | None]:
        """Return the F-score (0..1) per class; None for a class without any boundary."""
        return [self._f(index) for index in range(self.classes)]

    def mean_f(self) -> float | None:
        """Return the mean of `class_f` over the classes with a boundary; None without any."""
        return mean_of_seen(self.class_f())

    def _f(self, index: int) -> float | None:
        true, predicted = self._true[index], self._predicted[index]
        if not true and not predicted:
            return None
        recall = self._true_met[index] / true if true else 0.0
        precision = self._predicted_met[index] / predicted if predicted else 0.0
        total = precision + recall
        return float(2 * precision * recall / total) if total else 0.0

    def _count(  # noqa: PLR0913, PLR0917 - the two maps, what to judge, and where to count
        self,
        edges: NDArray[np.uint8],
        others: NDArray[np.uint8],
        judged: NDArray[np.bool_],
        bits: NDArray[np.uint16],
        total: NDArray[np.int64],
        met: NDArray[np.int64],
        radius: int,
    ) -> None:
        """Count the judged pixels of `edges` by class, and those that `others` meets."""
        reach = near(bits[others], radius)
        chosen = judged & (bits[edges] != 0)
        labels = edges[chosen]
        hit = (reach[chosen] & bits[labels]) != 0
        total += np.bincount(labels, minlength=self.classes)
        met += np.bincount(labels[hit], minlength=self.classes)


def boundary(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the labels where a pixel touches another class on one of its four sides, else 255.

    Args:
        labels: uint8 [H, W]; void (255) has no boundary and makes none, as has the image's edge.

    """
    known = labels != IGNORE_LABEL
    edge = np.zeros(labels.shape, np.bool_)
    for first, second in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = (labels[first] != labels[second]) & known[first] & known[second]
        edge[first] |= differ
        edge[second] |= differ
    return np.where(edge, labels, np.uint8(IGNORE_LABEL))


def class_bits(start: int, count: int) -> NDArray[np.uint16]:
    """Return one bit per class of start .. start+count-1, no bit for others, uint16 [256]."""
    table = np.zeros(256, np.uint16)
    table[start : start + count] = np.left_shift(np.uint16(1), np.arange(count, dtype=np.uint16))
    return table


def near(marks: NDArray[Marks], radius: int) -> NDArray[Marks]:
    """Return per pixel the union (bitwise or) of all marks up to `radius` pixels away.

    The distance is Euclidean between pixel centres. Every bit is a map of its own, so all classes
    are dilated in one pass of 4 * radius operations, exactly.

    Args:
        marks: bool or uint16 [H, W].
        radius: in pixels, 0 or more.

    """
    out = np.zeros_like(marks)
    span = marks.copy()  # the union over columns x - reach .. x + reach
    reach = 0
    for row in range(radius, -1, -1):
        wanted = math.isqrt(radius * radius - row * row)
        while reach < wanted:
            reach += 1
            span[:, reach:] |= marks[:, :-reach]
            span[:, :-reach] |= marks[:, reach:]
        if row == 0:
            out |= span
        else:
            out[row:] |= span[:-row]
            out[:-row] |= span[row:]
    return out
