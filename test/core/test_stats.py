"""What is told of one frame, by the names that ~/stats and replay share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seg_node.core.stats import frame_values
from seg_node.core.types import Action, MemoryUse, Plan, Reason, StepReport, StepResult


def result(plan: Plan) -> StepResult:
    labels = np.zeros((64, 64), np.uint8)
    age_ms = np.array([[100, 300]], np.uint16)
    report = StepReport({"plan": 2_000_000, "execute": 5_000_000}, 8_000_000, 25 * 10**7, 10**9)
    return StepResult(labels, labels, plan, age_ms, report)


GRID = np.array([[Action.HIGH, Action.REUSE]], np.uint8)


def test_everything_of_a_frame_is_told() -> None:
    values = frame_values(result(Plan(GRID, Reason.REFRESHED, False, 7_500_000, 3.25)))
    assert values == {
        "reason": Reason.REFRESHED.value,
        "fraction_high": 0.5,
        "fraction_low": 0.0,
        "fraction_reuse": 0.5,
        "gmac": 0.25,
        "gmac_saving": 0.75,
        "age_mean_ms": 200.0,
        "age_max_ms": 300,
        "budget_kept": False,
        "step_ms": 8.0,
        "plan_ms": 2.0,
        "execute_ms": 5.0,
        "predicted_ms": 7.5,
        "distortion": 3.25,
    }


def test_what_is_not_known_is_left_out() -> None:
    values = frame_values(result(Plan(GRID, Reason.DENSE)))
    assert not {"predicted_ms", "distortion"} & set(values)


def test_memory_is_told_in_mb() -> None:
    use = MemoryUse(2_500_000, 1_500_000, 3, 1, "half of it")
    frame = result(Plan(GRID, Reason.DENSE))
    values = frame_values(replace(frame, report=replace(frame.report, memory=use)))
    assert {name: value for name, value in values.items() if name.startswith("memory")} == {
        "memory_peak_mb": 2.5,
        "memory_held_mb": 1.5,
        "memory_short": 3,
        "memory_lost_frames": 1,
        "memory_left_out": "half of it",
    }
