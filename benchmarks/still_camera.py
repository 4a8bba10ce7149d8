"""What mode adaptive computes of a still camera: one frame again and again, with sensor noise.

python benchmarks/still_camera.py camvid:DIR street:1 video:FILE --json FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from seg_node.core.config import Config
from seg_node.core.types import Frame
from seg_node.data.datasets import guess_spec, open_source
from seg_node.eval.session import open_session

NOISE = (0.0, 2.0, 4.0)
"""Standard deviation of a pixel's noise, in grey levels."""
RATE_HZ = 15.0
NS_PER_S = 1e9


def measure(data: str, noise: float, frames: int, config: Config) -> dict[str, Any]:
    """Return the share of dense MACs and of blocks that frames after the first one cost."""
    image = next(iter(open_source(guess_spec(data)))).frame.image.astype(np.float32)
    rng = np.random.default_rng(0)
    segmenter = open_session(config).segmenter
    shares = []
    for index in range(frames):
        noisy = np.clip(np.round(image + rng.normal(0, noise, image.shape)), 0, 255)
        frame = Frame(noisy.astype(np.uint8), round(index * NS_PER_S / RATE_HZ))
        report = segmenter.step(frame).report
        shares.append(report.macs / report.dense_macs)
    return {
        "data": data.partition(":")[0],
        "noise": noise,
        "mean_of_dense": float(np.mean(shares[1:])),
        "most_of_dense": float(np.max(shares[1:])),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = Config(mode="adaptive", device="cpu")
    rows = [measure(data, noise, args.frames, config) for data in args.data for noise in NOISE]
    content = {
        "command": "python benchmarks/still_camera.py",
        "model": config.model,
        "rate_hz": RATE_HZ,
        "frames": args.frames,
        "budget_compute": config.budget.compute,
        "max_age_ms": config.max_age_ms,
        "rows": rows,
    }
    print(json.dumps(content, indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
