"""How soon the node answers `ros2 param set` while it is busy: set, answer, next frame.

The real node segments a street that comes faster than it can compute; meanwhile a client sets
`budget.compute` again and again, as `ros2 param set` does, and waits for each answer.

    python benchmarks/live_parameters.py --json benchmarks/results/live_parameters.json
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
import platform
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from seg_node.data.datasets import open_source
from seg_node.ros.domain import private_environment

RATE_HZ = 60.0
BETWEEN_S = 0.05
SETTLED = 10
"""Masks after which the node has allocated what it needs."""


class Client:
    """Plays images from a thread of its own, and sets a parameter of the node."""

    def __init__(self, frames: int) -> None:
        """Create the ROS node, and draw the images."""
        from rcl_interfaces.srv import SetParameters
        import rclpy
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        rclpy.init()
        self.rclpy = rclpy
        self.node: Any = rclpy.create_node("client")
        self.publisher = self.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.masks = 0
        self.node.create_subscription(Image, "segmentation/mask", self._count, 10)
        self.setter = self.node.create_client(SetParameters, "segmentation/set_parameters")
        self.images = []
        for sample, _ in zip(open_source("street:1"), range(frames), strict=False):
            pixels = sample.frame.image
            height, width = pixels.shape[:2]
            image = Image(height=height, width=width, encoding="rgb8", step=width * 3)
            image.data.frombytes(pixels.tobytes())
            self.images.append(image)
        self.playing = threading.Event()
        self.playing.set()

    def _count(self, _: Any) -> None:
        self.masks += 1

    def play(self) -> None:
        """Publish images until `playing` is cleared."""
        index = 0
        while self.playing.is_set():
            image = self.images[index % len(self.images)]
            image.header.stamp = self.node.get_clock().now().to_msg()
            self.publisher.publish(image)
            index += 1
            time.sleep(1 / RATE_HZ)

    def spin(self, seconds: float) -> None:
        """Serve callbacks for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.rclpy.spin_once(self.node, timeout_sec=left)

    def set(self, value: float) -> float:
        """Set budget.compute and return how many ms the answer took."""
        from rclpy.parameter import Parameter

        parameter = Parameter("budget.compute", value=value).to_parameter_msg()
        request = self.setter.srv_type.Request(parameters=[parameter])
        begin = time.monotonic()
        future = self.setter.call_async(request)
        self.rclpy.spin_until_future_complete(self.node, future, timeout_sec=10.0)
        (result,) = future.result().results
        if not result.successful:
            raise SystemExit(result.reason)
        return (time.monotonic() - begin) * 1e3


def measure(times: int) -> dict[str, Any]:
    """Run node and client, and return how long answers took."""
    node = subprocess.Popen([sys.executable, "-m", "seg_node.cli", "run"])
    try:
        client = Client(60)
        while not (client.publisher.get_subscription_count() and client.setter.service_is_ready()):
            client.spin(0.1)
        player = threading.Thread(target=client.play)
        player.start()
        while client.masks < SETTLED:
            client.spin(0.1)
        masks, begin, answers = client.masks, time.monotonic(), []
        for index in range(times):
            answers.append(client.set(0.2 if index % 2 else 0.4))
            client.spin(BETWEEN_S)
        seconds = time.monotonic() - begin
        client.playing.clear()
        player.join()
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(30)
    height, width = client.images[0].height, client.images[0].width
    return {
        "what": "time from a call of set_parameters to its answer, node at full load",
        "image": f"{width}x{height} rgb8 at {RATE_HZ:.0f} Hz",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "masks_per_s": round((client.masks - masks) / seconds, 2),
        "calls": times,
        "answer_ms": {
            "p50": round(float(np.percentile(answers, 50)), 2),
            "p95": round(float(np.percentile(answers, 95)), 2),
            "p99": round(float(np.percentile(answers, 99)), 2),
            "max": round(max(answers), 2),
        },
        "goal_ms": 100.0,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.update(private_environment(os.environ, os.getpid()))
    result = measure(args.times)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
