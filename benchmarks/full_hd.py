"""Count the masks that the real node returns for a camera of 1920x1080 at 20 Hz; JSON out.

The node runs in its own process, the camera in another, both with the shipped transport setting
(or the one already in the environment). The first images only warm up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import cv2

from seg_node.core.config import Config
from seg_node.core.types import SegNodeError
from seg_node.data.street import Street
from seg_node.ros.transport import (
    kernel_facts,
    RANGE_VARIABLE,
    shared_memory_bytes,
    transport_environment,
    VARIABLE,
)

WIDTH, HEIGHT, RATE_HZ, FRAMES, WARM_UP = 1920, 1080, 20.0, 60, 10
NEEDED = 57
PATIENCE_S = 120.0
LINGER_S = 3.0
PICTURES = 8
QUALITIES = ("best_effort", "reliable")
SHOWN = ("masks", "latency_ms")


def images() -> list[bytes]:
    """Return some frames of the synthetic street as RGB bytes."""
    street = Street(1, WIDTH // 4, HEIGHT // 4)
    small = [street.picture(5 * index)[0] for index in range(PICTURES)]
    return [cv2.resize(picture, (WIDTH, HEIGHT)).tobytes() for picture in small]


class Camera:
    """Sends images and notes when their masks come back."""

    def __init__(self, *, reliable: bool) -> None:
        """Join the ROS graph."""
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        rclpy.init()
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self.sent_ns: dict[int, int] = {}
        self.latency_ms: dict[int, float] = {}
        self._kind = Image
        self._node = rclpy.create_node("camera")
        qos = QoSProfile(depth=5, reliability=policy)
        self._publisher = self._node.create_publisher(Image, "image", qos)
        self._node.create_subscription(Image, "segmentation/mask", self._on_mask, 60)
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        threading.Thread(target=executor.spin, daemon=True).start()

    def wait_for_node(self) -> None:
        """Wait until the node subscribes.

        Raises:
            SegNodeError: it does not.

        """
        end = time.monotonic() + PATIENCE_S
        while not self._publisher.get_subscription_count():
            if time.monotonic() > end:
                msg = f"the node did not subscribe within {PATIENCE_S:g} s"
                raise SegNodeError(msg)
            time.sleep(0.1)
        time.sleep(1.0)

    def send(self, pixels: bytes) -> int:
        """Publish one image and return its stamp."""
        stamp_ns = time.time_ns()
        message = self._kind(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        message.header.frame_id = "camera"
        message.data.frombytes(pixels)
        self.sent_ns[stamp_ns] = time.monotonic_ns()
        self._publisher.publish(message)
        return stamp_ns

    def _on_mask(self, message: Any) -> None:
        now_ns = time.monotonic_ns()
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        whole = (message.width, message.height, message.encoding) == (WIDTH, HEIGHT, "mono8")
        if whole and stamp_ns in self.sent_ns:
            self.latency_ms[stamp_ns] = (now_ns - self.sent_ns[stamp_ns]) / 1e6


def play(camera: Camera, pictures: list[bytes], count: int) -> list[int]:
    """Send images at the camera's rate and return their stamps."""
    start = time.monotonic()
    stamps = []
    for index in range(count):
        time.sleep(max(0.0, start + index / RATE_HZ - time.monotonic()))
        stamps.append(camera.send(pictures[index % PICTURES]))
    return stamps


def run(scale: float, *, reliable: bool) -> dict[str, object]:
    """Start node and camera, play the clip and return what came back."""
    pictures = images()
    command = [sys.executable, "-m", "seg_node.ros.node", "--ros-args"]
    command += ["-p", f"input.scale:={scale}", "-p", "device:=cpu", "--log-level", "warn"]
    with subprocess.Popen(command) as node:
        try:
            camera = Camera(reliable=reliable)
            camera.wait_for_node()
            play(camera, pictures, WARM_UP)
            time.sleep(1.0)
            stamps = play(camera, pictures, FRAMES)
            time.sleep(LINGER_S)
        finally:
            node.terminate()
    came = [camera.latency_ms[stamp] for stamp in stamps if stamp in camera.latency_ms]
    sent_s = [camera.sent_ns[stamp] / 1e9 for stamp in stamps]
    return {
        "input_scale": scale,
        "camera_qos": "reliable" if reliable else "best_effort",
        "sent": len(stamps),
        "masks": len(came),
        "rate_hz": round((len(stamps) - 1) / (sent_s[-1] - sent_s[0]), 2),
        "latency_ms": round(statistics.median(came), 1) if came else None,
    }


def one(scale: float, qos: str) -> dict[str, Any]:
    """Run in a fresh process, because the setting must be made before rclpy starts."""
    environ = {key: value for key, value in os.environ.items() if key != RANGE_VARIABLE}
    environ |= transport_environment(environ)
    command = [sys.executable, __file__, "--run", qos, "--scales", str(scale)]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(result: dict[str, Any]) -> str:
    """Return the runs as docs/transport.md shows them."""
    lines = [
        "| input.scale | camera | masks of 60, each run | median ms, each run |",
        "|---|---|---|---|",
    ]
    rows: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        rows.setdefault((run["input_scale"], run["camera_qos"]), []).append(run)
    for (scale, qos), runs in sorted(rows.items()):
        masks, latencies = (", ".join(str(run[key]) for run in runs) for key in SHOWN)
        lines.append(f"| {scale} | {qos.replace('_', ' ')} | {masks} | {latencies} |")
    return "\n".join(lines)


def main() -> int:
    """Measure all scales; the exit status is 1 if the smallest brings too few masks back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.125, 0.25])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--table", type=Path, help="print the table of an earlier result")
    parser.add_argument("--run", choices=QUALITIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.scales[0], reliable=options.run == "reliable")))
        return 0
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return 0
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    runs = []
    for _ in range(options.repeats):
        for scale, qos in itertools.product(options.scales, QUALITIES):
            runs.append(one(scale, qos))
            print(runs[-1], flush=True)
    result = {
        "command": "python benchmarks/full_hd.py",
        "model": Config().model,
        "setting": os.environ.get(VARIABLE) or transport_environment(os.environ).get(VARIABLE),
        "machine": {
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "nice": os.nice(0),
            "shared_memory_bytes": shared_memory_bytes(),
            "kernel": kernel_facts(),
        },
        "runs": runs,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    smallest = min(options.scales)
    masks = [run["masks"] for run in runs if run["input_scale"] == smallest]
    return 1 if min(masks) < NEEDED else 0


if __name__ == "__main__":
    sys.exit(main())
