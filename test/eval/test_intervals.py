"""Intervals by bootstrap: figures as in the results, paired frames, blocks of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.eval import intervals
from seg_node.eval.frames import ModeFrames, NUMBERS
from seg_node.eval.intervals import difference, difference_unpaired, FIGURES, MIOU

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BY_KEY = {figure.key: figure for figure in FIGURES}
STEP = BY_KEY["ms_mean"]


def frames_of(step_ms: ArrayLike, overlaps: ArrayLike | None = None, first: int = 0) -> ModeFrames:
    """Return frames with these times, numbered from `first`."""
    times = np.asarray(step_ms, np.float64)
    count = len(times)
    index = np.arange(first, first + count)
    numbers = dict.fromkeys(NUMBERS, np.full(count, np.nan))
    counts = np.zeros((count, 2, 2), np.int64) if overlaps is None else np.asarray(overlaps)
    return ModeFrames(
        index=index,
        stamp_ns=index * 100,
        dropped=np.zeros(count, np.bool_),
        reason=("MOVED",) * count,
        numbers={**numbers, "step_ms": times},
        stage_ms={},
        overlaps=counts,
    )


def test_figures_are_those_of_all_frames() -> None:
    """Mean and 95th percentile of times; mIoU divides sums: (1+8)/(2+8) and 1/4, not the means."""
    old = frames_of(np.arange(101.0), np.zeros((101, 2, 2), np.int64))
    new = frames_of(np.arange(101.0) + 1)
    for key, expected in (("ms_mean", 50.0), ("ms_p95", 95.0)):
        found = difference(BY_KEY[key], old, new)
        assert found is not None
        assert [found.old, found.new] == pytest.approx([expected, expected + 1])
    assert difference(MIOU, old, new) is None, "no frame has labels"
    overlaps = np.array([[[1, 2], [0, 0]], [[8, 8], [1, 4]]])
    found = difference(MIOU, frames_of([1, 1], overlaps), frames_of([1, 1], overlaps))
    assert found is not None
    assert found.old == pytest.approx((9 / 10 + 1 / 4) / 2)
    assert (found.low, found.high) == (0.0, 0.0)


def test_the_same_frames_are_drawn_for_both() -> None:
    """Frames differ by 100 ms among themselves, runs by 1 +- 0.1: only pairs can tell."""
    random = np.random.default_rng(3)
    hard = random.uniform(0, 100, 60)
    old, new = frames_of(hard), frames_of(hard + random.normal(1, 0.1, 60))
    paired, unpaired = difference(STEP, old, new), difference_unpaired(STEP, old, new)
    assert paired is not None
    assert unpaired is not None
    assert 0.9 < paired.low < 1 < paired.high < 1.1
    assert unpaired.low < -5 < 5 < unpaired.high
    assert (paired.paired, unpaired.paired) == (True, False)


def test_only_frames_of_both_count() -> None:
    old, new = frames_of([1.0, 2.0, 3.0]), frames_of([20.0, 30.0, 40.0], first=1)
    found = difference(STEP, old, new)
    assert found is not None
    assert (found.frames, found.old, found.new) == (2, 2.5, 25.0)
    assert difference(STEP, old, frames_of([1.0], first=9)) is None
    old.numbers["step_ms"][1] = np.nan
    found = difference(STEP, old, new)
    assert found is not None
    assert (found.frames, found.old, found.new) == (1, 3.0, 30.0)


def test_an_interval_covers_what_it_should() -> None:
    """Of 60 runs of independent frames about 57 intervals hold the true mean, 0."""
    random = np.random.default_rng(1)
    nothing = frames_of(np.zeros(200))
    hits = 0
    for _ in range(60):
        found = difference(STEP, nothing, frames_of(random.normal(size=200)))
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert 51 <= hits < 60


def test_neighbours_that_resemble_each_other_widen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a video: each frame keeps 0.8 of the one before."""
    random = np.random.default_rng(1)
    values = np.zeros(300)
    for frame in range(1, 300):
        values[frame] = 0.8 * values[frame - 1] + random.normal()
    nothing, similar = frames_of(np.zeros(300)), frames_of(values)
    blocks = difference(STEP, nothing, similar)
    monkeypatch.setattr(intervals, "block_length", lambda _: 1)
    single = difference(STEP, nothing, similar)
    assert blocks is not None
    assert single is not None
    assert blocks.high - blocks.low > 1.4 * (single.high - single.low)


def test_the_same_runs_give_the_same_interval() -> None:
    random = np.random.default_rng(5)
    old, new = frames_of(random.uniform(size=50)), frames_of(random.uniform(size=50))
    assert difference(STEP, old, new) == difference(STEP, old, new)
