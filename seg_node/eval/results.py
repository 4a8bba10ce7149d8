"""Gathers what a run measured and writes it as `results.json`, the same for every command."""

from __future__ import annotations

from dataclasses import dataclass, field
import json
import platform
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

import seg_node
from seg_node.core.config import options
from seg_node.core.types import Action, DataError
from seg_node.eval.calibration import Calibration
from seg_node.eval.files import write_whole
from seg_node.eval.machine import describe_machine
from seg_node.eval.metrics import ConfusionMatrix, overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import StepResult
    from seg_node.data.datasets import Sample
    from seg_node.eval.boundary import BoundaryScore
    from seg_node.eval.temporal import TemporalConsistency
    from seg_node.nets.manifest import Manifest

NS_PER_MS = 1e6
DENSE = "dense"
"""The mode that all others are compared with."""


@dataclass(frozen=True)
class FrameScore:
    """How right one frame is in one mode.

    Attributes:
        miou: its own mean IoU (0..1), see `ConfusionMatrix.image_miou`; None without labels.
        overlaps: intersection and union in pixels per class, int64 [classes, 2]; None without
            labels.
        agreement: share (0..1) of its pixels with the class that mode `dense` gives them; None
            where that did not run, and in `dense` itself.

    """

    miou: float | None = None
    overlaps: NDArray[np.int64] | None = None
    agreement: float | None = None


