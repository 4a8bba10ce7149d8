"""Times steps while torch's threads wait awake for long, as they do by default, or for less.

    PYTHONPATH=. python benchmarks/waiting_threads.py video:FILE \
        --json benchmarks/results/waiting_threads.json

GNU OpenMP reads how long when it is loaded (`seg_node.loops.stripes`): so every time is that of a
process of its own, and these take turns. Frames follow each other at once, or one comes every
`PERIOD_S`, as from a camera. CPU time is that of all threads, waiting awake included.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import islice
import json
import os
from pathlib import Path
from statistics import fmean
import subprocess
import sys
import time
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.eval.machine import describe_machine
from seg_node.eval.results import versions, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame

TURNS = (300_000, 30_000)
"""Turns of the loop in which threads wait; the first is what GNU OpenMP does by default."""

CASES = (
    ("swiftnet18", "960x720", "dense", 1.0),
    ("swiftnet18", "960x720", "adaptive", 0.07),
    ("swiftnet18-half", "960x720", "adaptive", 0.15),
    ("swiftnet18-half", "480x360", "adaptive", 0.15),
)
"""Model, size, mode, and budget.compute."""

ROUNDS, FRAMES, WARM_UP = 2, 40, 5
PERIOD_S = 0.2
PACES = {"at once": 0.0, f"every {PERIOD_S:g} s": PERIOD_S}


Figures = dict[str, float]


def measure(data: str, turns: int) -> list[dict[str, Figures]]:
    """Return the figures of each case at each pace, in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, data, "--child"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "GOMP_SPINCOUNT": str(turns)},
    )
    found: list[dict[str, Figures]] = json.loads(run.stdout.splitlines()[-1])
    return found


def steps(data: str) -> list[dict[str, Figures]]:
    """Return the same, of this process."""
    # Here, because it loads torch.
    from seg_node.core.config import Config
    from seg_node.data.datasets import open_source
    from seg_node.data.resizing import in_size, parse_size
    from seg_node.eval.session import build_session, open_model

    found = []
    for model, size, mode, compute in CASES:
        config = Config(device="cpu", model=model, mode=mode)
        config = config.updated({"budget.compute": compute})
        source = in_size(open_source(data), parse_size(size))
        frames = [sample.frame for sample in islice(source, FRAMES)]
        segmenter = build_session(open_model(config), config).segmenter
        for frame in frames[:WARM_UP]:
            segmenter.step(frame)
        figures = {}
        for pace, period_s in PACES.items():
            segmenter.reset()
            figures[pace] = played(segmenter, frames, period_s)
        found.append(figures)
    return found


def played(segmenter: Segmenter, frames: Sequence[Frame], period_s: float) -> Figures:
    """Return times of steps in milliseconds, without the first: it is computed in full."""
    start_s, took_ms, used_ms = time.perf_counter(), [], []
    for index, frame in enumerate(frames):
        time.sleep(max(0.0, start_s + index * period_s - time.perf_counter()))
        before_s = time.process_time()
        took_ms.append(segmenter.step(frame).report.total_ns / 1e6)
        used_ms.append((time.process_time() - before_s) * 1e3)
    most = float(np.percentile(took_ms[1:], 95))
    return {"mean_ms": fmean(took_ms[1:]), "p95_ms": most, "cpu_ms": fmean(used_ms[1:])}


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="a clip, as for seg_node bench")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(steps(args.data)))
        return
    runs: dict[int, list[list[dict[str, Figures]]]] = defaultdict(list)
    for number in range(ROUNDS):
        for turns in TURNS if number % 2 else reversed(TURNS):
            runs[turns].append(measure(args.data, turns))
    rows: list[dict[str, Any]] = []
    for index, (model, size, mode, compute) in enumerate(CASES):
        for pace in PACES:
            each = {turns: [run[index][pace] for run in runs[turns]] for turns in TURNS}
            means = {turns: _means(found) for turns, found in each.items()}
            rows.append({"model": model, "size": size, "mode": mode, "compute": compute,
                         "frames_come": pace, "by_turns": means})  # fmt: skip
            print(f"{model} {size} {mode}, {pace}: {means}")
    if args.json:
        kind, _, file = args.data.partition(":")
        found = {"data": f"{kind}:{Path(file).name}", "rounds": ROUNDS, "frames": FRAMES,
                 "rows": rows, "machine": describe_machine(), "versions": versions()}  # fmt: skip
        write_json(found, args.json)


def _means(runs: Sequence[Figures]) -> Figures:
    return {name: fmean(run[name] for run in runs) for name in runs[0]}


if __name__ == "__main__":
    main()
