"""One budget for several cameras: need counts, rates do not, and the mean is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_node.core.budget import Spent, Work
from seg_node.core.config import BudgetConfig
from seg_node.core.sharing import FLOOR, SharedBudget, Sharing
from seg_node.core.types import DataError, WARM_UP_CAMERA

TOTAL = 48
DENSE = 48_000
BLOCK_S = 0.002


def noted(needs: dict[str, float], frames: int = 60) -> Sharing:
    """Return what cameras that take turns have shown."""
    sharing = Sharing()
    for _ in range(frames):
        for camera, need in needs.items():
            sharing.note(camera, need)
    return sharing


def played(
    budget: SharedBudget,
    settings: BudgetConfig,
    order: list[str],
    needs: dict[str, float],
) -> dict[str, list[int]]:
    """Return the HIGH blocks of each camera's frames, on a machine without noise."""
    high: dict[str, list[int]] = {camera: [] for camera in needs}
    for index, camera in enumerate(order):
        allowed = budget.allowed(camera, TOTAL, settings)
        full = not high[camera] and index < len(needs)
        count = TOTAL if full else allowed
        seconds = (0.1 if full else 0.01) + count * BLOCK_S
        work = Work(count, full=full)
        budget.spent(camera, needs[camera], Spent(work, seconds, 1 / 45, count * 1000, DENSE))
        high[camera].append(count)
    return high


def test_the_camera_that_changes_more_gets_more_and_none_starves() -> None:
    sharing = noted({"front": 3.0, "left": 1.0, "right": 0.0})
    factors = {camera: sharing.factor(camera) for camera in ("front", "left", "right")}
    assert factors["right"] == pytest.approx(FLOOR)
    assert (factors["front"] - FLOOR) / (factors["left"] - FLOOR) == pytest.approx(3, rel=0.1)
    assert np.mean(list(factors.values())) == pytest.approx(1.0, abs=0.03)


def test_alone_or_without_need_there_is_nothing_to_divide() -> None:
    assert noted({"": 5.0}).factor("") == pytest.approx(1.0)
    assert noted({"a": 0.0, "b": 0.0}).factor("a") == 1.0
    assert noted({"a": 1.0}).factor("new") == 1.0
    assert Sharing().factor("any") == 1.0


def test_the_mean_over_frames_is_kept_at_unlike_rates() -> None:
    sharing = Sharing()
    given = []
    for index in range(2000):
        camera, need = ("fast", 1.0) if index % 5 else ("slow", 4.0)
        if index > 500:
            given.append(sharing.factor(camera))
        sharing.note(camera, need)
    assert np.mean(given) == pytest.approx(1.0, abs=0.01)


def test_a_camera_that_is_gone_is_forgotten() -> None:
    sharing = noted({"front": 1.0, "left": 9.0})
    assert sharing.factor("front") < 0.6
    for _ in range(300):
        sharing.note("front", 1.0)
    assert sharing.factor("front") == pytest.approx(1.0)
    assert sharing.factor("left") == 1.0


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_impossible_needs_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match=f"camera 'a' needs {bad}"):
        Sharing().note("a", bad)


def test_frames_that_prepare_the_machine_are_of_no_camera() -> None:
    """Law 6: what is planned for real frames must not depend on them."""
    settings = BudgetConfig(compute=0.2)
    cold, warm = SharedBudget(), SharedBudget()
    played(warm, settings, [WARM_UP_CAMERA] * 10, {WARM_UP_CAMERA: 0.0})
    high = [played(budget, settings, ["a"] * 40, {"a": 3.0})["a"] for budget in (cold, warm)]
    assert high[0] == high[1]