@dataclass
class ModeRecord:
    """Everything measured in one mode; fill with `add`, read with `summary`.

    Args:
        classes: number of classes.
        boundary: where to count boundaries; None leaves them out (they cost some milliseconds).
        temporal: where somebody else counts temporal consistency; None if nobody does.

    """

    classes: int
    boundary: BoundaryScore | None = None
    temporal: TemporalConsistency | None = None
    confusion: ConfusionMatrix = field(init=False)
    against_dense: ConfusionMatrix = field(init=False)
    missed: ConfusionMatrix = field(init=False)
    missed_dense: ConfusionMatrix = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)
    step_ns: list[int] = field(default_factory=list)
    stage_ns: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    dense_macs: int = 0
    age_ms: list[float] = field(default_factory=list)
    actions: dict[Action, float] = field(default_factory=lambda: dict.fromkeys(Action, 0.0))
    gated: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)
    labelled: int = 0
    labelled_missed: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        """Start with empty confusion matrices."""
        self.confusion = ConfusionMatrix(self.classes)
        self.against_dense = ConfusionMatrix(self.classes)
        self.missed = ConfusionMatrix(self.classes)
        self.missed_dense = ConfusionMatrix(self.classes)

    def add(
        self,
        result: StepResult,
        truth: NDArray[np.uint8] | None = None,
        dense: NDArray[np.uint8] | None = None,
        lateness_ns: int | None = None,
    ) -> FrameScore:
        """Count one frame that was processed, and return its own scores.

        Args:
            result: what the mode made of it.
            truth: its true labels, uint8 [H, W]; None where they are not known.
            dense: what mode `dense` predicts for it, uint8 [H, W]; None where that did not run,
                and in mode `dense` itself.
            lateness_ns: time from its arrival to its result; None where frames do not arrive.

        Raises:
            DataError: truth and result differ in size, or hold a class that is not there.

        """
        if lateness_ns is not None:
            self.lateness_ms.append(lateness_ns / NS_PER_MS)
        self.step_ns.append(result.report.total_ns)
        for stage, ns in result.report.stage_ns.items():
            self.stage_ns[stage] = self.stage_ns.get(stage, 0) + ns
        self.macs += result.report.macs
        self.dense_macs += result.report.dense_macs
        self.age_ms.append(float(result.age_ms.max()))
        for action in Action:
            self.actions[action] += result.plan.fraction(action)
        if result.plan.gates is not None:
            self.gated.append(float(1 - result.plan.gates.mean()))
        if result.report.joules is not None:
            self.joules.append(result.report.joules)
        agreement = _agreeing(self.against_dense, dense, result.labels)
        if truth is None:
            return FrameScore(agreement=agreement)
        return self._score(result, truth, agreement)

    def miss(
        self,
        standing: NDArray[np.uint8],
        truth: NDArray[np.uint8] | None = None,
        dense: NDArray[np.uint8] | None = None,
    ) -> FrameScore:
        """Count one frame that was dropped, and return the scores of what stood for it.

        Args:
            standing: the newest mask before it, uint8 [H, W]: what the robot has.
            truth: its true labels, uint8 [H, W]; None where they are not known.
            dense: what mode `dense` predicts for it, uint8 [H, W]; None where that did not run.

        Raises:
            DataError: the truth is of another size, or holds a class that is not there.

        """
        self.dropped += 1
        agreement = _agreeing(self.missed_dense, dense, standing)
        if truth is None:
            return FrameScore(agreement=agreement)
        self.labelled_missed += 1
        counts = self.missed.count(truth, standing)
        return FrameScore(self.missed.add(counts), overlaps(counts), agreement)

    def summary(self, dense: ModeRecord | None = None) -> dict[str, Any]:
        """Return the mode's entry of `results.json`; what was not measured is None.

        Args:
            dense: record of mode `dense` over the same frames; None where it did not run.

        """
        frames = len(self.step_ns)
        ms = spread([ns / NS_PER_MS for ns in self.step_ns], mean=True)
        return {
            **self._scores(),
            "agreement": _agreement(self.against_dense.plus(self.missed_dense)),
            "processed_only": self._processed_only(),
            "gmac_per_frame": self.macs / frames / 1e9 if frames else None,
            "gmac_saving": 1.0 - self.macs / self.dense_macs if self.dense_macs else None,
            "ms": ms,
            "stage_ms": {k: ns / frames / NS_PER_MS for k, ns in self.stage_ns.items()} or None,
            "joules_per_frame": float(np.mean(self.joules)) if self.joules else None,
            "fps": 1e3 / ms["mean"] if ms else None,
            **speedup(self._same_frames(dense), self.step_ns),
            "age_ms": spread(self.age_ms, mean=False),
            "fractions": self._fractions(frames),
            "frames": frames,
            "labelled_frames": self.labelled + self.labelled_missed,
            "dropped": self.dropped,
            "lateness_ms": spread(self.lateness_ms, mean=True),
        }

    def untimed_summary(self) -> dict[str, Any]:
        """Return the entry of a mode that ran beside the others, at times that mean nothing."""
        return {**self.summary(), **dict.fromkeys(_TIMED)}

    def state(self) -> dict[str, Any]:
        """Return all that was counted but boundaries and consistency, to be written as JSON."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        parts = {name: getattr(self, name).state() for name in _PARTS}
        return {**plain, **parts, "actions": {a.name: x for a, x in self.actions.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same classes, to the last bit."""
        for name in _PLAIN:
            setattr(self, name, state[name])
        for name in _PARTS:
            getattr(self, name).restore(state[name])
        self.actions = {action: state["actions"][action.name] for action in Action}

    def absorb(self, other: ModeRecord) -> None:
        """Count the frames of another record after one's own, but boundaries and consistency.

        Args:
            other: a record of the same mode and classes over other frames.

        """
        for name in _SERIES:
            getattr(self, name).extend(getattr(other, name))
        for name in _TOTALS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _PARTS:
            setattr(self, name, getattr(self, name).plus(getattr(other, name)))
        for stage, ns in other.stage_ns.items():
            self.stage_ns[stage] = self.stage_ns.get(stage, 0) + ns
        for action, share in other.actions.items():
            self.actions[action] += share

    def _same_frames(self, dense: ModeRecord | None) -> list[int]:
        """Return the times of mode `dense` where it has processed the same frames, else none."""
        return [] if dense is None or dense.dropped or self.dropped else dense.step_ns

    def _processed_only(self) -> dict[str, Any] | None:
        """Return the scores of the processed frames alone; None where none was dropped."""
        if not self.dropped:
            return None
        return {
            "miou": self.confusion.dataset_miou(),
            "agreement": _agreement(self.against_dense),
            "labelled_frames": self.labelled,
        }

    def _score(
        self, result: StepResult, truth: NDArray[np.uint8], agreement: float | None
    ) -> FrameScore:
        self.labelled += 1
        counts = self.confusion.count(truth, result.labels)
        miou = self.confusion.add(counts)
        if result.confidence.size:  # a node over DDS does not tell it
            self.calibration.update(truth, result.labels, result.confidence)
        if self.boundary is not None:
            self.boundary.update(truth, result.labels)
        return FrameScore(miou, overlaps(counts), agreement)

    def _scores(self) -> dict[str, Any]:
        """Return everything about accuracy, see docs/metrics.md."""
        confusion, error = self.confusion.plus(self.missed), self.calibration.error()
        boundary, temporal = self.boundary, self.temporal
        return {
            "miou": confusion.dataset_miou(),
            "image_miou": confusion.image_miou(),
            "class_iou": confusion.class_iou() if self.labelled or self.labelled_missed else None,
            "class_share": confusion.class_share(),
            "pixel_accuracy": confusion.pixel_accuracy(),
            "boundary_f": boundary.mean_f() if boundary else None,
            "class_boundary_f": boundary.class_f() if boundary and self.labelled else None,
            "temporal_consistency": temporal.consistency() if temporal else None,
            "temporal": temporal.details() if temporal else None,
            "ece": error,
            "reliability": None if error is None else self.calibration.table(),
        }

    def _fractions(self, frames: int) -> dict[str, float | None]:
        """Return the mean share of each action, and of stages' bins that were dropped."""
        shares = {a.name.lower(): self.actions[a] / frames if frames else None for a in Action}
        return {
            "high": shares["high"],
            "low": shares["low"],
            "reuse": shares["reuse"],
            "gated": float(np.mean(self.gated)) if self.gated else None,
        }


