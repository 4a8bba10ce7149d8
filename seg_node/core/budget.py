"""How many HIGH blocks a frame may compute, for a target in seconds or in MACs.

A policy ranks the blocks; a budget says how many of them may be computed, and learns from what
was computed in truth, forced blocks and full frames included. Nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Protocol, TYPE_CHECKING

import numpy as np

from seg_node.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOAD_S = 0.7
"""Time constant (s) with which the cost model follows the load of the machine, and what a block is
held to cost in MACs follows what frames execute."""

MOST_GAIN = 0.5
"""Most that one frame counts against all before it, however long ago they were."""

JITTER = 0.1
"""Relative spread of measured seconds that is taken for noise."""

SURPRISE = 2.2
"""Error, in standard deviations, that makes a frame an outlier or the first of a new load."""

NOVELTY = 0.15
"""Relative change of predicted cost from which on a frame tells how cost splits into terms."""

SHAPE_S = 3600.0
"""Time constant (s) with which doubt about that split returns."""

PRIOR = np.array([0.1, 0.1, 1.0, 0.25, 1.0])
"""Costs before they are known, in full frames: fixed, any blocks at all, all blocks of the grid, a
LOW pass, a full frame."""

DOUBT = np.diag([0.3, 0.2, 0.3, 0.15, 0.3]) ** 2
"""Covariance of `PRIOR`, to which doubt returns."""

LEAST = 0.05
"""No cost is held to be less than this part of its prior."""

AIM = 0.97
"""Part of the target that frames are planned for; rare slow frames take the rest."""

CEILING = 1.08
"""Part of the target that no frame with several blocks is planned above: where blocks are too
coarse for that, it stays under it."""

DEBT = 1 / 16
"""Most of the grid that is paid back when more was computed than allowed."""


@dataclass(frozen=True)
class Work:
    """What a step executed.

    Attributes:
        high: HIGH blocks; all blocks of the grid in a full frame.
        low: passes over the frame at half resolution.
        full: whether the frame was computed in the dense way, without blocks.

    """

    high: int
    low: int = 0
    full: bool = False


@dataclass(frozen=True)
class Spent:
    """What a step cost.

    Attributes:
        work: what it executed.
        seconds: measured time of the whole step, above 0.
        interval_s: time since the step before, at least 0.
        macs: multiply-accumulates executed.
        dense_macs: multiply-accumulates of the dense network on the same frame.

    """

    work: Work
    seconds: float
    interval_s: float
    macs: int
    dense_macs: int


class Budget(Protocol):
    """Says how many blocks a frame may compute: asked before each frame, told after it.

    A full frame is neither refused nor paid back: it comes when the past is of no use, and saving
    on the frames after it would starve them exactly then. Other blocks beyond the allowed ones
    are paid back up to `DEBT`, and blocks that were allowed but not used are not saved up.

    """

    def allowed(self, total: int) -> int:
        """Return how many of `total` HIGH blocks the next frame may have, forced ones included.

        All, while nothing is known: the first frame is computed in full anyway.
        """
        ...

    def keeps(self, high: int) -> bool:
        """Return whether the frame that was asked for last keeps the target with so many blocks.

        It does not where forced blocks, or what costs something without any, are too much.
        """
        ...

    def spent(self, step: Spent) -> None:
        """Learn what the frame cost that was asked for."""
        ...


class CostModel:
    """Predicts the seconds of a step from what it executes, and learns from every step.

    seconds = fixed + (some + per_block * high where high > 0) + per_pass * low; full frames have a
    cost of their own: what blocks need around them takes as long for one as for several. The five
    costs are fitted by recursive least squares that forgets in two ways. The load of the
    machine scales all costs together and changes within a second: along them, the past is
    forgotten exponentially in time. How cost splits into its terms hardly changes, and only a
    frame with unlike work tells of it: a controller that holds the time answers its own noise
    with a few blocks, and a fit to those would read that as expensive blocks. Doubt about the
    split returns to that of the prior and so stays bounded however long the work is the same
    (like the exponential resetting of Salgado, Goodwin and Middleton, Int. J. Control 47, 1988).

    A frame that is off by more than noise explains counts as ordinary noise; if the next one is
    off to the same side, both are a new load, believed at once by the smaller of them.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._blocks = 0
        self._costs = np.zeros_like(PRIOR)
        self._doubt = np.zeros_like(DOUBT)
        self._usual = np.zeros_like(PRIOR)
        self._surprise = 0.0

    @property
    def known(self) -> bool:
        """Whether a frame with HIGH blocks was measured."""
        return self._blocks > 0

    def predict(self, work: Work) -> float:
        """Return the seconds of a step; 0 while nothing is known."""
        return float(self._terms(work) @ self._costs)

    def update(self, work: Work, seconds: float, interval_s: float) -> None:
        """Learn from a step; a full frame of another number of blocks starts the model anew.

        Args:
            work: what the step executed.
            seconds: how long it took, above 0.
            interval_s: time since the step before, at least 0.

        Raises:
            DataError: a time is out of range.

        """
        if not (0 < seconds < math.inf and 0 <= interval_s < math.inf):
            msg = (
                f"a step took {seconds} s, {interval_s} s after the one before it; "
                "measure both with a clock that never goes back"
            )
            raise DataError(msg)
        if work.high > 0 and (not self.known or (work.full and work.high != self._blocks)):
            self._blocks = work.high
            self._costs = PRIOR * seconds
            self._doubt = DOUBT * seconds**2
            self._usual = np.zeros_like(PRIOR)
            self._surprise = 0.0
        elif self.known:
            self._learn(self._terms(work), seconds, interval_s)

    def _terms(self, work: Work) -> NDArray[np.float64]:
        """Return how often a step has each of the costs."""
        if work.full:
            return np.array([0.0, 0.0, 0.0, 0.0, 1.0])
        share = work.high / max(1, self._blocks)
        return np.array([1.0, float(work.high > 0), share, work.low, 0.0])

    def _learn(self, terms: NDArray[np.float64], seconds: float, interval_s: float) -> None:
        gain = min(MOST_GAIN, -math.expm1(-interval_s / LOAD_S))
        self._forget(gain, interval_s)
        expected = float(terms @ self._costs)
        along = self._doubt @ terms
        noise = (JITTER * expected) ** 2
        spread = math.sqrt(float(terms @ along) + noise)
        off = math.log(seconds / expected)
        outlier = abs(off) * expected > SURPRISE * spread
        if outlier and off * self._surprise > 0:
            self._believe(math.exp(min(off, self._surprise, key=abs)))
            return
        self._surprise = off if outlier else 0.0
        most = spread if outlier else math.inf
        error = max(-most, min(most, seconds - expected))
        novel = abs(float((terms - self._usual) @ self._costs)) > NOVELTY * expected
        gains = along / spread**2 if novel else gain * self._costs / expected
        if novel:
            self._usual = terms
        costs = np.maximum(self._costs + gains * error, LEAST * self._costs)
        self._costs = np.maximum(costs, LEAST * PRIOR * costs[-1])
        left = np.eye(len(costs)) - np.outer(gains, terms)
        self._doubt = left @ self._doubt @ left.T + noise * np.outer(gains, gains)

    def _forget(self, gain: float, interval_s: float) -> None:
        """Doubt the split and the load more, as time went by."""
        returned = -math.expm1(-interval_s / SHAPE_S)
        self._doubt = self._doubt + returned * (DOUBT * self._costs[-1] ** 2 - self._doubt)
        # A load that walks at random with this variance is followed best with just that gain.
        walk = JITTER**2 * gain**2 / (1 - gain)
        self._doubt = self._doubt + walk * np.outer(self._costs, self._costs)

    def _believe(self, load: float) -> None:
        """Scale all costs by a load that two frames have shown."""
        self._costs = self._costs * load
        self._doubt = self._doubt * load**2
        self._surprise = 0.0


