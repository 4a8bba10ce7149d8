"""What mode adaptive computes of a still camera: one frame again and again, with sensor noise.

And how a still camera is told from one that moves: of which share of the picture motion explains
more than noise (`seg_node.core.motion.explained`), between the frames of the same recordings and
between noisy repetitions of their first one.

python benchmarks/still_camera.py camvid:DIR street:1 video:FILE --json FILE
"""

from __future__ import annotations

import argparse
from itertools import islice
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.config import Config
from seg_node.core.tracking import OnHost
from seg_node.core.types import Frame
from seg_node.data.datasets import guess_spec, open_source
from seg_node.eval.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

NOISE = (0.0, 2.0, 4.0)
"""Standard deviation of a pixel's noise, in grey levels."""
STRONG = 8.0
"""A stronger one: more than mode adaptive takes for noise, still told from motion."""
FEW = 20
RATE_HZ = 15.0
NS_PER_S = 1e9


def name_of(data: str) -> str:
    """Return what to call a source: a video by its file, another by its kind."""
    kind, _, place = data.partition(":")
    return Path(place).stem if kind == "video" else kind


def noisy(image: NDArray[np.float32], noise: float, count: int) -> Iterator[Frame]:
    """Yield an image again and again, with noise of its own each time."""
    rng = np.random.default_rng(0)
    for index in range(count):
        shown = np.clip(np.round(image + rng.normal(0, noise, image.shape)), 0, 255)
        yield Frame(shown.astype(np.uint8), round(index * NS_PER_S / RATE_HZ))


def first_image(data: str) -> NDArray[np.float32]:
    """Return the first image of a source, float32 [H, W, 3]."""
    return next(iter(open_source(guess_spec(data)))).frame.image.astype(np.float32)


def explained(frames: Iterable[Frame]) -> dict[str, float]:
    """Return of which share of the picture motion explains more than noise, frame by frame."""
    method, shares = OnHost(), []
    before, motion = None, None
    for frame in frames:
        picture = method.see(frame)
        if before is not None:
            motion = method.estimate(before, picture, 0, motion)
            shares.append(method.change(before, picture, motion).explained)
        before = picture
    return {name: float(how(shares)) for name, how in (("least", min), ("most", max))}


def tell_apart(data: str, frames: int) -> dict[str, Any]:
    """Return the ends of that share for a recording, and for its first frame with noise."""
    moving = (sample.frame for sample in islice(iter(open_source(guess_spec(data))), frames))
    image = first_image(data)
    still = {
        f"noise {noise:g}": explained(noisy(image, noise, FEW)) for noise in (*NOISE[1:], STRONG)
    }
    return {"data": name_of(data), "recording": explained(moving)} | still


def measure(data: str, noise: float, frames: int, config: Config) -> dict[str, Any]:
    """Return the share of dense MACs and of blocks that frames after the first one cost."""
    segmenter = open_session(config).segmenter
    reports = [segmenter.step(x).report for x in noisy(first_image(data), noise, frames)]
    shares = [report.macs / report.dense_macs for report in reports]
    return {
        "data": name_of(data),
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
        "explained_by_motion": [tell_apart(data, 2 * args.frames) for data in args.data],
    }
    print(json.dumps(content, indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
