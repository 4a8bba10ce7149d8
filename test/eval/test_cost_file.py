"""Costs of frames: read back as written, and a model that says what was never recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import Action, DataError, Plan, Reason
from seg_node.eval.cost_file import (
    cost_of,
    CostModel,
    fit,
    FrameCost,
    ModeCosts,
    read_costs,
    write_costs,
)

if TYPE_CHECKING:
    from pathlib import Path

FULL = FrameCost(0, 10, 10, 0, 5000)


def plan_of(high: int, low: int = 0, blocks: int = 10) -> Plan:
    """Return a plan with so many HIGH and LOW blocks."""
    grid = np.full((1, blocks), Action.REUSE, np.uint8)
    grid[0, :high] = Action.HIGH
    grid[0, high : high + low] = Action.LOW
    return Plan(grid, Reason.REFRESHED)


def mode_costs(*frames: FrameCost) -> ModeCosts:
    """Return costs of one mode."""
    costs = ModeCosts()
    for frame in frames:
        costs.add(frame)
    return costs


def partial(index: int, high: int, low: int, step_ns: int) -> FrameCost:
    """Return the cost of a frame of ten blocks."""
    return FrameCost(index, 10, high, low, step_ns)


def test_the_model_finds_what_made_the_costs() -> None:
    """500 fixed, 300 a HIGH block, 70 a LOW block, and the mean of the full frames."""
    work = [(0, 0), (2, 1), (1, 4), (5, 0)]
    made = [partial(i, h, w, 500 + 300 * h + 70 * w) for i, (h, w) in enumerate(work)]
    model = fit([*made, FULL, partial(8, 10, 0, 5600), partial(9, 10, 0, 5000)])
    assert model.full == 5200
    found = (model.fixed, model.per_high, model.per_low)
    assert found == pytest.approx((500, 300, 70))
    assert model.predict(partial(1, 3, 2, 1)) == 500 + 900 + 140
    assert model.predict(partial(1, 10, 0, 1)) == 5200


def test_no_cost_is_below_nothing() -> None:
    """Where more blocks took less time by chance, blocks cost nothing and the mean remains."""
    model = fit([partial(0, 1, 0, 1000), partial(1, 3, 0, 800)])
    assert (model.fixed, model.per_high) == pytest.approx((900, 0))
    assert CostModel(0, 0, 0, 0).predict(FULL) == 1, "a step takes some time"


def test_a_kind_that_was_never_recorded_is_derived_from_the_other() -> None:
    only_full = fit([FULL])
    assert only_full.predict(partial(0, 4, 0, 1)) == 2000
    assert only_full.predict(partial(0, 0, 4, 1)) == 500, "a LOW block is a quarter"
    only_partial = fit([partial(0, 0, 0, 100), partial(1, 2, 0, 300)])
    assert only_partial.predict(FULL) == 1100


def test_a_frame_costs_what_the_nearest_of_its_plan_did_else_what_is_fitted() -> None:
    costs = mode_costs(partial(2, 2, 0, 999), FULL, partial(1, 2, 0, 777), partial(3, 0, 0, 88))
    assert costs.step_ns(1, plan_of(2)) == 777
    assert costs.step_ns(0, plan_of(2)) == 777
    assert costs.step_ns(9, plan_of(2)) == 999
    assert costs.step_ns(1, plan_of(10)) == 5000
    assert costs.step_ns(1, plan_of(1)) == pytest.approx(488, abs=1)
    with pytest.raises(DataError, match=r"frames of \[10\] blocks, this frame has 12"):
        costs.step_ns(1, plan_of(12, blocks=12))
    costs.add(partial(4, 10, 0, 7000))
    nearest = [costs.step_ns(index, plan_of(10)) for index in range(5)]
    assert nearest == [5000, 5000, 5000, 7000, 7000], "a new frame counts from then on"


def test_overhead_is_that_of_the_nearest_frame_that_tells() -> None:
    costs = mode_costs(*(FrameCost(i, 10, 10, 0, 1, x) for i, x in enumerate((5, None, 9, 31))))
    assert [costs.overhead_ns(i) for i in (0, 1, 2, 77)] == [5, 5, 9, 31]
    assert mode_costs(FULL).overhead_ns(0) == 0


def test_cost_of_counts_the_blocks_of_a_plan() -> None:
    assert cost_of(7, plan_of(3, 2), 42) == FrameCost(7, 10, 3, 2, 42)


def test_costs_are_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    frames = (FULL, FrameCost(4, 10, 1, 2, 777, 12))
    written = {"adaptive": mode_costs(*frames), "dense": mode_costs(FULL)}
    write_costs(path, written, data="street:1", device="cpu", clock="live")
    found = read_costs(path, ("adaptive",))
    assert list(found) == ["adaptive"]
    assert tuple(found["adaptive"].frames.values()) == frames
    with pytest.raises(DataError, match=r"no costs of mode 'warp', only of adaptive, dense: rec"):
        read_costs(path, ("dense", "warp"))


@pytest.mark.parametrize(
    "rows", [[[0, 10, 11, 0, 5, None]], [[0, 10, 1, 0, 0, None]], [[0, 10]], [5], "no"]
)
def test_nonsense_is_no_cost_file(tmp_path: Path, rows: object) -> None:
    path = tmp_path / "costs.json"
    write_costs(path, {}, data="", device="", clock="")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "modes": {"dense": rows}}))
    with pytest.raises(DataError, match=r"is no cost file: give the costs\.json"):
        read_costs(path, ("dense",))
    path.write_text("{}")
    with pytest.raises(DataError, match="is no cost file"):
        read_costs(path, ("dense",))
    with pytest.raises(DataError, match=r"cannot read the costs .*nowhere: No such file"):
        read_costs(tmp_path / "nowhere", ("dense",))
