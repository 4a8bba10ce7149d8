"""Mode `adaptive`: computes the blocks that are worth it, as many as the budget allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.budget import Spent, Work
from seg_node.core.policy import filled, NOTHING, Remembers
from seg_node.core.sharing import SharedBudget
from seg_node.core.types import Action, Plan, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.config import Config
    from seg_node.core.policy import BlockPast, Past
    from seg_node.core.types import StepReport

LEAST_DOUBT = 0.03
"""Doubt that counts where there is less: a network is certain of what it saw, such as plain road,
not of what came since. With 0, whoever steps on such a road would wait until due by age."""

QUIET = 0.25
"""Share of the blocks whose distortion is taken for that of the sensor's noise: of a still scene
noise is all that changes, and hardly a picture moves everywhere so that none of it is plain."""

MOST_NOISE = 2.0
"""Most levels of colour that are taken for noise; pixels with a noise of 4 levels come to that,
because features are coarser than pixels. What changes all of a picture changes it more."""

SOON = 0.8
"""Share of `max_age_ms` within which blocks are renewed where the budget has room for it."""

RENEWED = 2 / 3
"""Most of what the budget allows that goes to blocks which are due soon, not yet. What is old
moves into blocks that were renewed before; without a beginning in good time there would be more
blocks due in some frames than the budget allows."""

_TINY = 1e-12  # in levels: what did not change at all has no value, whatever the exponents
_NS_PER_S = 1e9


@dataclass(frozen=True)
class ValueWeights:
    """How much what is known of a block counts for the value of computing it.

    The value is distortion ** a * doubt ** b * age ** c: a product, because old content that is
    still explained costs nothing, and distortion where the class is certain little. Doubt counts
    as `LEAST_DOUBT` or more. Of distortion times doubt the mean over the pixels counts, not the
    product of two means: a block whose uncertain pixels changed is worth more than one in which
    others did.

    Attributes:
        distortion: exponent a.
        doubt: exponent b.
        age: exponent c.

    """

    distortion: float = 1.0
    doubt: float = 1.0
    age: float = 1.0


def values(past: BlockPast, weights: ValueWeights) -> NDArray[np.float64]:
    """Return what computing each block is worth, [gh, gw]; of no unit."""
    distortion, doubt = past.distortion, _counted(past.doubt)
    worth: NDArray[np.float64] = (
        np.maximum(past.risk, LEAST_DOUBT * distortion)
        * np.maximum(distortion, _TINY) ** (weights.distortion - 1)
        * doubt ** (weights.doubt - 1)
        * past.age_ms**weights.age
    )
    return worth


def harms(past: BlockPast) -> NDArray[np.float64]:
    """Return what leaving each block as it was may do, [gh, gw], in levels of colour times doubt.

    It says which blocks are worth anything, and is 0 where there is no more than noise; which of
    them are worth most is for `values`.
    """
    noise = min(MOST_NOISE, float(np.quantile(past.distortion, QUIET)))
    harm: NDArray[np.float64] = np.maximum(0, past.distortion - noise) * _counted(past.doubt)
    return harm


def _counted(doubt: NDArray[np.floating]) -> NDArray[np.floating]:
    counted: NDArray[np.floating] = np.maximum(doubt, LEAST_DOUBT)
    return counted


def count_due(oldest_ms: NDArray[np.floating], interval_ms: float, max_age_ms: float) -> int:
    """Return how many of the oldest blocks must be computed now for none to become too old.

    Of the i oldest blocks, all must be computed within the frames that the i-th has left, the
    last of which is the one in which it would be too old. This says how many the busiest frame
    needs, so that blocks that were computed together are not due together; and no more are due
    now than would be too many for the frames after.

    Args:
        oldest_ms: age of the oldest pixel of each block.
        interval_ms: time from frame to frame.
        max_age_ms: no pixel may be older.

    """
    if interval_ms <= 0:
        return int((oldest_ms > max_age_ms).sum())
    age = np.sort(oldest_ms, axis=None)[::-1]
    later = np.maximum(0, 1 + np.floor((max_age_ms - age) / interval_ms))  # frames left after this
    oldest = np.arange(1, age.size + 1)
    busiest = np.ceil((oldest / (1 + later)).max())
    return max(0, int((oldest - busiest * later).max()))


class Budgeted:
    """Ranks blocks by value and computes the best, as many as the budget allows.

    No budget overrides what is due by age, or a frame that nothing is known of.

    Args:
        weights: how the value of a block is composed.

    """

    remembers = Remembers.BLOCKS

    def __init__(self, weights: ValueWeights | None = None) -> None:
        """Know no costs yet."""
        self._weights = weights or ValueWeights()
        self._budget = SharedBudget()
        self._needs: dict[str, float] = {}

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return a grid of HIGH and REUSE."""
        grid = filled(image, config, Action.REUSE)
        allowed = self._budget.allowed(past.camera, grid.size, config.budget)
        self._needs[past.camera] = 0.0
        blocks = past.blocks
        if past.lost is not None or blocks is None:
            grid[:] = Action.HIGH
            return self._told(past.camera, grid, past.lost or Reason.FIRST, None)
        value = values(blocks, self._weights)
        harm = harms(blocks)
        worth = harm >= config.reuse.threshold
        self._needs[past.camera] = float(harm[worth].sum())
        value[~worth] = -1.0
        grid.flat[_chosen(blocks, value, allowed, config.max_age_ms)] = Action.HIGH
        return self._told(past.camera, grid, Reason.REFRESHED, float(blocks.distortion.mean()))

    def _told(
        self, camera: str, grid: NDArray[np.uint8], reason: Reason, distortion: float | None
    ) -> Plan:
        """Return a plan with what it is expected to cost; full frames are not held against it."""
        work = _work(grid)
        fits = work.full or self._budget.keeps(camera, work.high)
        return Plan(grid, reason, fits, self._budget.predicted_ns(camera, work), distortion)

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Take note of what the newest frame of a camera cost."""
        seconds, interval_s = report.total_ns / _NS_PER_S, interval_ns / _NS_PER_S
        spent = Spent(_work(plan.grid), seconds, interval_s, report.macs, report.dense_macs)
        self._budget.spent(camera, self._needs[camera], spent)

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0: convolutions and matrix products count, and there are none."""
        return 0