def test_frames_that_prepare_the_machine_say_nothing_of_what_frames_take() -> None:
    """The first ones of a process take seconds: a latency budget would hold blocks for dear."""
    settings = BudgetConfig(latency_ms=50.0)
    cold, warm = SharedBudget(), SharedBudget()
    for work in (Work(TOTAL, full=True), Work(0), Work(5)):
        warm.allowed(WARM_UP_CAMERA, TOTAL, settings)
        warm.spent(WARM_UP_CAMERA, 0.0, Spent(work, 3.0, 3.0, 1000, DENSE))
    assert warm.predicted_ns(WARM_UP_CAMERA, Work(1)) is None
    high = [played(budget, settings, ["a"] * 40, {"a": 3.0})["a"] for budget in (cold, warm)]
    assert high[0] == high[1]
    assert np.mean(high[1][20:]) == pytest.approx((0.05 - 0.01) / BLOCK_S, rel=0.1)


def test_how_long_frames_take_does_not_change_what_a_share_of_compute_allows() -> None:
    settings, order = BudgetConfig(compute=0.2), ["a", "b", "b"] * 30
    counts = []
    for interval_s in (0.01, 3.0):
        budget, high = SharedBudget(), []
        for camera in order:
            high.append(budget.allowed(camera, TOTAL, settings))
            work = Work(high[-1], full=high[-1] == TOTAL)
            spent = Spent(work, interval_s, interval_s, high[-1] * 1000, DENSE)
            budget.spent(camera, 5.0 if camera == "a" else 1.0, spent)
        counts.append(high)
    assert counts[0] == counts[1]


def test_three_cameras_keep_one_latency_budget() -> None:
    needs = {"front": 6.0, "left": 2.0, "right": 1.0}
    target_ms = 40.0
    order = ["front", "left", "right"] * 200
    high = played(SharedBudget(), BudgetConfig(latency_ms=target_ms), order, needs)
    late = {camera: np.mean(counts[100:]) for camera, counts in high.items()}
    assert late["front"] > late["left"] > late["right"] > 0
    mean_ms = 1e3 * (0.01 + np.mean(list(late.values())) * BLOCK_S)
    assert mean_ms == pytest.approx(target_ms, rel=0.05)


def test_three_cameras_keep_one_compute_budget() -> None:
    needs = {"front": 6.0, "left": 2.0, "right": 1.0}
    order = ["front", "left", "right"] * 200
    high = played(SharedBudget(), BudgetConfig(compute=0.2), order, needs)
    late = {camera: np.mean(counts[100:]) for camera, counts in high.items()}
    assert late["front"] > late["left"] > late["right"] > 0
    assert np.mean(list(late.values())) == pytest.approx(0.2 * TOTAL, abs=0.5)


def test_one_camera_gets_what_it_gets_alone() -> None:
    alone = played(SharedBudget(), BudgetConfig(compute=0.2), [""] * 100, {"": 3.0})
    assert np.mean(alone[""][10:]) == pytest.approx(0.2 * TOTAL, abs=0.5)


def test_both_kinds_of_budget_learn_whichever_is_in_force() -> None:
    """A change from one to the other holds from the next frame on, as far as costs are known."""
    budget = SharedBudget()
    played(budget, BudgetConfig(compute=0.2), [""] * 100, {"": 1.0})
    assert budget.predicted_ns("", Work(10)) == pytest.approx(30e6, rel=0.15)
    high = played(budget, BudgetConfig(latency_ms=50.0), [""] * 3, {"": 1.0})[""]
    assert high[1] == pytest.approx(0.97 * 20, abs=5)
    high = played(budget, BudgetConfig(compute=0.5), [""] * 3, {"": 1.0})[""]
    assert high[1] == pytest.approx(24, abs=4)


def test_nothing_is_predicted_before_anything_was_measured() -> None:
    budget = SharedBudget()
    assert budget.allowed("", TOTAL, BudgetConfig(latency_ms=20.0)) == TOTAL
    assert budget.predicted_ns("", Work(3)) is None


def test_what_does_not_fit_is_said() -> None:
    budget = SharedBudget()
    settings = BudgetConfig(latency_ms=5.0)  # a frame without blocks takes 10 ms
    played(budget, settings, [""] * 60, {"": 1.0})
    budget.allowed("", TOTAL, settings)
    assert not budget.keeps("", 0)
    budget.allowed("", TOTAL, BudgetConfig(latency_ms=50.0))
    assert budget.keeps("", 0)
