"""Simulated time: `seg_node replay --clock virtual`.

Frames arrive at their header stamps, and every mode has a node of its own that takes them by the
node's own rule (`core/intake.py`) whenever it is free. A step costs the time that was measured
here, or what a cost file says of it (`cost_file.py`): then nothing that the machine does has any
influence, and two runs are equal to the bit. The segmenter reads the simulated clock in place of
the real one, so the latency budget reacts to simulated times.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
import time
from typing import TYPE_CHECKING

from seg_node.core.intake import Intake
from seg_node.core.policy import NOTHING
from seg_node.eval.session import build_session
from seg_node.nets.build import build_policies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.config import Config
    from seg_node.core.policy import BlockPolicy, Past
    from seg_node.core.types import Frame, Plan, StepReport, StepResult
    from seg_node.data.sources import Sample
    from seg_node.eval.cost_file import ModeCosts
    from seg_node.eval.session import Session
    from seg_node.nets.build import Model

WARMING_UP = -1
"""Index of a frame that is none of the source's."""


@dataclass(frozen=True)
class Arrival:
    """A frame that reached the nodes.

    Attributes:
        index: its number in the source, from 0.
        sample: the frame.
        dense: what mode `dense` predicts for it, uint8 [H, W]; None where nobody asks.

    """

    index: int
    sample: Sample
    dense: NDArray[np.uint8] | None = None

    @property
    def stamp_ns(self) -> int:
        """Header stamp, when it arrives."""
        return self.sample.frame.stamp_ns


@dataclass(frozen=True)
class Outcome:
    """What became of a frame in one mode.

    Attributes:
        arrival: the frame.
        result: what the step made of it; None if it was dropped.
        lateness_ns: time from its arrival to its result; None if it was dropped, or where frames
            have no arrival.
        standing: for a dropped frame the newest mask before it, uint8 [H, W]; None if there was
            none yet.
        overhead_ns: time that a real node needed for the frame beyond its step; None where that
            is not known.

    """

    arrival: Arrival
    result: StepResult | None
    lateness_ns: int | None = None
    standing: NDArray[np.uint8] | None = None
    overhead_ns: int | None = None


class VirtualClock:
    """Nanoseconds that stand still, but for what is spent, waited for or measured.

    Args:
        real: the clock that measures.

    """

    def __init__(self, real: Callable[[], int] = time.perf_counter_ns) -> None:
        """Start at 0."""
        self._real = real
        self._now_ns = 0
        self._since_ns: int | None = None

    def __call__(self) -> int:
        """Return the simulated time."""
        running = 0 if self._since_ns is None else self._real() - self._since_ns
        return self._now_ns + running

    def spend(self, duration_ns: int) -> None:
        """Let this much time pass."""
        self._now_ns += duration_ns

    def wait_until(self, time_ns: int) -> None:
        """Let time pass up to `time_ns`, if that is not over."""
        self._now_ns = max(self._now_ns, time_ns)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Let simulated time pass as real time does."""
        self._since_ns = self._real()
        try:
            yield
        finally:
            self._now_ns, self._since_ns = self(), None


class Priced:
    """A policy whose plans cost simulated time: what a cost file says of them.

    Args:
        policy: chooses the plans.
        clock: on which the time is spent.
        costs: what was recorded of the mode.

    Attributes:
        remembers: as of the policy.
        index: number of the frame whose turn it is; `WARMING_UP` for none.

    """

    def __init__(self, policy: BlockPolicy, clock: VirtualClock, costs: ModeCosts) -> None:
        """Take the parts."""
        self.remembers = policy.remembers
        self.index = WARMING_UP
        self._policy = policy
        self._clock = clock
        self._costs = costs

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the policy's plan and spend what its step costs."""
        plan = self._policy.plan(image, config, past)
        self._clock.spend(self._costs.step_ns(self.index, plan))
        return plan

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Tell the policy what the frame cost in simulated time."""
        self._policy.learn(camera, plan, report, interval_ns)

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of deciding."""
        return self._policy.macs(size, side)


