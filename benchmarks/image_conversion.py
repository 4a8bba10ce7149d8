"""Times the conversion of one 1280x720 message per encoding; prints medians in ms as JSON.

python benchmarks/image_conversion.py [--repeat 50] [--json FILE]
"""

from __future__ import annotations

import argparse
from array import array
import json
from pathlib import Path
import statistics
import time
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.data.compressed_images import compressed_to_rgb, encode_jpeg
from seg_node.data.raw_images import image_to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT = 1280, 720


def raw(encoding: str, bytes_per_pixel: int, padding: int = 0, rows: int = HEIGHT) -> Any:
    """Return an image message with random content, its data in an array as rclpy has them."""
    step = WIDTH * bytes_per_pixel + padding
    data = array("B", np.random.default_rng(0).bytes(rows * step))
    return SimpleNamespace(
        width=WIDTH, height=HEIGHT, encoding=encoding, is_bigendian=0, step=step, data=data
    )


def jpeg() -> Any:
    """Return a compressed message; its picture is smooth noise, about as dense as a street."""
    coarse = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT)), np.uint8)
    return SimpleNamespace(format="rgb8; jpeg compressed bgr8", data=encode_jpeg(picture))


def main() -> None:
    """Time all messages in turn, so that a slow moment of the machine hits all alike."""
    parser = argparse.ArgumentParser(description="Times image conversion.")
    parser.add_argument("--repeat", type=int, default=50, help="conversions of each message")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    jobs: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "rgb8": (image_to_rgb, raw("rgb8", 3)),
        "rgb8_padded": (image_to_rgb, raw("rgb8", 3, padding=64)),
        "bgr8": (image_to_rgb, raw("bgr8", 3)),
        "bgr8_padded": (image_to_rgb, raw("bgr8", 3, padding=64)),
        "mono16": (image_to_rgb, raw("mono16", 2)),
        "bayer_rggb8": (image_to_rgb, raw("bayer_rggb8", 1)),
        "nv12": (image_to_rgb, raw("nv12", 1, rows=HEIGHT * 3 // 2)),
        "jpeg": (compressed_to_rgb, jpeg()),
    }
    times_ms: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(arguments.repeat):
        for name, (convert, message) in jobs.items():
            start = time.perf_counter()
            convert(message)
            times_ms[name].append((time.perf_counter() - start) * 1e3)
    result = {
        "size": [WIDTH, HEIGHT],
        "repeat": arguments.repeat,
        "threads": cv2.getNumThreads(),
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        "median_ms": {name: round(statistics.median(t), 4) for name, t in times_ms.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
