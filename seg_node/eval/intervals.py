"""How sure a figure of a run is: confidence intervals by bootstrap over frames.

Frames are drawn with replacement as often as there are, the figure is computed of what was drawn,
and the middle 95% of a thousand such values are its interval (Efron 1979, percentile method).
Neighbouring frames of a video resemble each other, so runs of consecutive frames are drawn rather
than single ones (circular moving blocks, Politis & Romano 1992), as long as the cube root of the
number of frames: single ones would make the interval too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seg_node.eval.frames import ModeFrames

RESAMPLES = 1000
LEVEL = 0.95
"""Share of the resampled values inside an interval."""
SEED = 0
_CHUNK = 50
"""Resamples computed at once: bounds the memory of ten thousand frames to some megabytes."""


@dataclass(frozen=True)
class Figure:
    """A figure of a mode that can be computed of any selection of its frames.

    Attributes:
        key: name in files.
        title: name for people.
        unit: unit for people; empty for a share or score.
        higher_is_better: whether more of it is better.
        kind: `pooled` divides sums over frames class by class and averages (mIoU), `mean` and
            `p95` take the mean and the 95th percentile over frames.
        column: number of a frame that it is computed of, see `frames.NUMBERS`; `overlaps` or
            `dropped`.

    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    kind: Literal["pooled", "mean", "p95"]
    column: str

    def data(self, frames: ModeFrames) -> NDArray[np.float64]:
        """Return what it is computed of, float64 [n] or [n, classes * 2]; nan where unknown."""
        if self.column == "overlaps":
            labelled = frames.overlaps.sum(axis=(1, 2)) > 0
            flat = frames.overlaps.reshape(len(frames.index), -1).astype(np.float64)
            return np.where(labelled[:, None], flat, np.nan)
        if self.column == "dropped":
            return frames.dropped.astype(np.float64)
        return frames.numbers[self.column]

    def of(self, data: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the figure of each selection of frames.

        Args:
            data: see `data`, without nan.
            drawn: numbers of the frames of each selection, int64 [selections, frames].

        """
        if self.kind == "p95":
            return np.asarray(np.percentile(data[drawn], 95, axis=1), np.float64)
        if self.kind == "mean":
            return np.asarray(data[drawn].mean(axis=1), np.float64)
        times = np.stack([np.bincount(row, minlength=len(data)) for row in drawn])
        return mean_iou(times.astype(np.float64) @ data)


MIOU = Figure("miou", "mIoU", "", True, "pooled", "overlaps")
FIGURES = (
    MIOU,
    Figure("agreement", "pixels as dense", "", True, "mean", "agreement"),
    Figure("ms_mean", "step, mean", "ms", False, "mean", "step_ms"),
    Figure("ms_p95", "step, p95", "ms", False, "p95", "step_ms"),
    Figure("late_p95", "arrival to mask, p95", "ms", False, "p95", "late_ms"),
    Figure("age_p95", "oldest block, p95", "ms", False, "p95", "age_max_ms"),
    Figure("gmac", "compute", "GMAC", False, "mean", "gmac"),
    Figure("joules", "energy", "J", False, "mean", "joules"),
    Figure("dropped", "frames dropped", "", False, "mean", "dropped"),
)


def mean_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes of sums [selections, classes * 2]; classes not seen are out."""
    hit, union = np.moveaxis(sums.reshape(len(sums), -1, 2), 2, 0)
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=union > 0)
    return np.asarray(iou.sum(1) / np.maximum((union > 0).sum(1), 1), np.float64)


@dataclass(frozen=True)
class Difference:
    """How far one figure of two sets of frames is apart.

    Attributes:
        old: the figure of the first set.
        new: of the second.
        low: lower end of the interval of `new - old`.
        high: upper end.
        frames: frames of the smaller set.
        paired: whether both sets are the same frames, drawn together.

    """

    old: float
    new: float
    low: float
    high: float
    frames: int
    paired: bool


def difference(figure: Figure, old: ModeFrames, new: ModeFrames) -> Difference | None:
    """Compare a figure of the same frames in two runs or modes, frame by frame.

    Frames are the same if their numbers and stamps are; the others, and those in which the figure
    is unknown on either side, are left out. None if nothing is left.
    """
    here = {pair: row for row, pair in enumerate(zip(old.index, old.stamp_ns, strict=True))}
    keys = [(here.get(k), r) for r, k in enumerate(zip(new.index, new.stamp_ns, strict=True))]
    rows = np.array([(a, b) for a, b in keys if a is not None], np.int64).reshape(-1, 2)
    before, after = figure.data(old)[rows[:, 0]], figure.data(new)[rows[:, 1]]
    known = ~(_unknown(before) | _unknown(after))
    return _compare(figure, before[known], after[known], paired=True)


def difference_unpaired(figure: Figure, old: ModeFrames, new: ModeFrames) -> Difference | None:
    """Compare a figure of different frames; None where the figure is unknown on either side."""
    before, after = figure.data(old), figure.data(new)
    known = before[~_unknown(before)], after[~_unknown(after)]
    return _compare(figure, *known, paired=False)


def _unknown(data: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isnan(data if data.ndim == 1 else data.sum(axis=1))


def _compare(
    figure: Figure, old: NDArray[np.float64], new: NDArray[np.float64], *, paired: bool
) -> Difference | None:
    count = min(len(old), len(new))
    if not count:
        return None
    random = np.random.default_rng(SEED)
    apart = []
    # Paired sets are as long and drawn alike; others each by itself.
    for drawn in draws(len(new), random):
        other = drawn if paired else next(draws(len(old), random))[: len(drawn)]
        apart.append(figure.of(new, drawn) - figure.of(old, other))
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.concatenate(apart), (edge, 100 - edge))
    before, after = (figure.of(data, np.arange(len(data))[None])[0] for data in (old, new))
    return Difference(float(before), float(after), float(low), float(high), count, paired)


def draws(frames: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of the frames of every resample, int64 [some, frames], some at a time."""
    length = block_length(frames)
    blocks = -(-frames // length)
    for first in range(0, RESAMPLES, _CHUNK):
        some = min(_CHUNK, RESAMPLES - first)
        starts = random.integers(0, frames, (some, blocks, 1))
        drawn = (starts + np.arange(length)) % frames
        yield drawn.reshape(some, -1)[:, :frames]


def block_length(frames: int) -> int:
    """Return how many consecutive frames are drawn together."""
    return max(1, round(float(np.cbrt(frames))))
