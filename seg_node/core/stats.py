"""What one frame cost, by name: the keys of ~/stats, and of the result bag of replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import Action

if TYPE_CHECKING:
    from seg_node.core.types import StepResult

NS_PER_MS = 1e6
BYTES_PER_MB = 1e6


def frame_values(result: StepResult) -> dict[str, object]:
    """Return what was planned for a frame, and what it cost.

    Times are in ms, of `predicted_ms` what the plan was expected to take; `distortion` is in
    levels 0..255. Both are left out where the mode does not know them. Memory of the device is in
    MB. The rest is of no unit.
    """
    plan, report = result.plan, result.report
    values: dict[str, object] = {
        "reason": plan.reason.value,
        **{f"fraction_{action.name.lower()}": plan.fraction(action) for action in Action},
        "gmac": report.macs / 1e9,
        "gmac_saving": 1.0 - report.macs / report.dense_macs,
        "age_mean_ms": float(result.age_ms.mean()),
        "age_max_ms": int(result.age_ms.max()),
        "budget_kept": plan.fits,
        "step_ms": report.total_ns / NS_PER_MS,
        **{f"{stage}_ms": ns / NS_PER_MS for stage, ns in report.stage_ns.items()},
    }
    if plan.predicted_ns is not None:
        values["predicted_ms"] = plan.predicted_ns / NS_PER_MS
    if plan.distortion is not None:
        values["distortion"] = plan.distortion
    if report.memory is not None:
        values["memory_peak_mb"] = report.memory.peak_bytes / BYTES_PER_MB
        values["memory_held_mb"] = report.memory.held_bytes / BYTES_PER_MB
        values["memory_short"] = report.memory.short
        values["memory_lost_frames"] = report.memory.lost
        values["memory_left_out"] = report.memory.left_out
    return values