_TIMED = ("ms", "stage_ms", "fps", "joules_per_frame")
"""What a clock or a meter has measured, of an entry of `results.json`."""
_SERIES = ("step_ns", "age_ms", "lateness_ms", "gated", "joules")
"""Fields of a record that have a number of every frame."""
_TOTALS = ("macs", "dense_macs", "labelled", "labelled_missed", "dropped")
"""Fields of a record that add up over frames."""
_PLAIN = (*_SERIES, *_TOTALS, "stage_ns")
"""Fields of a record that are numbers, or lists and maps of numbers."""
_PARTS = ("confusion", "against_dense", "missed", "missed_dense", "calibration")
"""Fields of a record that keep a state of their own."""


def _agreeing(
    matrix: ConfusionMatrix, dense: NDArray[np.uint8] | None, labels: NDArray[np.uint8]
) -> float | None:
    """Count labels against those of mode `dense`; returns the share of pixels that agree."""
    if dense is None:
        return None
    counts = matrix.count(dense, labels)
    matrix.add(counts)
    return float(np.trace(counts) / counts.sum())


def _agreement(matrix: ConfusionMatrix) -> dict[str, float | None] | None:
    """Return how far the labels are those of mode `dense`; None where none were given."""
    if not matrix.counts.any():
        return None
    return {"pixel": matrix.pixel_accuracy(), "miou": matrix.dataset_miou()}


def count_frame(
    records: Mapping[str, ModeRecord], data: str, sample: Sample, results: Mapping[str, StepResult]
) -> dict[str, FrameScore]:
    """Count one frame in the record of every mode, with its labels where it has some.

    Args:
        records: where to count, by mode.
        data: name of the data, for errors.
        sample: the frame.
        results: what each mode made of it.

    Returns:
        The scores of this frame alone, by mode.

    Raises:
        DataError: its labels do not fit; the text names the frame.

    """
    dense = results[DENSE].labels if DENSE in results else None
    try:
        return {
            mode: records[mode].add(result, sample.labels, None if mode == DENSE else dense)
            for mode, result in results.items()
        }
    except DataError as error:
        msg = f"{data}, frame {sample.name}: {error}"
        raise DataError(msg) from error


def speedup(dense_ns: list[int], step_ns: list[int]) -> dict[str, Any]:
    """Return how many times as fast as dense the steps are, overall and frame by frame.

    Args:
        dense_ns: times of mode `dense`, in nanoseconds; empty where it did not run.
        step_ns: times of the mode on the same frames in the same order.

    Returns:
        `speedup_vs_dense`, the ratio of the sums, because a median would leave out keyframes that
        cost more than the frames between, and `speedup_per_frame`, the quartiles of the ratios of
        single frames; both None without times.

    """
    if not dense_ns or not step_ns:
        return {"speedup_vs_dense": None, "speedup_per_frame": None}
    ratios = [dense / step for dense, step in zip(dense_ns, step_ns, strict=True)]
    p25, p50, p75 = (float(v) for v in np.percentile(ratios, (25, 50, 75)))
    return {
        "speedup_vs_dense": sum(dense_ns) / sum(step_ns),
        "speedup_per_frame": {"p25": p25, "p50": p50, "p75": p75},
    }


def spread(values: list[float], *, mean: bool) -> dict[str, float] | None:
    """Return p50, p95, max, and with `mean` also p99 and mean; None without values."""
    if not values:
        return None
    p50, p95, p99 = (float(v) for v in np.percentile(values, (50, 95, 99)))
    short = {"p50": p50, "p95": p95}
    if mean:
        return {**short, "p99": p99, "max": max(values), "mean": float(np.mean(values))}
    return {**short, "max": max(values)}


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {
        "seg_node": seg_node.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": platform.machine(),
    }


def make_results(
    data: str, manifest: Manifest, device: str, config: Config, modes: dict[str, ModeRecord]
) -> dict[str, Any]:
    """Return the whole of `results.json`.

    Args:
        data: named data, such as `camvid:DIR`.
        manifest: model that was used.
        device: device, number format and threads, such as `cpu float32, 2 threads`.
        config: settings in force; their mode is replaced by the list of those that were run.
        modes: record of each mode that was run, all on the same frames.

    """
    settings = {option.name: option.value for option in options(config)}
    dense = modes.get(DENSE)
    return {
        "data": data,
        "model": {"name": manifest.name, "sha256": manifest.sha256},
        "classes": [c.name for c in manifest.classes],
        "device": device,
        "machine": describe_machine(),
        "versions": versions(),
        "config": {**settings, "mode": ",".join(modes)},
        "modes": {mode: record.summary(dense) for mode, record in modes.items()},
    }


def write_json(results: dict[str, Any], path: Path) -> None:
    """Write results whole or not at all, creating the folder if needed.

    Raises:
        DataError: the disk is full, or refuses otherwise.

    """
    write_whole(path, json.dumps(results, indent=2) + "\n")
