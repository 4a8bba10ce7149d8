"""How far estimated motion is from the exact motion of streets: matching against DIS; JSON out.

    PYTHONPATH=. python benchmarks/matching.py --json benchmarks/results/matching.json

Frames 20 to 24 of each street, 480x360 at 15 Hz, each estimated from the one before; `started`:
from the motion of the frame before, as the trackers do. Errors are the length of the difference
from the exact flow in pixels, over all pixels whose surface was seen in the frame before. On a
machine with a GPU the kernels are measured too, and timed there; times on a CPU are those of
one thread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.matching import estimate_flow, TorchMatcher
from seg_node.core.motion import still
from seg_node.core.types import Motion
from seg_node.data.street import Street
from seg_node.eval.results import versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seg_node.core.matching import Matcher

    Grey = NDArray[np.uint8]
    Flow = NDArray[np.float32]
    Estimate = Callable[[Grey, Grey, Flow | None], Flow]

SEEDS = (1, 7, 12)
FIRST, LAST = 20, 24
FAR_PX = 3.0


def by_dis(preset: int | None) -> Estimate:
    """Return an estimate by OpenCV's DIS: by a preset of it, or as the node uses it."""
    estimator = FlowEstimator(preset)

    def estimate(before: Grey, image: Grey, start: Flow | None) -> Flow:
        known = None
        if start is not None:
            height, width = image.shape
            known = Motion(start, still((height, width)).valid)
        return estimator.estimate(before, image, start=known).flow

    return estimate


def by_matching(matcher: Matcher, device: str) -> Estimate:
    """Return an estimate by matching, on a device."""

    def estimate(before: Grey, image: Grey, start: Flow | None) -> Flow:
        old, new = (torch.from_numpy(plane).to(device).float() for plane in (before, image))
        known = None if start is None else torch.from_numpy(start).to(device)
        flow: Flow = estimate_flow(old, new, matcher, known).cpu().numpy()
        return flow

    return estimate


def estimates() -> dict[str, Estimate]:
    """Return every way to estimate that this machine has."""
    found = {
        "dis": by_dis(None),
        "dis ultrafast": by_dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
        "dis fast": by_dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
        "matching": by_matching(TorchMatcher(), "cpu"),
    }
    if torch.cuda.is_available():
        from seg_node.kernels.matching import TritonMatcher  # not installed everywhere

        found["matching triton"] = by_matching(TritonMatcher(), "cuda")
    return found


def measure(estimate: Estimate, *, started: bool) -> dict[str, Any]:
    """Return the errors of an estimate over all streets, and the milliseconds of each."""
    errors, times_ms = [], []
    for seed in SEEDS:
        street = Street(seed)
        shots = [street.render(index) for index in range(FIRST, LAST + 1)]
        greys = [work_image(shot.frame.image) for shot in shots]
        start = None
        for index in range(1, len(shots)):
            begun = time.perf_counter()
            flow = estimate(greys[index - 1], greys[index], start)
            times_ms.append((time.perf_counter() - begun) * 1e3)
            error = np.linalg.norm(flow - shots[index].flow, axis=-1)
            errors.append(error[~shots[index].occluded])
            start = flow if started else None
    return {
        "mean_px": round(float(np.mean([error.mean() for error in errors])), 4),
        "median_px": round(float(np.mean([np.median(error) for error in errors])), 4),
        "beyond_3_px": round(float(np.mean([(error > FAR_PX).mean() for error in errors])), 4),
        "median_ms": round(float(np.median(times_ms)), 2),
    }


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    runs = {
        f"{name}{', started' if started else ''}": measure(estimate, started=started)
        for name, estimate in estimates().items()
        for started in (False, True)
    }
    result = {
        "command": "PYTHONPATH=. python benchmarks/matching.py",
        "streets": list(SEEDS),
        "frames": [FIRST, LAST],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "runs": runs,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