class SimulatedNode:
    """A node in simulated time: takes frames as they arrive, steps when it is free.

    Outcomes come in the order in which they are decided; a step whose turn has not come by the
    latest arrival is still open.

    Args:
        session: model and settings, its segmenter on `clock`.
        clock: the simulated time of this node alone.
        priced: the policy that spends the time of a step; None to measure it.
        costs: what was recorded of the mode; None to measure.

    """

    def __init__(
        self,
        session: Session,
        clock: VirtualClock,
        priced: Priced | None = None,
        costs: ModeCosts | None = None,
    ) -> None:
        """Wait for the first frame."""
        self.session = session
        self._clock = clock
        self._priced = priced
        self._costs = costs
        self._intake: Intake[Arrival] = Intake()
        self._intake.keep(session.config.overload)
        self._waiting: deque[Arrival] = deque()  # what the intake holds, to know what it drops
        self._started_ns: int | None = None  # simulated time of stamp 0
        self._newest: NDArray[np.uint8] | None = None

    def arrive(self, arrival: Arrival) -> Iterator[Outcome]:
        """Take a frame; yields what is decided by the time of its stamp.

        Args:
            arrival: the frame, its stamp not before that of the one before.

        """
        if self._started_ns is None:
            self._started_ns = self._warm_up(arrival) - arrival.stamp_ns
        now_ns = self._started_ns + arrival.stamp_ns
        yield from self._work_until(now_ns)
        dropped = self._intake.dropped
        self._intake.put(arrival)
        self._waiting.append(arrival)
        for _ in range(self._intake.dropped - dropped):
            yield Outcome(self._waiting.popleft(), None, standing=self._newest)

    def finish(self) -> Iterator[Outcome]:
        """Yield what is left when no frame comes any more."""
        yield from self._work_until(None)

    def _work_until(self, time_ns: int | None) -> Iterator[Outcome]:
        """Step through what waits, as far as steps begin by this time."""
        while self._waiting:
            assert self._started_ns is not None
            arrived_ns = self._started_ns + self._waiting[0].stamp_ns
            if time_ns is not None and max(arrived_ns, self._clock()) > time_ns:
                return
            self._clock.wait_until(arrived_ns)
            taken = self._intake.take(0.0)
            assert taken is not None
            self._waiting.popleft()
            yield self._step(taken, arrived_ns)

    def _step(self, arrival: Arrival, arrived_ns: int) -> Outcome:
        result = self._timed(arrival.index, arrival.sample.frame)
        if self._costs is not None:
            self._clock.spend(self._costs.overhead_ns(arrival.index))
        self._newest = result.labels
        return Outcome(arrival, result, self._clock() - arrived_ns)

    def _timed(self, index: int, frame: Frame) -> StepResult:
        segmenter = self.session.segmenter
        if self._priced is None:
            with self._clock.measured():
                return self.session.step(frame)
        self._priced.index = index
        result = segmenter.step(frame)
        # The stages were not timed: all of the recorded time was spent at once.
        return replace(result, report=replace(result.report, stage_ns={}))

    def _warm_up(self, arrival: Arrival) -> int:
        """Warm up as the node does before it is active; returns the time then."""
        height, width = arrival.sample.frame.image.shape[:2]
        if self._priced is None:
            with self._clock.measured():
                self.session.segmenter.warm_up(height, width)
        else:
            self.session.segmenter.warm_up(height, width)
        return self._clock()


def simulated_nodes(
    model: Model,
    config: Config,
    modes: Sequence[str] = (),
    costs: Mapping[str, ModeCosts] | None = None,
) -> dict[str, SimulatedNode]:
    """Build a node of every mode around a loaded model.

    Args:
        model: a loaded model.
        config: settings of all nodes.
        modes: modes to take in place of the config's own; none for the config's own alone.
        costs: what was recorded of each mode; None to measure.

    Raises:
        ConfigError: there is no such mode, or the device or precision is not to be had here.

    """
    nodes = {}
    for mode in modes or (config.mode,):
        own = config.updated({"mode": mode})
        clock, priced = VirtualClock(), None
        policies = build_policies(model, own)
        if costs is not None and mode in policies:
            priced = policies[mode] = Priced(policies[mode], clock, costs[mode])
        session = build_session(model, own, policies, clock)
        nodes[mode] = SimulatedNode(session, clock, priced, None if costs is None else costs[mode])
    return nodes