class LatencyBudget:
    """Blocks for which a step is predicted to take `target_s`, on the mean over frames.

    There is no integral that could wind up: the model predicts what is measured, so the blocks
    that it has room for take the target. What rounding to whole blocks leaves is carried over: so
    where a single block is too much for every frame, but not for one, some frames have none.
    For a new target make a new budget on the same model, which holds from the next frame on.

    Args:
        target_s: mean time of a whole step, above 0.
        model: what steps cost; `spent` teaches it.

    Raises:
        ConfigError: the target is not above 0.

    """

    def __init__(self, target_s: float, model: CostModel) -> None:
        """Start without carry."""
        if not 0 < target_s < math.inf:
            msg = f"the latency budget is {target_s} s; give a time above 0"
            raise ConfigError(msg)
        self.target_s = target_s
        self.model = model
        self._carry_s = 0.0
        self._total = self._allowed = self._low = 0

    def allowed(self, total: int) -> int:
        """Return how many HIGH blocks fit, with LOW passes as in the frame before."""
        self._total = self._allowed = total
        if not self.model.known:
            return total
        aim_s = AIM * self.target_s
        self._allowed = min(total, self._fitting(aim_s + self._carry_s))
        left_s = self._carry_s + aim_s - self._predict(self._allowed)
        saved_s = self._predict(1) - self._predict(0)  # what the frames between blocks save up
        self._carry_s = max(self._least_s(), min(saved_s, left_s))
        return self._allowed

    def _fitting(self, seconds: float) -> int:
        """Return how many blocks are predicted to take a time at most.

        A single block may take more than `CEILING`, once that was saved up: without any, content
        would only become older, and nobody would learn what a block takes now.
        """
        first = self._predict(1)
        if seconds < first:
            return 0
        left = min(seconds, CEILING * self.target_s) - first
        return 1 + max(0, math.floor(left / (self._predict(2) - first)))

    def _predict(self, high: int) -> float:
        return self.model.predict(Work(high, self._low))

    def _least_s(self) -> float:
        """Return the most that is owed, below 0."""
        return self._predict(0) - self._predict(max(1, round(DEBT * self._total)))

    def keeps(self, high: int) -> bool:
        """Return whether the fixed cost fits, and blocks beyond the allowed ones nearly do."""
        enough = high <= self._allowed or self._predict(high) <= CEILING * self.target_s
        return self._predict(0) <= self.target_s and enough

    def spent(self, step: Spent) -> None:
        """Teach the model, and note blocks beyond the allowed ones."""
        self.model.update(step.work, step.seconds, step.interval_s)
        if step.work.full:
            return
        self._low = step.work.low
        if step.work.high > self._allowed:
            beyond_s = self._predict(step.work.high) - self._predict(self._allowed)
            self._carry_s = max(self._carry_s - beyond_s, self._least_s())


