"""What the node says of its own health on /diagnostics: input, compute, output and model.

Whether the input is stale is judged by arrival on a steady clock, so a paused or replayed bag is
judged like a camera; how old a stamp is, is judged on the node's clock, which follows the bag
under `use_sim_time`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import threading
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np

from seg_node.core.stats import BYTES_PER_MB, NS_PER_MS
from seg_node.ros.image_topics import TYPES
from seg_node.ros.messages import make_status

if TYPE_CHECKING:
    from seg_node.core.config import Config
    from seg_node.core.types import MemoryUse
    from seg_node.nets.manifest import Manifest
    from seg_node.ros.inputs import VideoInput

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
WINDOW_NS = 5_000_000_000
"""Rates and latencies are taken over the last five seconds."""
OLD_STAMP_NS = 5_000_000_000
"""A stamp this far from the node's clock means that the clocks do not belong together."""
DROP_SHARE_WARN = 0.1
UNKEPT_SHARE_WARN = 0.5
"""Part of the frames that may be beyond the budget: a few are when many blocks are due by age."""
S_PER_NS = 1e-9

Status = tuple[bytes, str, dict[str, object]]


@dataclass(frozen=True)
class Processed:
    """One published frame.

    Attributes:
        done_ns: steady time of publishing.
        step_ns: duration of `Segmenter.step`.
        latency_ns: from arrival of the message to publishing.
        stamp_lag_ns: node clock minus header stamp, at publishing.
        fits: whether its plan kept the budget.
        memory: what it took of the memory of the device.

    """

    done_ns: int
    step_ns: int
    latency_ns: int
    stamp_lag_ns: int
    fits: bool = True
    memory: MemoryUse | None = None


@dataclass
class Health:
    """Counts and recent times, filled by the callbacks and the worker, read by the reports.

    Attributes:
        arrivals: steady times of recent images.
        processed: recent published frames.
        received: images received since activation.
        published: masks published since activation.
        refused: images that could not be used, since activation.
        lost: frames that did not fit into the memory of the device, since activation.
        jumps: times that the stamp went back, since activation.
        resizes: times that the image size changed, since activation.
        refusal: text of the newest refusal, empty after a good frame.
        loss: text of the newest frame that was lost, likewise.
        video: decoder of the video messages, None where pictures come one by one.

    """

    arrivals: deque[int] = field(default_factory=deque)
    processed: deque[Processed] = field(default_factory=deque)
    received: int = 0
    published: int = 0
    refused: int = 0
    lost: int = 0
    jumps: int = 0
    resizes: int = 0
    refusal: str = ""
    loss: str = ""
    video: VideoInput | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arrived(self, now_ns: int) -> None:
        """Count one image."""
        with self.lock:
            self.received += 1
            self.arrivals.append(now_ns)
            while now_ns - self.arrivals[0] > WINDOW_NS:
                self.arrivals.popleft()

    def refuse(self, reason: str) -> None:
        """Count one image that could not be used."""
        with self.lock:
            self.refused += 1
            self.refusal = reason

    def lose(self, reason: str) -> None:
        """Count one frame that did not fit into the memory of the device."""
        with self.lock:
            self.lost += 1
            self.loss = reason

    def done(self, item: Processed) -> None:
        """Count one published frame."""
        with self.lock:
            self.published += 1
            self.refusal = self.loss = ""
            self.processed.append(item)
            while item.done_ns - self.processed[0].done_ns > WINDOW_NS:
                self.processed.popleft()

    def recent(self, now_ns: int) -> tuple[list[int], list[Processed]]:
        """Return arrivals and processed frames of the last five seconds."""
        with self.lock:
            arrivals = [t for t in self.arrivals if now_ns - t <= WINDOW_NS]
            return arrivals, [p for p in self.processed if now_ns - p.done_ns <= WINDOW_NS]


