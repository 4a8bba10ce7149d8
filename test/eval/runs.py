"""Small made-up runs: results, tables of frames and worst frames, as replay would leave them."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.config import Config
from seg_node.core.types import (
    Action,
    CAMVID_CLASSES,
    Frame,
    Plan,
    Reason,
    StepReport,
    StepResult,
)
from seg_node.data.datasets import Sample
from seg_node.eval.frames import FrameWriter, row_of
from seg_node.eval.results import count_frame, make_results, ModeRecord
from seg_node.eval.worst import WorstFrames
from seg_node.nets.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = (64, 96)
STEP_NS = 100_000_000
CONFIG = Config(block_size=32)
MANIFEST = Manifest(
    name="made-up",
    network="swiftnet18-half",
    file="made-up.safetensors",
    sha256="ab" * 32,
    classes=CAMVID_CLASSES,
    training_size=(96, 64),
    data="none",
    terms="none",
    command="",
    commit="",
    scores={},
)


def step(labels: NDArray[np.uint8], action: Action, ms: float) -> StepResult:
    """Return a step with these labels that took `ms`, all blocks alike."""
    grid = np.full((2, 3), action, np.uint8)
    age_ms = np.full((2, 3), 0 if action == Action.HIGH else 200, np.uint16)
    macs = 10**9 if action == Action.HIGH else 10**8
    report = StepReport({"execute": int(ms * 1e6)}, int(ms * 1e6), macs, 10**9)
    reason = Reason.DENSE if action == Action.HIGH else Reason.MOVED
    return StepResult(labels, labels, Plan(grid, reason), age_ms, report)


def make_run(
    out: Path,
    *,
    count: int = 12,
    modes: Mapping[str, tuple[float, float]] | None = None,
    labelled: bool = True,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, WorstFrames]]:
    """Write the table of a run into `out` and return its results and worst frames.

    Args:
        out: folder.
        count: frames.
        modes: share of wrong pixels and time of a step in ms, by mode.
        labelled: whether the frames have labels.
        seed: of the wrong pixels and of the noise of times.

    """
    modes = modes or {"dense": (0.10, 40.0), "warp": (0.101, 8.0)}
    random = np.random.default_rng(seed)
    records = {mode: ModeRecord(len(CAMVID_CLASSES)) for mode in modes}
    worst = {mode: WorstFrames(CONFIG, CAMVID_CLASSES, count=2) for mode in modes}
    truth = np.repeat(np.arange(4, dtype=np.uint8), SIZE[0] // 4)[:, None].repeat(SIZE[1], 1)
    out.mkdir(parents=True, exist_ok=True)
    with FrameWriter(out / "frames.csv") as table:
        for index in range(count):
            frame = Frame(np.full((*SIZE, 3), 90, np.uint8), index * STEP_NS)
            sample = Sample(f"{index:06d}", frame, truth if labelled else None)
            dice = random.random(SIZE)
            results = {}
            for mode, (wrong, ms) in modes.items():
                labels = np.where(dice < wrong, (truth + 1) % 4, truth).astype(np.uint8)
                action = Action.HIGH if mode == "dense" else Action.REUSE
                results[mode] = step(labels, action, ms * random.uniform(0.9, 1.1))
            scores = count_frame(records, "made up", sample, results)
            for mode, result in results.items():
                table.write(row_of(index, frame.stamp_ns, mode, result, scores[mode]))
                score = scores[mode].miou if labelled else scores[mode].agreement
                if score is not None:
                    reference = truth if labelled else results["dense"].labels
                    worst[mode].add(score, sample, reference, result.labels, result.plan)
    content = make_results("made up <&>", MANIFEST, "cpu", CONFIG, records)
    source: dict[str, Any] = {
        "topic": None, "rate_hz": 10.0, "skipped_reasons": {}, "stamp_problems": {},
        "shortfall": None, "sha256": "cd" * 32,
    }  # fmt: skip
    return {"command": "replay", "interrupted": False, **content, "source": source}, worst
