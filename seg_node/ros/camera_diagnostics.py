"""What a node with several cameras says on /diagnostics: one status per camera, and the whole.

The four parts of a node are those of `diagnostics`, over all cameras together: rates and counts
are sums, and input and output are as bad as the worst camera.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

from seg_node.ros.diagnostics import (
    compute_status,
    Health,
    input_status,
    model_status,
    OK,
    output_status,
    Processed,
)
from seg_node.ros.messages import make_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seg_node.ros.diagnostics import Situation, Status

    Watched = tuple[Situation, Health]

COUNTS = ("received", "published", "refused", "lost", "jumps", "resizes")
COMPUTE_VALUES = ("dropped", "lost", "latency_p50_ms", "latency_p95_ms", "overtaken_share")


def report_cameras(watched: Sequence[Watched]) -> list[Any]:
    """Return a DiagnosticStatus for each camera, then the four of the node.

    Args:
        watched: situation and health of each camera, at least one; what a situation says of the
            node is the same in all of them.

    """
    statuses = []
    for situation, health in watched:
        name = f"{situation.name}: camera {situation.camera}"
        statuses.append(make_status(name, situation.topic, *camera_status(situation, health)))
    situation, health = whole = together(watched)
    judged = {
        "input": _worst(input_status, watched, whole),
        "compute": compute_status(situation, health),
        "output": _worst(output_status, watched, whole),
        "model": model_status(situation, health),
    }
    for part, status in judged.items():
        statuses.append(make_status(f"{situation.name}: {part}", situation.topic, *status))
    return statuses


def camera_status(situation: Situation, health: Health) -> Status:
    """Judge one camera: whether usable images come in and masks with sensible stamps go out."""
    level, text, values = input_status(situation, health)
    out_level, out_text, out = output_status(situation, health)
    _, _, compute = compute_status(situation, health)
    values |= {key: compute[key] for key in COMPUTE_VALUES if key in compute}
    values |= {("mask_rate_hz" if k == "rate_hz" else k): value for k, value in out.items()}
    return (level, text, values) if level >= out_level else (out_level, out_text, values)


def together(watched: Sequence[Watched]) -> Watched:
    """Return several cameras as if they were one: counts added, recent times merged."""
    situations = [situation for situation, _ in watched]
    situation = replace(
        situations[0],
        topic=", ".join(each.topic for each in situations),
        publishers=tuple(kind for each in situations for kind in each.publishers),
        dropped=sum(each.dropped for each in situations),
        camera="",
    )
    arrivals: list[int] = []
    processed: list[Processed] = []
    whole = Health()
    for _, health in watched:
        with health.lock:
            arrivals += health.arrivals
            processed += health.processed
            whole.loss = whole.loss or health.loss
        for name in COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(health, name))
    whole.arrivals.extend(sorted(arrivals))
    whole.processed.extend(sorted(processed, key=lambda item: item.done_ns))
    return situation, whole


def _worst(
    judge: Callable[[Situation, Health], Status], watched: Sequence[Watched], whole: Watched
) -> Status:
    """Return the worst verdict over the cameras, telling of each that is not well."""
    verdicts = {situation.camera: judge(situation, health) for situation, health in watched}
    _, text, values = judge(*whole)
    told = [f"{camera}: {trouble}" for camera, (bad, trouble, _) in verdicts.items() if bad != OK]
    return max(verdict[0] for verdict in verdicts.values()), "; ".join(told) or text, values
