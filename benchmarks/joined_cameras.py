"""Times frames of three cameras computed together and one by one, side by side.

    PYTHONPATH=. python benchmarks/joined_cameras.py CLIP CLIP \
        --json benchmarks/results/joined_cameras.json

The cameras are those of `three_cameras.py`. Each frame of all three goes both ways before the next
frames come; the ways take turns in being the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import torch

from benchmarks.three_cameras import NAMES, noisy, read, SIZE
from seg_node.core.config import Config
from seg_node.core.types import Frame
from seg_node.eval.machine import describe_machine, load
from seg_node.eval.results import versions
from seg_node.eval.session import build_session, open_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.pipeline import Segmenter

MODELS = ("swiftnet18-half", "swiftnet18")
BUDGETS = (0.1, 0.2)
RATE_HZ = 10.0
WARM_UP, FRAMES = 5, 40
WAYS = ("one by one", "together")


def shown(images: list[NDArray[np.uint8]], index: int) -> NDArray[np.uint8]:
    """Return an image of a clip that is played to and fro."""
    last = len(images) - 1
    return images[last - abs(last - index % (2 * last))]


def timed(segmenters: dict[str, Segmenter], clips: dict[str, list[NDArray[np.uint8]]]) -> Any:
    """Return what all cameras' frames took each way, and how alike the masks are."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    execute: dict[str, list[float]] = {way: [] for way in WAYS}
    macs: dict[str, list[float]] = {way: [] for way in WAYS}
    same = []
    for index in range(WARM_UP + FRAMES):
        stamp_ns = round(index * 1e9 / RATE_HZ)
        frames = [Frame(shown(x, index), stamp_ns, camera=name) for name, x in clips.items()]
        labels = {}
        for way in WAYS if index % 2 else WAYS[::-1]:
            began = time.perf_counter()
            if way == "together":
                results = segmenters[way].step_together(frames)
            else:
                results = [segmenters[way].step(frame) for frame in frames]
            took_ms = 1e3 * (time.perf_counter() - began)
            labels[way] = [result.labels for result in results]
            if index >= WARM_UP:
                reports = [result.report for result in results]
                taken[way].append(took_ms)
                execute[way].append(sum(report.stage_ns["execute"] for report in reports) / 1e6)
                macs[way].append(float(np.mean([x.macs / x.dense_macs for x in reports])))
        pairs = zip(*labels.values(), strict=True)
        same.append(float(np.mean([(a == b).mean() for a, b in pairs])))
    sums = {way: sum(times) for way, times in taken.items()}
    return {
        "mean_ms": {way: total / FRAMES for way, total in sums.items()},
        "execute_ms": {way: float(np.mean(times)) for way, times in execute.items()},
        "of_dense_macs": {way: float(np.mean(shares)) for way, shares in macs.items()},
        "times_as_fast": sums["one by one"] / sums["together"],
        "same_pixels": float(np.mean(same)),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs=2, help="named data or paths of two clips")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    busy, still = load(), noisy(read("street:1")[0], 20)
    clips = dict(zip(NAMES, (*(read(clip) for clip in args.clips), still), strict=True))
    cases = []
    for name in MODELS:
        model = open_model(Config(model=name, device="cpu"))
        for budget in BUDGETS:
            config = Config(model=name, device="cpu", mode="adaptive")
            config = config.updated({"budget.compute": budget})
            segmenters = {way: build_session(model, config).segmenter for way in WAYS}
            row = {"model": name, "budget": budget, **timed(segmenters, clips)}
            print(json.dumps(row), flush=True)
            cases.append(row)
    content = {
        "command": "python benchmarks/joined_cameras.py CLIP CLIP",
        "clips": [Path(clip).name for clip in args.clips],
        "size": f"{SIZE[0]}x{SIZE[1]}",
        "frames": FRAMES,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
        "load_before": busy,
        "versions": versions(),
        "cases": cases,
    }
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
