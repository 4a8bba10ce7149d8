"""What the steps of a run cost, frame by frame: `costs.json`, and the model fitted to it.

A replay writes it and a `--clock virtual` reads it, so that the same times, drops and reactions
of the latency budget follow again on any machine, whatever its load.

A frame costs what the nearest recorded frame of as many HIGH and LOW blocks took: the very frame,
if it was recorded so, or else one of about the same load of the machine. Where no frame was
recorded with such a plan, it costs

    full                                    if it is computed in full,
    fixed + high * per_high + low * per_low otherwise,

with `full` the mean of the full frames and the others by least squares, none below 0. If one of
the two kinds was never recorded, it is derived from the other by shares of blocks, a LOW block
for a quarter of a HIGH one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
import json
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.types import Action, DataError
from seg_node.eval.results import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from seg_node.core.types import Plan

COSTS = "costs.json"
"""Name of the file in the folder of a run."""
COLUMNS = ("index", "blocks", "high", "low", "step_ns", "overhead_ns")
LOW_SHARE = 0.25
"""Cost of a LOW block over that of a HIGH one where it was never measured: its share of pixels."""
_LEAST_NS = 1
_Work = tuple[int, int, int]
"""Blocks, HIGH blocks and LOW blocks."""


@dataclass(frozen=True, slots=True)
class FrameCost:
    """What one step executed and how long it took.

    Attributes:
        index: number of the frame in its source, from 0.
        blocks: blocks of the grid.
        high: HIGH blocks among them.
        low: LOW blocks.
        step_ns: time of the whole step.
        overhead_ns: time that the node needed for the frame beyond the step; None where there was
            no node, or the node was not busy enough to tell.

    """

    index: int
    blocks: int
    high: int
    low: int
    step_ns: int
    overhead_ns: int | None = None

    @property
    def full(self) -> bool:
        """Whether the frame was computed in full."""
        return self.high == self.blocks


def cost_of(index: int, plan: Plan, step_ns: int, overhead_ns: int | None = None) -> FrameCost:
    """Return the cost of a frame with this plan."""
    high, low = (int((plan.grid == action).sum()) for action in (Action.HIGH, Action.LOW))
    return FrameCost(index, plan.grid.size, high, low, step_ns, overhead_ns)


@dataclass(frozen=True)
class CostModel:
    """The fitted model; see the module. All in nanoseconds.

    Attributes:
        full: a frame computed in full.
        fixed: what every other frame costs.
        per_high: a HIGH block.
        per_low: a LOW block.

    """

    full: float
    fixed: float
    per_high: float
    per_low: float

    def predict(self, cost: FrameCost) -> int:
        """Return the time of a step with the work of `cost`, whose own time does not count."""
        if cost.full:
            return max(_LEAST_NS, round(self.full))
        work = cost.high * self.per_high + cost.low * self.per_low
        return max(_LEAST_NS, round(self.fixed + work))


def fit(frames: Sequence[FrameCost]) -> CostModel:
    """Fit the model to the frames of one mode, at least one."""
    full = [cost.step_ns for cost in frames if cost.full]
    partial = [cost for cost in frames if not cost.full]
    blocks = frames[0].blocks
    if not partial:
        whole = float(np.mean(full))
        return CostModel(whole, 0.0, whole / blocks, LOW_SHARE * whole / blocks)
    terms = np.array([[1.0, cost.high, cost.low] for cost in partial])
    times = np.array([cost.step_ns for cost in partial], np.float64)
    fixed, per_high, per_low = _least_squares(terms, times)
    if not full:
        return CostModel(fixed + blocks * per_high, fixed, per_high, per_low)
    return CostModel(float(np.mean(full)), fixed, per_high, per_low)


def _least_squares(terms: Any, times: Any) -> tuple[float, float, float]:
    """Return the three coefficients, none below 0: what would be is left out and the rest fitted.

    Columns that say the same of every frame share what they cost.
    """
    used = [0, 1, 2]
    while True:
        found, *_ = np.linalg.lstsq(terms[:, used], times, rcond=None)
        if not (found < 0).any():
            break
        used.pop(int(np.argmin(found)))
    costs = np.zeros(3)
    costs[used] = found
    return float(costs[0]), float(costs[1]), float(costs[2])


class ModeCosts:
    """The recorded costs of one mode, and what they say of any other frame.

    Attributes:
        frames: what was recorded, by index.

    """

    def __init__(self) -> None:
        """Start without a frame."""
        self.frames: dict[int, FrameCost] = {}
        self._models: dict[int, CostModel] = {}
        self._alike: dict[_Work, list[int]] = {}  # indices in order, by what was executed
        self._known: list[int] = []  # indices in order of the frames whose overhead is known

    def add(self, cost: FrameCost) -> None:
        """Record the cost of a frame."""
        self.frames[cost.index] = cost
        self._models.clear()
        insort(self._alike.setdefault(_work(cost), []), cost.index)
        if cost.overhead_ns is not None:
            insort(self._known, cost.index)

    def model(self, blocks: int) -> CostModel:
        """Return what is fitted to the frames with a grid of so many blocks.

        Raises:
            DataError: there is no such frame.

        """
        if blocks not in self._models:
            frames = [cost for cost in self.frames.values() if cost.blocks == blocks]
            if not frames:
                known = sorted({cost.blocks for cost in self.frames.values()})
                msg = (
                    f"the costs are of frames of {known} blocks, this frame has {blocks}: record "
                    "them with the same image size, input.scale and block_size"
                )
                raise DataError(msg)
            self._models[blocks] = fit(frames)
        return self._models[blocks]

    def step_ns(self, index: int, plan: Plan) -> int:
        """Return the time of a step on frame `index` with a plan.

        Raises:
            DataError: no frame with a grid of this size was recorded.

        """
        wanted = cost_of(index, plan, 0)
        alike = self._alike.get(_work(wanted))
        if alike:
            return self.frames[_nearest(alike, index)].step_ns
        return self.model(wanted.blocks).predict(wanted)

    def overhead_ns(self, index: int) -> int:
        """Return what the node needs for a frame beyond its step.

        As for the nearest frame that tells; 0 where none does.
        """
        if not self._known:
            return 0
        return self.frames[_nearest(self._known, index)].overhead_ns or 0


def _nearest(ordered: list[int], index: int) -> int:
    """Return the number that is nearest to an index, of two the lower one."""
    at = bisect_left(ordered, index)
    return min(ordered[max(0, at - 1) : at + 1], key=lambda other: abs(other - index))


def _work(cost: FrameCost) -> _Work:
    return cost.blocks, cost.high, cost.low


def write_costs(
    path: Path, modes: Mapping[str, ModeCosts], *, data: str, device: str, clock: str
) -> None:
    """Write the costs of a run.

    Args:
        path: the file.
        modes: the costs by mode.
        data: named data that was replayed.
        device: device, number format and threads.
        clock: clock of the run.

    Raises:
        DataError: the file cannot be written.

    """
    content = {
        "data": data,
        "device": device,
        "clock": clock,
        "columns": COLUMNS,
        "modes": {
            mode: [[getattr(cost, name) for name in COLUMNS] for cost in costs.frames.values()]
            for mode, costs in modes.items()
        },
    }
    write_json(content, path)


def read_costs(path: Path, modes: Sequence[str]) -> dict[str, ModeCosts]:
    """Read a cost file for a run in these modes.

    Raises:
        DataError: the file cannot be read, is no cost file, or says nothing of a mode.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recorded = {mode: _parse(rows) for mode, rows in _checked(content).items()}
    except OSError as error:
        msg = f"cannot read the costs {path}: {error.strerror}"
        raise DataError(msg) from error
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{path} is no cost file: give the {COSTS} that a replay has written"
        raise DataError(msg) from error
    for mode in modes:
        if not recorded.get(mode, ModeCosts()).frames:
            known = ", ".join(recorded) or "nothing"
            msg = (
                f"{path} has no costs of mode {mode!r}, only of {known}: record them by a replay "
                f"with --mode {mode}"
            )
            raise DataError(msg)
    return {mode: recorded[mode] for mode in modes}


def _checked(content: Any) -> dict[str, list[list[int | None]]]:
    """Return the rows by mode.

    Raises:
        ValueError: the columns are others.

    """
    if tuple(content["columns"]) != COLUMNS:
        msg = "other columns"
        raise ValueError(msg)
    modes: dict[str, list[list[int | None]]] = content["modes"]
    return modes


def _parse(rows: list[list[int | None]]) -> ModeCosts:
    costs = ModeCosts()
    for row in rows:
        *numbers, overhead = row
        index, blocks, high, low, step = (int(x) for x in numbers if x is not None)
        if min(index, high, low) < 0 or high + low > blocks or min(blocks, step) < 1:
            msg = f"row {row}"
            raise ValueError(msg)
        costs.add(
            FrameCost(index, blocks, high, low, step, None if overhead is None else int(overhead))
        )
    return costs
