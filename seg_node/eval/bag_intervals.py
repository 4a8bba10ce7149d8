"""How much the figures of a fleet depend on which recordings it has: bootstrap over recordings.

Recordings are drawn with replacement as often as there are, the pooled figure is computed of what
was drawn, and the middle 95% of a thousand such values are its interval (Efron 1979, percentile
method). Frames of one drive resemble each other in light, weather and place, so drawing frames
(`intervals.py`) would promise more than the next drive keeps. Of few recordings such an interval
is too narrow. Percentiles of times are no ratio of sums over recordings and have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seg_node.eval.intervals import LEVEL, mean_iou, RESAMPLES, SEED
from seg_node.eval.metrics import overlaps
from seg_node.eval.results import DENSE, NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from seg_node.eval.metrics import ConfusionMatrix
    from seg_node.eval.results import ModeRecord

    Sums = NDArray[np.float64]

FEWEST = 2
"""Recordings of which an interval can be had at all."""


@dataclass(frozen=True)
class BagInterval:
    """A figure of a mode over all recordings, and how far other recordings would move it.

    Attributes:
        mode: the mode.
        figure: key of the figure.
        title: its name for people.
        unit: its unit for people; empty for a score or share.
        value: the figure, pooled over all recordings that have it.
        low: lower end of the 95% interval.
        high: upper end.
        recordings: how many have it.

    """

    mode: str
    figure: str
    title: str
    unit: str
    value: float
    low: float
    high: float
    recordings: int


@dataclass(frozen=True)
class _Figure:
    """A figure that follows from sums over recordings.

    Attributes:
        key: name in files.
        title: name for people.
        unit: unit for people.
        of: takes sums, float64 [selections, k], to the figure of each selection.

    """

    key: str
    title: str
    unit: str
    of: Callable[[Sums], Sums]


def bag_intervals(records: Sequence[Mapping[str, ModeRecord]]) -> list[BagInterval]:
    """Return the intervals of every mode.

    Args:
        records: what was counted in every recording, by mode; the same modes in all.

    """
    found = []
    for mode in records[0] if records else ():
        own = [counted[mode] for counted in records]
        dense = [counted[DENSE] for counted in records if mode != DENSE and DENSE in counted]
        sums: list[tuple[_Figure, list[Sums]]] = [
            (_MIOU, [_overlaps(r) for r in own]),
            (_AGREEMENT, [_right(r.against_dense.plus(r.missed_dense)) for r in own]),
            (_STEP, [np.array([sum(r.step_ns) / NS_PER_MS, len(r.step_ns)]) for r in own]),
            (_GMAC, [np.array([r.macs / 1e9, len(r.step_ns)]) for r in own]),
        ]
        if dense:
            pairs = zip(own, dense, strict=True)
            both = [np.concatenate([_overlaps(a), _overlaps(b)]) for a, b in pairs]
            sums.insert(1, (_LOST, both))
        intervals = [_interval(mode, figure, np.stack(rows)) for figure, rows in sums]
        found += [interval for interval in intervals if interval is not None]
    return found


def _interval(mode: str, figure: _Figure, sums: Sums) -> BagInterval | None:
    """Draw rows of sums [recordings, k]; None where too few recordings have the figure."""
    known = sums[sums.any(axis=1)]
    if len(known) < FEWEST:
        return None
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, len(known), (RESAMPLES, len(known)))
    times = np.stack([np.bincount(row, minlength=len(known)) for row in drawn])
    values = figure.of(times.astype(np.float64) @ known)
    edge = 100 * (1 - LEVEL) / 2
    low, high = (float(x) for x in np.percentile(values, (edge, 100 - edge)))
    value = float(figure.of(known.sum(0, keepdims=True))[0])
    return BagInterval(mode, figure.key, figure.title, figure.unit, value, low, high, len(known))


def _overlaps(record: ModeRecord) -> Sums:
    """Return intersection and union of each class in pixels, float64 [classes * 2]."""
    counts = record.confusion.plus(record.missed).counts
    return overlaps(counts).astype(np.float64).ravel()


def _right(matrix: ConfusionMatrix) -> Sums:
    return np.array([np.trace(matrix.counts), matrix.counts.sum()], np.float64)


def _ratio(sums: Sums) -> Sums:
    return np.asarray(sums[:, 0] / sums[:, 1], np.float64)


def _gain(sums: Sums) -> Sums:
    """Return how much higher the mIoU of the first half of the sums is than of the second."""
    own, other = np.split(sums, 2, axis=1)
    return mean_iou(own) - mean_iou(other)


_MIOU = _Figure("miou", "mIoU", "", mean_iou)
_LOST = _Figure("miou_gain", "mIoU more than dense", "", _gain)
_AGREEMENT = _Figure("agreement", "pixels as dense", "", _ratio)
_STEP = _Figure("ms_mean", "step, mean", "ms", _ratio)
_GMAC = _Figure("gmac", "compute of a frame", "GMAC", _ratio)
