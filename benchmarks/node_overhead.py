"""CPU time that the node costs beyond `Segmenter.step`: 1280x720 rgb8 in, mono8 mask out.

The real node runs in its own process over real DDS, with one change: `Segmenter.step` returns a
ready result at once. So the CPU time of that process is what receiving, converting, publishing
and reporting cost. The time of the idle process is measured first and subtracted.

    python benchmarks/node_overhead.py --json benchmarks/results/node_overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from seg_node.ros.domain import private_environment

WIDTH, HEIGHT = 1280, 720
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
QUICK_NODE = """
import sys
import numpy as np
from seg_node.core.pipeline import Segmenter
from seg_node.core.types import Action, Plan, Reason, StepReport, StepResult
from seg_node.ros.node import main
grid = np.full((23, 40), Action.HIGH, np.uint8)
mask = np.zeros((720, 1280), np.uint8)
report = StepReport({"execute": 1}, 1, 1, 1)
ready = StepResult(mask, mask, Plan(grid, Reason.DENSE), np.zeros((23, 40), np.uint16), report)
Segmenter.step = lambda self, frame, *more: ready
sys.exit(main(["node", "--ros-args", "--log-level", "warn"]))
"""


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Camera:
    """Publishes one noise image again and again, and counts the masks that come back."""

    def __init__(self) -> None:
        """Create the ROS node, its publisher and its subscription."""
        import rclpy
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        rclpy.init()
        self.rclpy = rclpy
        self.node: Any = rclpy.create_node("camera")
        self.publisher = self.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.masks = 0
        self.node.create_subscription(Image, "segmentation/mask", self._count, 10)
        pixels = np.random.default_rng(0).integers(0, 256, HEIGHT * WIDTH * 3).astype(np.uint8)
        self.image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3)
        self.image.data.frombytes(pixels.tobytes())

    def _count(self, message: Any) -> None:
        assert (message.height, message.width) == (HEIGHT, WIDTH)
        self.masks += 1

    def spin(self, seconds: float) -> None:
        """Serve callbacks for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.rclpy.spin_once(self.node, timeout_sec=left)

    def play(self, frames: int, rate_hz: float) -> None:
        """Publish frames at a rate."""
        for _ in range(frames):
            self.image.header.stamp = self.node.get_clock().now().to_msg()
            self.publisher.publish(self.image)
            self.spin(1.0 / rate_hz)


def measure(frames: int, rate_hz: float) -> dict[str, Any]:
    """Run node and camera, and return milliseconds of CPU time per frame."""
    node = subprocess.Popen([sys.executable, "-c", QUICK_NODE])
    try:
        camera = Camera()
        while not camera.publisher.get_subscription_count():
            camera.spin(0.1)
        camera.play(20, rate_hz)  # the first frames allocate
        idle_from = cpu_s(node.pid)
        camera.spin(5.0)
        idle_s = (cpu_s(node.pid) - idle_from) / 5.0
        masks, busy_from, begin = camera.masks, cpu_s(node.pid), time.monotonic()
        camera.play(frames, rate_hz)
        camera.spin(1.0)
        seconds = time.monotonic() - begin
        returned = camera.masks - masks
        busy_s = cpu_s(node.pid) - busy_from - idle_s * seconds
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(30)
    return {
        "what": "CPU time of the node process per frame beyond step",
        "image": f"{WIDTH}x{HEIGHT} rgb8 in, mono8 mask and stats out",
        "sent": frames,
        "returned": returned,
        "rate_hz": rate_hz,
        "idle_cpu_share": round(idle_s, 4),
        "overhead_ms_per_frame": round(busy_s / max(1, returned) * 1e3, 3),
        "goal_ms": 3.0,
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print and optionally write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.update(private_environment(os.environ, os.getpid()))
    result = measure(args.frames, args.rate)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
