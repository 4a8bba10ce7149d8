"""Page faults and time of a step, with freed memory kept and given back (`core/heap.py`).

    PYTHONPATH=. python benchmarks/page_faults.py video:FILE \
        --json benchmarks/results/page_faults.json

Every case runs in a process of its own, its frames in a thread that is not the first, as in the
node. The kernel's time is summed over all threads; all figures are medians over the frames.
"""

from __future__ import annotations

import argparse
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
import json
import multiprocessing
from pathlib import Path
import resource
from statistics import median
from threading import Thread
import time
from typing import Any

import cv2
import numpy as np
import torch

from seg_node.core.config import Config
from seg_node.core.heap import keep_freed_memory
from seg_node.data.datasets import open_source
from seg_node.eval.results import versions
from seg_node.eval.session import build_session
from seg_node.nets.build import model_for

SIZE = (960, 720)
WARM = 8
"""Frames before those that count: the heap grows for some."""


def measured(data: str, model: str, mode: str, frames: int, *, keep: bool) -> dict[str, float]:
    """Step through a video in a thread, and return what a frame costs."""
    if keep and not keep_freed_memory():
        msg = "malloc of this process cannot be told to keep memory: unset MALLOC_*, on glibc"
        raise SystemExit(msg)
    torch.set_num_threads(2)
    config = Config(model=model, mode=mode, device="cpu").updated({"budget.compute": 0.15})
    segmenter = build_session(model_for(config), config).segmenter
    samples = islice(open_source(data).every(1), WARM + frames)
    shown = [sample.frame for sample in samples]
    rows: deque[tuple[float, int, float]] = deque(maxlen=frames)

    def run() -> None:
        for frame in shown:
            small = replace(frame, image=np.asarray(cv2.resize(frame.image, SIZE), np.uint8))
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            segmenter.step(small)
            took = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_SELF)
            rows.append(
                (took, after.ru_minflt - before.ru_minflt, after.ru_stime - before.ru_stime)
            )

    thread = Thread(target=run)
    thread.start()
    thread.join()
    took, faults, kernel = (median(column) for column in zip(*rows, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "step_ms": round(1e3 * took, 1),
        "page_faults": int(faults),
        "kernel_ms": round(1e3 * kernel, 1),
        "peak_mb": peak,
    }


def main() -> None:
    """Measure all cases, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="a real clip, such as video:FILE")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    fresh = multiprocessing.get_context("spawn")
    for model in ("swiftnet18", "swiftnet18-half"):
        for mode in ("dense", "stmg", "adaptive"):
            for keep in (False, True):
                with ProcessPoolExecutor(1, fresh) as pool:
                    job = pool.submit(measured, args.data, model, mode, args.frames, keep=keep)
                    found = job.result()
                rows.append({"model": model, "mode": mode, "kept": keep, **found})
                print(rows[-1], flush=True)
    size = "x".join(map(str, SIZE))
    data = f"video:{Path(args.data.partition(':')[2]).name} at {size}, {args.frames} frames"
    result = {"data": data, "threads": 2, "versions": versions(), "rows": rows}
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
