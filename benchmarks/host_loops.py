"""Times steps with the loops that Numba compiles, and without, side by side.

    PYTHONPATH=. python benchmarks/host_loops.py video:FILE \
        --json benchmarks/results/host_loops.json

Each frame goes through dense, adaptive and, where the model has a half-resolution branch, arseg,
with and without, before the next frame comes; they take turns in being the first.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
import json
from pathlib import Path
import statistics
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.config import Config
from seg_node.data.datasets import open_source
from seg_node.eval.machine import describe_machine, load
from seg_node.eval.results import versions
from seg_node.eval.session import build_session, open_model
from seg_node.loops import compiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame

CASES = (
    ("swiftnet18-half", (480, 360)),
    ("swiftnet18-half", (960, 720)),
    ("swiftnet18", (960, 720)),
)
MODES = ("dense", "adaptive", "arseg")
WARM_UP, FRAMES = 5, 40


def frames_of(data: str, size: tuple[int, int]) -> list[Frame]:
    """Return the first frames of a clip at a size (width, height)."""
    found = []
    for sample in open_source(data):
        image = cv2.resize(sample.frame.image, size, interpolation=cv2.INTER_AREA)
        found.append(replace(sample.frame, image=np.asarray(image, np.uint8)))
        if len(found) == WARM_UP + FRAMES:
            break
    return found


def timed(frames: Sequence[Frame], ways: dict[tuple[str, bool], Segmenter]) -> list[Any]:
    """Return a row for each way: what its steps took."""
    steps: dict[tuple[str, bool], list[float]] = defaultdict(list)
    stages: dict[tuple[str, bool], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    same: dict[str, list[float]] = defaultdict(list)
    for index, frame in enumerate(frames):
        labels = {}
        first = index % len(ways)
        for way in (*list(ways)[first:], *list(ways)[:first]):
            compiling.AVAILABLE = way[1]
            result = ways[way].step(frame)
            labels[way], report = result.labels, result.report
            if index < WARM_UP:
                continue
            steps[way].append(report.total_ns / 1e6)
            for name, spent in report.stage_ns.items():
                stages[way][name] += spent / 1e6 / (len(frames) - WARM_UP)
        for mode in {mode for mode, _ in ways}:
            same[mode].append(float((labels[mode, True] == labels[mode, False]).mean()))
    sums = {way: sum(taken) for way, taken in steps.items()}
    return [
        {
            "mode": mode,
            "loops": loops,
            "p50_ms": statistics.median(steps[mode, loops]),
            "mean_ms": statistics.fmean(steps[mode, loops]),
            "stages_ms": stages[mode, loops],
            "times_as_fast_as_without": sums[mode, False] / sums[mode, loops],
            "times_as_fast_as_dense": sums["dense", loops] / sums[mode, loops],
            "same_pixels_as_without": statistics.fmean(same[mode]) if loops else 1.0,
        }
        for mode, loops in ways
    ]


def main() -> None:
    """Time every case, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    if not compiling.AVAILABLE:
        parser.error(compiling.LACK)
    busy = load()
    cases = []
    for name, size in CASES:
        config = Config(device="cpu", model=name).updated({"budget.compute": 0.15})
        model = open_model(config)
        ways = {
            (mode, loops): build_session(model, config.updated({"mode": mode})).segmenter
            for mode in MODES
            if mode != "arseg" or model.low is not None
            for loops in (True, False)
        }
        rows = timed(frames_of(args.data, size), ways)
        cases.append({"model": name, "width": size[0], "height": size[1], "ways": rows})
        for row in rows:
            told = ", ".join(f"{stage} {took:.1f}" for stage, took in row["stages_ms"].items())
            print(
                f"{name} {size[0]}x{size[1]} {row['mode']:8} loops {row['loops']!s:5} "
                f"{row['mean_ms']:6.1f} ms ({told}), {row['times_as_fast_as_without']:.2f} x "
                f"without, {row['times_as_fast_as_dense']:.2f} x dense, "
                f"{row['same_pixels_as_without']:.6f} of the pixels as without"
            )
    found = {
        "data": args.data.partition(":")[0] + ":" + Path(args.data).name,
        "frames": FRAMES,
        "threads": torch.get_num_threads(),
        "precision": "fp32",
        "cases": cases,
        "machine": describe_machine(),
        "load_before": busy,
        "versions": versions(),
    }
    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