@dataclass(frozen=True)
class Situation:
    """What the reports need to know beside the health.

    Attributes:
        name: name of the node, the prefix of every status.
        state: lifecycle state.
        enabled: whether ~/enable is on.
        topic: image topic, resolved.
        publishers: publishers found on that topic, as type names.
        expected_type: type that the node subscribes to.
        config: settings in force.
        manifest: model in use, None before configure.
        compute: device and number format in use.
        converter: who converts images, and why.
        dropped: frames overtaken by newer ones since activation.
        now_ns: steady time.
        camera: name of the camera; empty for the one camera of a node that names none.

    """

    name: str
    state: str
    enabled: bool
    topic: str
    publishers: tuple[str, ...]
    expected_type: str
    config: Config
    manifest: Manifest | None
    compute: str
    converter: str
    dropped: int
    now_ns: int
    camera: str = ""


def report(situation: Situation, health: Health) -> list[Any]:
    """Return the four DiagnosticStatus of the node."""
    parts = {
        "input": input_status,
        "compute": compute_status,
        "output": output_status,
        "model": model_status,
    }
    statuses = []
    for part, judge in parts.items():
        level, text, values = judge(situation, health)
        name = f"{situation.name}: {part}"
        statuses.append(make_status(name, situation.topic, level, text, values))
    return statuses


def input_status(situation: Situation, health: Health) -> Status:
    """Judge whether usable images arrive."""
    arrivals, _ = health.recent(situation.now_ns)
    rate = _rate(arrivals)
    values: dict[str, object] = {
        "topic": situation.topic,
        "publishers": len(situation.publishers),
        "rate_hz": rate,
        "received": health.received,
        "refused": health.refused,
        "stamp_jumps": health.jumps,
        "size_changes": health.resizes,
        "converter": situation.converter,
    }
    if health.video is not None and health.video.counts is not None:
        values |= {f"video_{name}": n for name, n in vars(health.video.counts).items()}
    if situation.state != "active" or not situation.enabled:
        active = situation.state == "active"
        off = "switched off by ~/enable" if active else f"{situation.state}: not subscribed"
        return OK, off, values
    if not health.arrivals:
        return (*_nothing_arrived(situation), values)
    silence_s = (situation.now_ns - health.arrivals[-1]) * S_PER_NS
    values["silence_s"] = silence_s
    if health.refusal:
        return ERROR, f"unusable image: {health.refusal}", values
    if silence_s > situation.config.input.stale_s:
        return ERROR, f"stale: no image for {silence_s:.1f} s on {situation.topic}", values
    if health.video is not None and health.video.trouble:
        return WARN, f"no pictures from the video: {health.video.trouble}", values
    return OK, f"{rate:.1f} Hz", values


def _nothing_arrived(situation: Situation) -> tuple[bytes, str]:
    if not situation.publishers:
        return WARN, f"no publisher on {situation.topic}; is the camera running and remapped?"
    others = sorted(set(situation.publishers) - {situation.expected_type})
    if others:
        hint = {kind: name for name, kind in TYPES.items()}.get(others[0])
        remap = f"remap {situation.camera}/image" if situation.camera else "remap image"
        fix = f"set input.transport to {hint} or {remap}" if hint else remap
        return ERROR, (
            f"{situation.topic} carries {others[0]}, expected {situation.expected_type}; {fix}"
        )
    return ERROR, (
        f"{situation.topic} has a publisher but no image arrives; large images need the transport "
        "setting of docs/transport.md (run 'seg_node doctor')"
    )


