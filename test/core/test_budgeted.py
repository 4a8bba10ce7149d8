"""Mode adaptive's policy: which blocks are worth it, and which are due whatever they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.budgeted import (
    Budgeted,
    count_due,
    LEAST_DOUBT,
    MOST_NOISE,
    SOON,
    values,
    ValueWeights,
)
from seg_node.core.config import Config, Value
from seg_node.core.policy import BlockPast, NOTHING, Past
from seg_node.core.types import Action, Plan, Reason, StepReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32
GRID = (3, 4)
IMAGE = torch.zeros(1, 3, GRID[0] * SIDE - 5, GRID[1] * SIDE, dtype=torch.uint8)
STEP_MS = 66.0


def config(**settings: Value) -> Config:
    known = {name.replace("__", "."): value for name, value in settings.items()}
    return Config().updated({"block_size": SIDE, "budget.compute": 1.0, **known})


def known(
    distortion: object = 0.0, doubt: object = 1.0, age_ms: object = STEP_MS, **other: object
) -> BlockPast:
    """Return what is known of all blocks; one number counts for each of them."""
    planes = [
        np.broadcast_to(np.asarray(x, np.float64), GRID).copy()
        for x in (distortion, doubt, age_ms, other.get("oldest_ms", age_ms))
    ]
    risk = planes[0] * planes[1] * np.asarray(other.get("where", 1.0))
    return BlockPast(planes[0], planes[1], risk, planes[2], planes[3], STEP_MS)


def chosen(policy: Budgeted, past: BlockPast, settings: Config) -> NDArray[np.bool_]:
    plan = policy.plan(IMAGE, settings, Past(None, 1, past))
    assert plan.reason is Reason.REFRESHED
    assert set(np.unique(plan.grid)) <= {Action.REUSE, Action.HIGH}
    return np.asarray(plan.grid == Action.HIGH)


def told(policy: Budgeted, high: int, seconds: float = 0.1, camera: str = "") -> Budgeted:
    """Return a policy that was told what a frame with so many HIGH blocks of equal cost took."""
    grid = np.full(GRID, Action.REUSE, np.uint8)
    grid.flat[:high] = Action.HIGH
    report = StepReport({}, round(seconds * 1e9), high * 100, grid.size * 100)
    policy.learn(camera, Plan(grid, Reason.REFRESHED), report, 66_000_000)
    return policy


def seen(weights: ValueWeights | None = None) -> Budgeted:
    """Return a policy that has seen a full frame."""
    policy = Budgeted(weights)
    policy.plan(IMAGE, config())
    return told(policy, 12)


# ---- value --------------------------------------------------------------------------------------


def test_value_is_the_product_of_what_is_known() -> None:
    past = known(np.arange(12.0).reshape(GRID), 0.25, 100.0)
    np.testing.assert_allclose(values(past, ValueWeights()), past.distortion * 25)
    np.testing.assert_allclose(values(past, ValueWeights(2, 0.5, 0)), past.distortion**2 * 0.5)
    assert not values(past, ValueWeights())[0, 0].any()


def test_a_block_whose_uncertain_pixels_changed_comes_first() -> None:
    """Two blocks of the same means: in one the doubtful half changed, in the other the certain."""
    where = np.full(GRID, 1.0)
    where.flat[3], where.flat[7] = 2.0, 0.0
    past = known(5.0, 0.25, where=where)
    value = values(past, ValueWeights())
    assert value.flat[3] == pytest.approx(2 * value.flat[0])
    assert value.flat[7] == pytest.approx(LEAST_DOUBT / 0.25 * value.flat[0])
    high = chosen(seen(), past, config(budget__compute=1.5 / 12))
    assert high.flat[3]
    assert not high.flat[7]


def test_what_came_since_is_worth_it_however_certain_the_network_was() -> None:
    """A pedestrian of 12x24 pixels on plain road changes a block of 64 by 4 grey levels or so."""
    past = known(0.0, 0.0)
    past.distortion[1, 2] = 4.0
    assert np.argwhere(chosen(Budgeted(), past, config())).tolist() == [[1, 2]]
    np.testing.assert_array_equal(values(past, ValueWeights()) > 0, past.distortion > 0)


@pytest.mark.parametrize("which", ["distortion", "doubt", "age_ms"])
def test_the_blocks_of_most_value_are_computed(which: str) -> None:
    amounts = np.random.default_rng(0).permutation(12).reshape(GRID) + 1.0
    past = known(**{"distortion": 4.0, "doubt": 0.5, "age_ms": 10.0, which: amounts})
    policy = seen()
    found = chosen(policy, past, config(budget__compute=1 / 3))
    np.testing.assert_array_equal(found, amounts > 8)


def test_weights_decide_between_blocks() -> None:
    doubt = np.where(np.arange(12).reshape(GRID) == 10, 1.0, 0.5)
    past = known(np.where(np.arange(12).reshape(GRID) == 5, 30.0, 10.0), doubt)
    for weights, best in ((ValueWeights(2, 1, 0), (1, 1)), (ValueWeights(1, 2, 0), (2, 2))):
        policy = seen(weights)
        found = chosen(policy, past, config(budget__compute=1 / 12, max_age_ms=60000.0))
        assert np.argwhere(found).tolist() == [list(best)]


def test_blocks_of_equal_value_are_taken_in_order() -> None:
    """Law 6: which of them are computed does not depend on how a sort goes."""
    found = chosen(seen(), known(9.0), config(budget__compute=5 / 12))
    np.testing.assert_array_equal(np.flatnonzero(found), np.arange(5))


def test_below_the_threshold_nothing_is_computed_before_it_is_due() -> None:
    """The threshold is of distortion beyond noise, times doubt; what reaches it is computed."""
    past = known(np.arange(12.0).reshape(GRID), 0.5)
    settings = config(reuse__threshold=2.0, max_age_ms=60000.0)
    past.oldest_ms[0, 1] = 60010.0
    found = chosen(Budgeted(), past, settings)
    expected = past.distortion >= 4 + MOST_NOISE
    expected[0, 1] = True
    np.testing.assert_array_equal(found, expected)
    assert chosen(Budgeted(), past, config(reuse__threshold=0.0)).all()


def test_the_noise_of_a_sensor_is_not_worth_anything_and_what_is_beyond_it_is() -> None:
    """All blocks differ by about as much; a change of light differs by more than noise may."""
    rng = np.random.default_rng(0)
    past = known(0.5 + 0.05 * rng.random(GRID))
    settings = config(max_age_ms=60000.0)
    assert not chosen(Budgeted(), past, settings).any()
    past.distortion[1, 2] += 0.3
    assert np.argwhere(chosen(Budgeted(), past, settings)).tolist() == [[1, 2]]
    assert chosen(Budgeted(), known(MOST_NOISE + 0.2), settings).all()


def test_still_content_is_computed_only_as_it_becomes_due() -> None:
    assert not chosen(Budgeted(), known(0.0), config(max_age_ms=60000.0)).any()
    assert chosen(Budgeted(), known(0.0), config(max_age_ms=STEP_MS - 1)).all()


# ---- age ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 6, 20, 48, 180])
@pytest.mark.parametrize("max_age_ms", [200.0, 1000.0, 2000.0, 3300.0])
def test_deadlines_are_met_without_bursts(blocks: int, max_age_ms: float) -> None:
    """All blocks were computed together at first; nothing moves."""
    ages = np.zeros(blocks)
    counts = []
    for _ in range(200):
        ages += STEP_MS
        due = count_due(ages, STEP_MS, max_age_ms)
        ages[np.argsort(-ages, kind="stable")[:due]] = 0
        assert ages.max() <= max_age_ms
        counts.append(due)
    for first in (0, 50, 100):
        window = np.array(counts[first : first + 100])
        assert window.max() <= max(1, 2 * window.mean())
    cycle = max_age_ms // STEP_MS + 1
    assert max(counts) <= np.ceil(blocks / cycle)
    assert sum(counts) <= blocks * (200 // cycle + 1)  # no block more often than it must


@pytest.mark.parametrize("seed", range(3))
def test_deadlines_are_met_whatever_else_happens(seed: int) -> None:
    """Frames come late, other blocks are computed, and old content moves about."""
    rng = np.random.default_rng(seed)
    ages, interval, max_age_ms = np.zeros(48), STEP_MS, 700.0
    for _ in range(300):
        interval = float(rng.choice([33.0, 66.0, 66.7, 150.0, 400.0]))
        ages += interval
        ages[rng.integers(48)] = max(ages[rng.integers(48)], ages[rng.integers(48)])
        due = count_due(ages, interval, max_age_ms)
        ages[np.argsort(-ages, kind="stable")[:due]] = 0
        assert ages.max() <= max_age_ms
        ages[rng.integers(48, size=2)] = 0


def test_what_is_due_is_counted_by_the_frames_that_are_left() -> None:
    """Of three blocks in their last frame and six with one more, 4 now leave 5 for that one."""
    assert count_due(np.array([106.0] * 3 + [0.0] * 6), 10.0, 105.0) == 3
    assert count_due(np.array([106.0] * 3 + [105.0] * 6), 10.0, 105.0) == 4
    assert count_due(np.array([106.0] * 3 + [95.0] * 6), 10.0, 105.0) == 3
    assert count_due(np.array([105.0]), 10.0, 105.0) == 0
    assert count_due(np.array([[120.0, 101.0], [0.0, 0.0]]), 10.0, 100.0) == 2


def test_nothing_may_have_an_age() -> None:
    assert count_due(np.full(GRID, STEP_MS), STEP_MS, 0.0) == 12
    assert chosen(seen(), known(0.0), config(max_age_ms=0.0)).all()


def test_two_frames_of_one_time_make_nothing_older() -> None:
    ages = np.array([0.0, 50.0, 50.1, 99.0])
    assert count_due(ages, 0.0, 50.0) == 2
    assert count_due(ages, 0.0, 100.0) == 0


def test_the_oldest_are_due_first_and_no_budget_overrides_that() -> None:
    past = known(0.0, 1.0, 500.0)
    late = [(0, 3), (1, 1), (2, 0)]
    for block in late:
        past.oldest_ms[block] = 2010.0
    for settings in (
        config(budget__compute=0.0),
        config(budget__compute=0.0, reuse__threshold=255.0),
        config(budget__latency_ms=0.001),
    ):
        policy = seen()
        plan = policy.plan(IMAGE, settings, Past(None, 1, past))
        assert sorted(map(tuple, np.argwhere(plan.grid == Action.HIGH).tolist())) == late
        assert not plan.fits


def test_of_blocks_of_one_age_those_in_the_middle_are_renewed_first() -> None:
    """Content moves outwards before a robot that drives on; a grid of 3 rows and 4 columns."""
    past = known(0.0, 1.0, 500.0)
    past.oldest_ms[:] = 1990.0  # one frame is left after this: half of the twelve are due now
    past.oldest_ms[0, 0] = 2010.0
    found = chosen(seen(), past, config(budget__compute=0.0))
    assert np.argwhere(found).tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 1]]


def test_of_blocks_with_pixels_of_one_age_those_that_are_mostly_old_are_renewed_first() -> None:
    past = known(0.0, 1.0, 1800.0)
    past.oldest_ms[:] = 1990.0  # half of the twelve are due now
    past.age_ms[1] = 900.0
    found = chosen(seen(), past, config(budget__compute=0.0))
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 3, 9, 10]


def test_due_blocks_come_before_valuable_ones_within_the_budget() -> None:
    past = known(np.arange(12.0).reshape(GRID), 1.0, 500.0)
    past.oldest_ms[0, 0] = 2010.0
    found = chosen(seen(), past, config(budget__compute=0.25))
    assert np.flatnonzero(found).tolist() == [0, 10, 11]


def test_of_blocks_due_soon_two_thirds_of_what_the_budget_allows_are_renewed() -> None:
    """All become too old together: in good time, so that there is room for them."""
    past = known(np.arange(1.0, 13.0).reshape(GRID), 1.0, 500.0)
    past.oldest_ms[:2] = SOON * 2000.0 + 10.0  # too old for that, not due for many frames
    settings = config(budget__compute=4 / 12)
    found = np.flatnonzero(chosen(seen(), past, settings)).tolist()
    assert found == [5, 6, 10, 11]  # two from the middle, two by value
    past.oldest_ms[:2] = SOON * 2000.0 - 10 * STEP_MS
    found = np.flatnonzero(chosen(seen(), past, settings)).tolist()
    assert found == [8, 9, 10, 11]


def test_blocks_due_soon_wait_where_the_budget_has_room_for_them_later() -> None:
    """Of a still scene, or where no more than one block is allowed."""
    past = known(0.0, 1.0, 500.0)
    past.oldest_ms[0] = SOON * 2000.0 + 10.0
    assert not chosen(seen(), past, config(budget__compute=4 / 12)).any()
    past.distortion[2, 3] = 9.0
    assert np.flatnonzero(chosen(seen(), past, config(budget__compute=1 / 12))).tolist() == [11]
    assert np.flatnonzero(chosen(seen(), past, config(budget__compute=4 / 12))).tolist() == [11]


def test_what_moves_on_with_old_content_makes_no_burst_when_that_becomes_due() -> None:
    """Every frame some old pixels move into a block that was renewed before."""
    rng = np.random.default_rng(0)
    past = known(np.arange(1.0, 13.0).reshape(GRID))
    policy, settings = seen(), config(budget__compute=4 / 12)
    ages = past.oldest_ms
    ages[:] = 0
    counts = []
    for _ in range(300):
        ages += STEP_MS
        found = chosen(policy, past, settings)
        ages[found] = 0
        here, there = rng.integers(12, size=2)
        ages.flat[here] = max(ages.flat[here], ages.flat[there])
        counts.append(int(found.sum()))
    assert max(counts) == 4


# ---- full frames and budgets --------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.FIRST, Reason.SCENE_CUT, Reason.ASKED, Reason.GAP])
def test_without_a_past_the_frame_is_computed_in_full(reason: Reason) -> None:
    policy = seen()
    plan = policy.plan(IMAGE, config(budget__compute=0.0), Past(reason))
    assert plan.grid.shape == GRID
    assert plan.grid.dtype == np.uint8
    assert (plan.grid == Action.HIGH).all()
    assert plan.reason is reason
    assert plan.fits  # a full frame is not held against the budget
    assert plan.distortion is None
    assert policy.plan(IMAGE, config()).reason is NOTHING.lost


@pytest.mark.parametrize("together", [False, True])
def test_cameras_share_a_budget_by_what_changes_in_them(*, together: bool) -> None:
    policy, settings = Budgeted(), config(budget__compute=0.25, max_age_ms=60000.0)
    counts: dict[str, list[int]] = {"busy": [], "calm": []}
    for camera in counts:
        policy.plan(IMAGE, settings, Past(Reason.FIRST, camera=camera))
        told(policy, 12, camera=camera)
    for _ in range(60):
        for camera, distortion in (("busy", 9.0), ("calm", 3.0)):
            past = Past(None, 1, known(distortion), camera)
            counts[camera].append(policy.plan(IMAGE, settings, past).high)
            if not together:
                told(policy, counts[camera][-1], camera=camera)
        for camera in counts if together else ():
            told(policy, counts[camera][-1], camera=camera)
    busy, calm = (np.mean(high[20:]) for high in counts.values())
    assert busy / calm > 1.5
    assert calm > 0.3 * 3
    assert busy + calm == pytest.approx(2 * 0.25 * 12, rel=0.05)


def test_a_share_of_the_blocks_is_kept_on_the_mean_of_frames() -> None:
    policy, counts = seen(), []
    for _ in range(40):
        counts.append(int(chosen(policy, known(9.0), config(budget__compute=0.2)).sum()))
        told(policy, counts[-1])
    assert np.mean(counts) == pytest.approx(0.2 * 12, rel=0.02)
    assert max(counts) <= 3


COMPUTE, LATENCY = "budget.compute", "budget.latency_ms"


@pytest.mark.parametrize("first", [COMPUTE, LATENCY])
def test_another_budget_holds_from_the_next_frame_on(first: str) -> None:
    """Costs are known already: turning a budget never makes a frame that computes everything."""
    policy, blocks = Budgeted(), 12
    turns = [(COMPUTE, 0.5, 6), (COMPUTE, 0.25, 3), (COMPUTE, 0.75, 9), (LATENCY, 65.0, 4)]
    turns += [(LATENCY, 35.0, 1), (COMPUTE, 0.5, 6), (LATENCY, 65.0, 4), (LATENCY, 35.0, 1)]
    turns = [turn for turn in turns if turn[0] == first][:1] + turns
    policy.plan(IMAGE, config().updated(dict([turns[0][:2]])))
    for name, value, count in turns:
        told(policy, blocks, seconds=0.12 if blocks == 12 else 0.024 + 0.010 * blocks)
        blocks = int(chosen(policy, known(9.0), config().updated({name: value})).sum())
        assert abs(blocks - count) <= 1


def test_a_budget_of_time_allows_what_fits_into_it() -> None:
    """It must have seen costs first: in a full frame, then in one of a few blocks."""
    policy, counts = Budgeted(), []
    settings = config(budget__latency_ms=60.0, max_age_ms=60000.0)
    policy.plan(IMAGE, settings)
    told(policy, 12, seconds=0.12)
    for _ in range(40):
        counts.append(int(chosen(policy, known(9.0), settings).sum()))
        told(policy, counts[-1], seconds=0.02 + 0.01 * counts[-1])
    assert np.mean(counts[20:]) == pytest.approx(4, abs=0.6)
    plan = policy.plan(IMAGE, settings, Past(None, 1, known(9.0)))
    assert plan.fits
    assert plan.predicted_ns == pytest.approx(60e6, rel=0.1)
    assert plan.distortion == 9.0


def test_deciding_costs_no_multiplications() -> None:
    assert Budgeted().macs((360, 480), SIDE) == 0