class ComputeBudget:
    """Blocks for which a frame executes a fraction of the MACs of the dense network.

    It counts and does not measure, so equal frames get equal numbers of blocks in every run
    (law 6). What a frame without blocks executes is taken for fixed; what a block costs, with all
    that it needs around it, is learnt from the frames that had some. What a frame then really
    executes is settled in those after it.

    Args:
        fraction: mean MACs of a frame that is not full, 0..1 of dense; 1 allows all blocks.

    Raises:
        ConfigError: the fraction is out of range.

    """

    def __init__(self, fraction: float) -> None:
        """Start without carry."""
        if not 0 <= fraction <= 1:
            msg = f"the compute budget is {fraction}; give a fraction of the dense MACs, 0 to 1"
            raise ConfigError(msg)
        self.fraction = fraction
        self._last: Spent | None = None
        self._fixed = self._block = 0.0  # MACs of dense; 0: no such frame yet
        self._carry = 0.0
        self._total = self._allowed = 0

    def allowed(self, total: int) -> int:
        """Return how many HIGH blocks fit into what is left for this frame."""
        self._total = self._allowed = total
        if self._last is None or self.fraction >= 1:
            return total
        room = self.fraction - self._fixed + self._carry
        self._allowed = max(0, min(total, math.floor(room / self._cost())))
        return self._allowed

    def _cost(self) -> float:
        """Return what a block costs, of dense; its share while nothing else is known."""
        return max(self._block, 1 / self._total)

    def keeps(self, high: int) -> bool:
        """Return whether what is fixed fits, and blocks beyond the allowed ones do."""
        if self._last is None or self.fraction >= 1:
            return True
        room = self.fraction - self._fixed
        return room >= 0 and (high <= self._allowed or high * self._cost() <= room)

    def spent(self, step: Spent) -> None:
        """Settle what the frame executed; the MACs of a full frame are not settled."""
        self._last = step
        if step.work.full:
            return
        share = step.macs / step.dense_macs
        self._follow(share, step)
        carry = self._carry + self.fraction - share
        self._carry = min(self._cost(), max(-DEBT, carry))

    def _follow(self, share: float, step: Spent) -> None:
        """Learn what blocks cost, or what a frame without any does."""
        if step.work.high == 0:
            self._fixed = share
            return
        block = max(1 / self._total, (share - self._fixed) / step.work.high)
        gain = min(MOST_GAIN, -math.expm1(-step.interval_s / LOAD_S)) if self._block > 0 else 1.0
        self._block += gain * (block - self._block)