def _chosen(
    past: BlockPast, value: NDArray[np.float64], allowed: int, max_age_ms: float
) -> NDArray[np.intp]:
    """Return which blocks are computed, as indices of all blocks row by row.

    Args:
        past: what is known of the blocks.
        value: what computing each is worth, [gh, gw]; less than 0: nothing.
        allowed: how many the budget allows.
        max_age_ms: what is older in the next frame is computed now, whatever the budget.

    """
    due = renewed = count_due(past.oldest_ms, past.interval_ms, max_age_ms)
    if np.count_nonzero(value >= 0) >= allowed:  # else there is room for them when they are due
        soon = count_due(past.oldest_ms, past.interval_ms, SOON * max_age_ms)
        renewed = max(due, min(soon, int(RENEWED * allowed)))
    oldest = _by_age(past)[:renewed]
    others = value.copy()
    others.flat[oldest] = -1.0
    count = max(due, min(allowed, renewed + np.count_nonzero(others >= 0)))
    ranked: NDArray[np.intp] = np.argsort(-others, axis=None, kind="stable")
    return np.concatenate((oldest, ranked))[:count]


def _by_age(past: BlockPast) -> NDArray[np.intp]:
    """Return blocks in the order in which they are renewed: those with the oldest pixel first.

    Many blocks have pixels of one age, for example since a full frame, and pixels move from block
    to block. Of such blocks those come first of which most is old: into blocks that were renewed
    before some old pixels come back at once from those beside them, and who renews them again
    never comes to the others. Then those in the middle: before a robot that drives on, content
    moves outwards, and takes its age along.
    """
    mostly_newer = past.age_ms < past.oldest_ms / 2
    grid = past.age_ms.shape
    off = ((np.indices(grid).reshape(2, -1).T - (np.array(grid) - 1) / 2) ** 2).sum(1)
    return np.lexsort((off, mostly_newer.ravel(), -past.oldest_ms.ravel()))


def _work(grid: NDArray[np.uint8]) -> Work:
    """Return what a plan has a step execute."""
    high = int(np.count_nonzero(grid == Action.HIGH))
    return Work(high, full=high == grid.size)