def compute_status(situation: Situation, health: Health) -> Status:
    """Judge whether the network keeps up with the camera."""
    arrivals, processed = health.recent(situation.now_ns)
    values: dict[str, object] = {
        "mode": situation.config.mode,
        "input_scale": situation.config.input.scale,
        "dropped": situation.dropped,
        "lost": health.lost,
    }
    if health.loss:
        return ERROR, f"frame lost: {health.loss}", values
    if not processed:
        return OK, "no frame in the last 5 s", values
    step_ms = np.array([p.step_ns for p in processed]) / NS_PER_MS
    latency_ms = np.array([p.latency_ns for p in processed]) / NS_PER_MS
    rate = _rate(arrivals)
    period_ms = 1e3 / rate if rate else float("inf")
    values |= {
        "step_p50_ms": float(np.percentile(step_ms, 50)),
        "step_p95_ms": float(np.percentile(step_ms, 95)),
        "latency_p50_ms": float(np.percentile(latency_ms, 50)),
        "latency_p95_ms": float(np.percentile(latency_ms, 95)),
        "period_ms": period_ms,
    }
    share = max(0.0, 1.0 - len(processed) / max(1, len(arrivals)))
    values["overtaken_share"] = share
    values |= _memory_values(processed)
    mean_ms = float(step_ms.mean())
    if mean_ms > period_ms and share > DROP_SHARE_WARN:
        text = (
            f"overloaded: {mean_ms:.0f} ms a frame, an image every {period_ms:.0f} ms, "
            f"{share:.0%} overtaken; lower input.scale or the camera's rate"
        )
        return WARN, text, values
    if values.get("memory_left_out"):
        return WARN, f"memory of the device is short: {values['memory_left_out']}", values
    unkept = sum(not p.fits for p in processed) / len(processed)
    values["budget_kept_share"] = 1.0 - unkept
    if unkept > UNKEPT_SHARE_WARN:
        return WARN, _beyond_budget(situation.config), values
    return OK, f"{mean_ms:.1f} ms a frame of {period_ms:.1f} ms", values


def _memory_values(processed: list[Processed]) -> dict[str, object]:
    """Return what recent frames took of the memory of the device."""
    uses = [p.memory for p in processed if p.memory is not None]
    if not uses:
        return {}
    return {
        "memory_peak_mb": max(use.peak_bytes for use in uses) / BYTES_PER_MB,
        "memory_held_mb": uses[-1].held_bytes / BYTES_PER_MB,
        "memory_short": uses[-1].short,
        "memory_left_out": uses[-1].left_out,
    }


def _beyond_budget(config: Config) -> str:
    """Return what to do where the budget is too small for any plan that is allowed."""
    budget = config.budget
    name = "budget.latency_ms" if budget.latency_ms else "budget.compute"
    value = budget.latency_ms or budget.compute
    return (
        f"{name} is {value:g}, but even the cheapest plan that max_age_ms {config.max_age_ms:g} "
        f"allows costs more; raise {name} or max_age_ms, or lower input.scale"
    )


def output_status(situation: Situation, health: Health) -> Status:
    """Judge whether masks go out, and whether stamps and clock belong together."""
    _, processed = health.recent(situation.now_ns)
    values: dict[str, object] = {
        "published": health.published,
        "rate_hz": _rate([p.done_ns for p in processed]),
    }
    if not processed:
        return OK, "no mask in the last 5 s", values
    lag_ns = int(np.median([p.stamp_lag_ns for p in processed]))
    values["stamp_lag_ms"] = lag_ns / NS_PER_MS
    if abs(lag_ns) > OLD_STAMP_NS:
        text = (
            f"stamps differ from the clock by {lag_ns * S_PER_NS:.1f} s; for a bag, play with "
            "--clock and set use_sim_time, else check the camera's clock"
        )
        return WARN, text, values
    return OK, f"{values['rate_hz']:.1f} masks/s", values


def model_status(situation: Situation, health: Health) -> Status:  # noqa: ARG001 - one signature for all four
    """Tell which model is in use."""
    if situation.manifest is None:
        return OK, f"{situation.state}: no model loaded", {}
    manifest = situation.manifest
    values: dict[str, object] = {
        "name": manifest.name,
        "network": manifest.network,
        "sha256": manifest.sha256,
        "classes": len(manifest.classes),
        "compute": situation.compute,
    }
    return OK, f"{manifest.name} on {situation.compute}", values


def _rate(times_ns: list[int]) -> float:
    """Return events per second from their times; 0 if fewer than two."""
    span_s = (times_ns[-1] - times_ns[0]) * S_PER_NS if len(times_ns) > 1 else 0.0
    return (len(times_ns) - 1) / span_s if span_s > 0 else 0.0
