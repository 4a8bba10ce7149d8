"""Three cameras at 640x360 under one latency budget: who gets what, and is nobody starved.

    python benchmarks/three_cameras.py CLIP CLIP --rate 8 --budget-ms 35 \
        --json benchmarks/results/three_cameras.json

Front and left play a clip each to and fro; right looks at the street's first image, which does not
move. All come at one rate in real time, from a thread each, through the turns that the node takes;
what waits at one time is computed together, as in the node, and in a second run one by one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
import json
from pathlib import Path
import platform
import threading
import time
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.config import Config
from seg_node.core.intake import Turns
from seg_node.core.types import Action, Frame
from seg_node.data.datasets import guess_spec, open_source
from seg_node.eval.session import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import StepResult

SIZE = (640, 360)
NAMES = ("front", "left", "right")
WARM_UP_S = 3.0
NOISE = 2.0
"""Standard deviation, in grey levels, of the noise of the camera that sees nothing move."""
NS_PER_S = 1e9


@dataclass
class Served:
    """What one camera got after the warm-up.

    Attributes:
        step_ms: of its frames.
        high: share of HIGH blocks of its frames.
        gap_s: time from mask to mask.

    """

    step_ms: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)

    def add(self, result: StepResult, gap_s: float) -> None:
        """Note a frame."""
        self.step_ms.append(result.report.total_ns / 1e6)
        self.high.append(result.plan.fraction(Action.HIGH))
        self.gap_s.append(gap_s)


def read(data: str) -> list[NDArray[np.uint8]]:
    """Return the images of a clip at the cameras' size."""
    images = (sample.frame.image for sample in open_source(guess_spec(data)))
    return [
        np.asarray(cv2.resize(x, SIZE, interpolation=cv2.INTER_AREA), np.uint8) for x in images
    ]


def noisy(image: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Return an image as a camera sees it again and again."""
    rng = np.random.default_rng(0)
    return [
        np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def feed(
    turns: Turns[Frame], name: str, images: list[NDArray[np.uint8]], rate_hz: float, end_s: float
) -> None:
    """Put a camera's frames in real time, to and fro, until a time from now."""
    order = [*range(len(images) - 1), *range(len(images) - 1, 0, -1)]
    begin = time.monotonic()
    for index in range(round(end_s * rate_hz)):
        time.sleep(max(0.0, begin + index / rate_hz - time.monotonic()))
        stamp_ns = round(index * NS_PER_S / rate_hz)
        turns[name].put(Frame(images[order[index % len(order)]], stamp_ns, camera=name))


def serve(
    clips: dict[str, Any], config: Config, rate_hz: float, seconds: float, *, together: bool
) -> dict[str, Any]:
    """Run all cameras, and return what each of them got."""
    segmenter = open_session(config).segmenter
    segmenter.warm_up(SIZE[1], SIZE[0])
    turns: Turns[Frame] = Turns(clips)
    feeders = [
        threading.Thread(target=feed, args=(turns, name, images, rate_hz, seconds))
        for name, images in clips.items()
    ]
    begin = time.monotonic()
    for feeder in feeders:
        feeder.start()
    served: dict[str, Served] = {name: Served() for name in clips}
    last: dict[str, float] = defaultdict(lambda: begin)
    while (first := turns.take(1.0)) is not None:
        waiting = [first]
        while together and (more := turns.take(0.0, without=[name for name, _ in waiting])):
            waiting.append(more)
        results = segmenter.step_together([frame for _, frame in waiting])
        now = time.monotonic()
        for (name, _), result in zip(waiting, results, strict=True):
            if now - begin > WARM_UP_S:
                served[name].add(result, now - last[name])
            last[name] = now
    rows = {
        name: {
            "masks_per_s": len(got.step_ms) / (seconds - WARM_UP_S),
            "dropped": turns[name].dropped,
            "mean_ms": float(np.mean(got.step_ms)),
            "mean_high": float(np.mean(got.high)),
            "longest_gap_ms": float(max(got.gap_s) * 1e3),
        }
        for name, got in served.items()
    }
    steps = np.concatenate([got.step_ms for got in served.values()])
    return {"mean_of_budget": float(steps.mean() / config.budget.latency_ms), "cameras": rows}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs=2, help="named data or paths of two clips")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second of each camera")
    parser.add_argument("--budget-ms", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    still = noisy(read("street:1")[0], 20)
    clips = dict(zip(NAMES, (*(read(clip) for clip in args.clips), still), strict=True))
    config = Config(mode="adaptive", device="cpu").updated({"budget.latency_ms": args.budget_ms})
    ways = {
        way: serve(clips, config, args.rate, args.seconds, together=way == "together")
        for way in ("together", "one by one")
    }
    content = {
        "command": "python benchmarks/three_cameras.py CLIP CLIP",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, float32",
        "model": config.model,
        "size": f"{SIZE[0]}x{SIZE[1]}",
        "rate_hz": args.rate,
        "budget_ms": args.budget_ms,
        "ways": ways,
    }
    print(json.dumps(content, indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
