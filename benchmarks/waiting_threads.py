"""Times steps while torch's threads wait awake for long, as they do by default, or for less.

    PYTHONPATH=. python benchmarks/waiting_threads.py video:FILE \
        --json benchmarks/results/waiting_threads.json

GNU OpenMP reads how long when it is loaded (`seg_node.loops.spinning`): so every time is that of
a process of its own, and these take turns. A process where torch's threads wait for long runs
short loops on one thread.
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
from typing import Any

from seg_node.eval.machine import describe_machine
from seg_node.eval.results import versions, write_json
from seg_node.loops import spinning

TURNS = (300_000, 30_000, 3_000)
"""Turns of the loop in which threads wait; the first is what GNU OpenMP does by default."""

CASES = (
    ("swiftnet18", "960x720", "dense", 1.0),
    ("swiftnet18", "960x720", "adaptive", 0.07),
    ("swiftnet18-half", "960x720", "dense", 1.0),
    ("swiftnet18-half", "960x720", "adaptive", 0.15),
    ("swiftnet18-half", "480x360", "dense", 1.0),
    ("swiftnet18-half", "480x360", "adaptive", 0.15),
)
"""Model, size, mode, and budget.compute."""

ROUNDS, FRAMES = 3, 40
NS_PER_MS = 1e6


def measure(data: str, turns: int) -> list[float]:
    """Return the mean step of each case, in milliseconds, in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, data, "--child"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, spinning.VARIABLE: str(turns)},
    )
    found: list[float] = json.loads(run.stdout.splitlines()[-1])
    return found


def steps(data: str) -> list[float]:
    """Return the same, of this process."""
    # Here, because it loads torch.
    from seg_node.core.config import Config
    from seg_node.data.datasets import open_source
    from seg_node.data.resizing import in_size, parse_size
    from seg_node.eval.session import build_session, open_model

    means = []
    for model, size, mode, compute in CASES:
        config = Config(device="cpu", model=model, mode=mode)
        config = config.updated({"budget.compute": compute})
        segmenter = build_session(open_model(config), config).segmenter
        samples = islice(in_size(open_source(data), parse_size(size)), FRAMES)
        took_ns = [segmenter.step(sample.frame).report.total_ns for sample in samples]
        means.append(fmean(took_ns[FRAMES // 8 :]) / NS_PER_MS)
    return means


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
    each: dict[int, list[list[float]]] = defaultdict(list)
    for number in range(ROUNDS):
        for turns in TURNS[number % len(TURNS) :] + TURNS[: number % len(TURNS)]:
            each[turns].append(measure(args.data, turns))
    rows: list[dict[str, Any]] = []
    for index, (model, size, mode, compute) in enumerate(CASES):
        ms = {turns: fmean(run[index] for run in each[turns]) for turns in TURNS}
        rows.append({"model": model, "size": size, "mode": mode, "compute": compute, "ms": ms})
        told = ", ".join(f"{turns} turns {took:.1f} ms" for turns, took in ms.items())
        print(f"{model} {size} {mode}: {told}")
    if args.json:
        found = {"data": args.data, "rounds": ROUNDS, "frames": FRAMES, "rows": rows,
                 "machine": describe_machine(), "versions": versions()}  # fmt: skip
        write_json(found, args.json)


if __name__ == "__main__":
    main()
