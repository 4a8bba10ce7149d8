"""Time the dense network in ONNX Runtime against torch on the CPU, frame by frame; JSON out.

Each frame is computed by both in turns, from the same uint8 image and with as many threads. Torch
runs as in the node: BatchNorm folded, `channels_last`, in inference mode.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import statistics
import tempfile
import time
from typing import Any, TYPE_CHECKING

import onnxruntime
import torch

from seg_node.export.command import run_export, street_images
from seg_node.export.settings import ExportSettings
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], object]

SIZES = ((480, 360), (960, 720))
WARM_UP = 3
REST_S = 0.02
"""Before each frame: threads of the other run time, which wait for more work, fall asleep."""


def steps(model: str, size: tuple[int, int], threads: int) -> dict[str, Step]:
    """Return what computes one image of (width, height) in each run time."""
    images = street_images((size[1], size[0]), torch.uint8)[:1]
    net = load_model(model).net
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    # As the node has images: rows of RGB pixels.
    rows = images.contiguous(memory_format=torch.channels_last)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on taking the cores while torch has its turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        run_export(ExportSettings(model, Path(folder), size, ("dense",)))
        session = onnxruntime.InferenceSession(
            Path(folder) / "dense.onnx", options, providers=["CPUExecutionProvider"]
        )
    array = images.numpy()

    def in_torch() -> object:
        with torch.inference_mode():
            return net(rows)

    return {"torch": in_torch, "onnxruntime": lambda: session.run(None, {"image": array})}


def measure(run_times: dict[str, Step], frames: int) -> dict[str, list[float]]:
    """Return the milliseconds of every frame, one run time after the other in each."""
    times: dict[str, list[float]] = {name: [] for name in run_times}
    for index in range(WARM_UP + frames):
        for name, step in run_times.items():
            time.sleep(REST_S)
            start = time.perf_counter_ns()
            step()
            if index >= WARM_UP:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians with their quartiles, and how many times as fast ONNX Runtime is."""
    ratios = [a / b for a, b in zip(times["torch"], times["onnxruntime"], strict=True)]
    found: dict[str, Any] = {
        name: [round(value, 2) for value in statistics.quantiles(values)]
        for name, values in times.items()
    }
    found["torch_over_onnxruntime"] = [round(value, 3) for value in statistics.quantiles(ratios)]
    return found


def main() -> int:
    """Measure every model at every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["swiftnet18-half", "swiftnet18"])
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = round(os.getloadavg()[0], 1)
    runs = []
    for model in options.models:
        for size in SIZES:
            times = measure(steps(model, size, options.threads), options.frames)
            runs.append({"model": model, "size": list(size), "quartiles_ms": summary(times)})
            print(runs[-1], flush=True)
    result = {
        "command": f"python benchmarks/onnx_runtime.py --threads {options.threads}",
        "frames": options.frames,
        "threads": options.threads,
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        "machine": {
            "cpus": os.cpu_count(),
            "load_before": load,
            "nice": os.nice(0),
            "processor": platform.machine(),
        },
        "runs": runs,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
