"""Simulated time: what a node takes, drops and learns when frames come faster than it steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.data.clips import StreetClip
from seg_node.eval.cost_file import FrameCost, ModeCosts
from seg_node.eval.virtual import Arrival, simulated_nodes, VirtualClock
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seg_node.eval.virtual import Outcome
    from seg_node.nets.build import Model

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
BLOCKS = 6
"""Blocks of 32 pixels of a frame of 96x64."""


@pytest.fixture(scope="module")
def model(random_models: Path) -> Model:
    """Return the random model."""
    return load_model(str(random_models / "swiftnet18-half.json"))


@pytest.fixture(scope="module")
def frames() -> list[Arrival]:
    """Return ten frames of the street, 100 ms apart."""
    return [
        Arrival(i, replace(s, frame=replace(s.frame, stamp_ns=START_NS + 100 * MS * i)))
        for i, s in enumerate(StreetClip(3, 10, (96, 64)))
    ]


def costs_of(full_ms: float, overhead_ms: float = 0, **fitted: float) -> ModeCosts:
    """Return costs: of a full frame and, by `fixed_ms` and `block_ms`, of all others."""
    costs = ModeCosts()
    overhead_ns = round(overhead_ms * MS)
    costs.add(FrameCost(10**6, BLOCKS, BLOCKS, 0, round(full_ms * MS), overhead_ns))
    for high in (0, 1) if fitted else ():
        step_ns = round((fitted["fixed_ms"] + high * fitted["block_ms"]) * MS)
        costs.add(FrameCost(10**6 + 1 + high, BLOCKS, high, 0, step_ns, overhead_ns))
    return costs


def play(
    model: Model, frames: Sequence[Arrival], costs: ModeCosts, **settings: str | float
) -> list[Outcome]:
    """Let the frames arrive at one node of these settings."""
    config = Config(device="cpu", block_size=32, mode="dense").updated(settings)
    (node,) = simulated_nodes(model, config, costs={config.mode: costs}).values()
    return [*(o for frame in frames for o in node.arrive(frame)), *node.finish()]


def taken(outcomes: Sequence[Outcome]) -> list[tuple[int, int]]:
    """Return (index, lateness in ms) of the frames that were processed."""
    return [(o.arrival.index, o.lateness_ns // MS) for o in outcomes if o.lateness_ns is not None]


def test_a_node_that_keeps_up_takes_all_frames_at_once(
    model: Model, frames: list[Arrival]
) -> None:
    assert taken(play(model, frames, costs_of(100))) == [(i, 100) for i in range(10)]
    assert taken(play(model, frames, costs_of(60, overhead_ms=40))) == [
        (i, 100) for i in range(10)
    ]


def test_a_slow_node_takes_the_newest_when_it_is_free(model: Model, frames: list[Arrival]) -> None:
    """250 ms a frame: free at 250, frame 2 waits since 200; free at 500, frame 4 since 400 ..."""
    outcomes = play(model, frames, costs_of(200, overhead_ms=50))
    assert taken(outcomes) == [(0, 250), (2, 300), (4, 350), (7, 300), (9, 350)]
    missed = [o for o in outcomes if o.result is None]
    assert [o.arrival.index for o in missed] == [1, 3, 5, 6, 8]
    latest = {o.arrival.index: o.result.labels for o in outcomes if o.result is not None}
    for outcome, before in zip(missed, (0, 2, 4, 4, 7), strict=True):
        assert outcome.standing is latest[before], "the mask that the robot has by then"


def test_every_frame_is_queued_where_asked(model: Model, frames: list[Arrival]) -> None:
    outcomes = play(model, frames, costs_of(250), overload="every")
    assert taken(outcomes) == [(i, 250 + 150 * i) for i in range(10)]


def test_masks_are_those_of_a_node_that_saw_the_same_frames(
    model: Model, frames: list[Arrival]
) -> None:
    """Memory sees what the node took and nothing of what it dropped."""
    settings: dict[str, str | float] = {"mode": "warp", "keyframe_interval": 3}
    some = play(model, frames, costs_of(250, fixed_ms=250, block_ms=0), **settings)
    seen = [frames[index] for index, _ in taken(some)]
    alone = play(model, seen, costs_of(1), **settings)
    assert len(seen) == 5
    for one, other in zip((o for o in some if o.result), alone, strict=True):
        assert one.result is not None
        assert other.result is not None
        assert np.array_equal(one.result.labels, other.result.labels)
        assert one.result.plan.reason is other.result.plan.reason


def test_the_budget_reacts_to_simulated_costs(model: Model, frames: list[Arrival]) -> None:
    """32 ms with 10 fixed leave room for four blocks of 5 ms, or for two of 10 ms."""
    settings: dict[str, str | float] = {
        "mode": "adaptive",
        "budget.latency_ms": 32.0,
        "reuse.threshold": 0.0,
    }
    high = {}
    for block_ms in (5.0, 10.0):
        costs = costs_of(80, fixed_ms=10, block_ms=block_ms)
        outcomes = play(model, frames, costs, **settings)
        plans = [o.result.plan.grid for o in outcomes if o.result is not None]
        assert len(plans) == 10
        high[block_ms] = [int((grid == 2).sum()) for grid in plans[5:]]
        spent = [o.result.report.total_ns / MS for o in outcomes[1:] if o.result is not None]
        counts = [int((grid == 2).sum()) for grid in plans[1:]]
        expected = [80 if n == BLOCKS else 10 + block_ms * n for n in counts]
        assert spent == pytest.approx(expected)
    assert 4 <= min(high[5.0]) <= max(high[5.0]) <= 5
    assert 2 <= min(high[10.0]) <= max(high[10.0]) <= 3


def test_two_runs_from_one_cost_file_are_equal(model: Model, frames: list[Arrival]) -> None:
    runs = [
        play(
            model,
            frames,
            costs_of(80, fixed_ms=40, block_ms=40),
            mode="adaptive",
            **{"budget.latency_ms": 120.0},
        )
        for _ in range(2)
    ]
    assert taken(runs[0]) == taken(runs[1])
    for one, other in zip(*runs, strict=True):
        assert (one.result is None) == (other.result is None)
        if one.result is not None and other.result is not None:
            assert one.result.report == other.result.report
            assert np.array_equal(one.result.labels, other.result.labels)


def test_without_costs_steps_take_their_measured_time(model: Model, frames: list[Arrival]) -> None:
    config = Config(device="cpu", mode="dense")
    (node,) = simulated_nodes(model, config).values()
    outcomes = [*(o for frame in frames for o in node.arrive(frame)), *node.finish()]
    for outcome in outcomes:
        if outcome.result is not None and outcome.lateness_ns is not None:
            assert outcome.lateness_ns >= outcome.result.report.total_ns > 0
            assert outcome.result.report.stage_ns["execute"] > 0


def test_the_clock_runs_only_where_it_is_measured() -> None:
    real = iter((100, 130, 170)).__next__
    clock = VirtualClock(real)
    clock.spend(7)
    clock.wait_until(5)
    assert clock() == 7
    with clock.measured():
        assert clock() == 37
    assert clock() == 77
    clock.wait_until(1000)
    assert clock() == 1000
