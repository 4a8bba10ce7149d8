"""Print how many frames of the synthetic street one core makes in a second, as JSON.

Wall times suffer from other programs on the machine; the CPU time of the process suffers less,
and the fastest tenth of the frames least.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.data.street import Street

if TYPE_CHECKING:
    from collections.abc import Callable


def measure(work: Callable[[int], object], count: int) -> dict[str, float]:
    """Run work(0) .. work(count - 1) and return frames per second and CPU milliseconds."""
    wall, cpu = np.empty(count), np.empty(count)
    for index in range(count):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        work(index)
        wall[index] = time.perf_counter() - wall_start
        cpu[index] = time.process_time() - cpu_start
    return {
        "fps_mean": round(1 / wall.mean(), 1),
        "fps_fastest_tenth": round(1 / np.quantile(wall, 0.1), 1),
        "cpu_ms_median": round(1e3 * float(np.median(cpu)), 2),
        "cpu_ms_fastest_tenth": round(1e3 * float(np.quantile(cpu, 0.1)), 2),
    }


def main() -> None:
    """Measure render, picture and construction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=360)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    size = (options.width, options.height)
    street = Street(1, *size)
    for index in range(0, options.frames, 10):  # draws the shared pictures
        street.picture(index)
    results = {
        "size": list(size),
        "render": measure(street.render, options.frames),
        "picture": measure(lambda index: street.picture(index + 1), options.frames),
        "construct": measure(lambda index: Street(100 + index, *size), 50),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
