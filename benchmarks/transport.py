"""Count how many large images arrive from another process, by transport setting; JSON out.

Every run is two fresh processes: a camera that sends 60 raw images of 1920x1080 at 20 Hz, and a
reader like the node's: depth 1, callback returns at once. The camera's process may have another
setting than the reader's, as on a robot whose driver was not started by our launch file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from seg_node.ros.transport import (
    kernel_facts,
    LOCAL_ONLY,
    RANGE_VARIABLE,
    shared_memory_bytes,
    SHIPPED,
    VARIABLE,
)

WIDTH, HEIGHT, RATE_HZ, FRAMES = 1920, 1080, 20.0, 60
MATCH_S = 10.0
LINGER_S = 2.0
RANGE = RANGE_VARIABLE
PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
XML = Path(__file__).with_name("transport_64MB.xml")
SETTINGS = {
    "default": {},
    "LARGE_DATA": {VARIABLE: "LARGE_DATA"},
    "LARGE_DATA tuned": {
        VARIABLE: "LARGE_DATA?max_msg_size=10MB&sockets_size=20MB&non_blocking=true"
    },
    "SHM 32MB": {VARIABLE: LOCAL_ONLY},
    "DEFAULT 8MB": {VARIABLE: "DEFAULT?sockets_size=8MB"},
    "DEFAULT 32MB": {VARIABLE: SHIPPED},
    "localhost": {RANGE: "LOCALHOST"},
    "localhost DEFAULT 32MB": {VARIABLE: SHIPPED, RANGE: "LOCALHOST"},
    "XML 64MB": {PROFILE: XML.name},
    "localhost XML 64MB": {PROFILE: XML.name, RANGE: "LOCALHOST"},
}
"""Label -> variables of a process; without any, everything is as ROS and Fast DDS have it."""
PAIRS = [(label, label) for label in SETTINGS] + [
    ("default", "DEFAULT 32MB"),
    ("DEFAULT 32MB", "default"),
    ("default", "SHM 32MB"),
    ("default", "LARGE_DATA"),
]
"""(camera's setting, reader's setting)."""


def quality(reliable: bool, depth: int) -> Any:  # noqa: FBT001 - one of two qualities
    """Return the QoS of camera and reader."""
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=policy)


def publish(*, reliable: bool) -> dict[str, object]:
    """Send the images; return how many, and how long a publish took."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "image", quality(reliable, depth=5))
    end = time.monotonic() + MATCH_S
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.05)
    matched = bool(publisher.get_subscription_count())
    time.sleep(1.0)  # the reader's side of the match
    pixels = bytes(WIDTH * HEIGHT * 3)
    durations_ms = []
    start = time.monotonic()
    for index in range(FRAMES if matched else 0):
        time.sleep(max(0.0, start + index / RATE_HZ - time.monotonic()))
        now_ns = time.monotonic_ns()
        message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        message.data.frombytes(pixels)
        publisher.publish(message)
        durations_ms.append((time.monotonic_ns() - now_ns) / 1e6)
    took_s = time.monotonic() - start
    time.sleep(LINGER_S)
    node.destroy_node()
    rclpy.shutdown()
    return {
        "matched": matched,
        "sent": len(durations_ms),
        "rate_hz": round((len(durations_ms) - 1) / took_s, 2) if matched else 0.0,
        "publish_ms": round(statistics.median(durations_ms), 2) if matched else None,
    }


def receive(*, reliable: bool) -> dict[str, object]:
    """Count images until standard input ends; return the count and the median latency."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("reader")
    latencies_ms: list[float] = []

    def on_image(message: Any) -> None:
        stamp = message.header.stamp
        latencies_ms.append((time.monotonic_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e6)

    node.create_subscription(Image, "image", on_image, quality(reliable, depth=1))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    middle = round(statistics.median(latencies_ms), 1) if latencies_ms else None
    return {"received": len(latencies_ms), "latency_ms": middle}


def environment(setting: str) -> dict[str, str]:
    """Return the environment of one process."""
    env = {
        key: value for key, value in os.environ.items() if key not in (VARIABLE, RANGE, PROFILE)
    }
    env |= SETTINGS[setting]
    return {**env, PROFILE: str(XML)} if PROFILE in env else env


def run(camera: str, reader: str, *, reliable: bool) -> dict[str, object]:
    """Run one pair of processes and return what both say."""
    command = [sys.executable, __file__, *(["--reliable"] if reliable else []), "--role"]
    with subprocess.Popen(
        [*command, "receive"],
        env=environment(reader),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as listener:
        sent = subprocess.run(
            [*command, "publish"],
            env=environment(camera),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        heard, _ = listener.communicate()
    last = json.loads(sent.stdout.splitlines()[-1])
    return {**last, **json.loads(heard.splitlines()[-1])}


def summary(camera: str, reader: str, runs: list[dict[str, Any]], quality_name: str) -> Any:
    """Return the row of one pair and quality."""
    return {
        "camera": camera,
        "reader": reader,
        "camera_environment": SETTINGS[camera],
        "reader_environment": SETTINGS[reader],
        "qos": quality_name,
        "received": [item["received"] for item in runs],
        "latency_ms": [item["latency_ms"] for item in runs],
        "publish_ms": [item["publish_ms"] for item in runs],
        "sent": [item["sent"] for item in runs],
    }


def measure(pairs: list[tuple[str, str]], repeats: int) -> dict[str, object]:
    """Run every pair in both qualities, repeated in turns, and return all rows."""
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for turn in range(repeats):
        for camera, reader in pairs:
            for name in ("best_effort", "reliable"):
                item = run(camera, reader, reliable=name == "reliable")
                runs.setdefault((camera, reader, name), []).append(item)
                print(f"{turn + 1}/{repeats} {camera} -> {reader}, {name}: {item}", flush=True)
    return {
        "command": "python benchmarks/transport.py",
        "images": {"width": WIDTH, "height": HEIGHT, "encoding": "rgb8", "rate_hz": RATE_HZ},
        "frames": FRAMES,
        "shipped": SHIPPED,
        "machine": {
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "nice": os.nice(0),
            "shared_memory_bytes": shared_memory_bytes(),
            "kernel": kernel_facts(),
        },
        "rows": [
            summary(camera, reader, items, name) for (camera, reader, name), items in runs.items()
        ],
    }


def shown(values: list[Any]) -> str:
    """Return the range of some values, "-" if there is none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    return str(known[0]) if known[0] == known[-1] else f"{known[0]}-{known[-1]}"


def table(result: dict[str, Any]) -> str:
    """Return the rows as docs/transport.md shows them: least and most of the repeats."""
    columns: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result["rows"]:
        columns.setdefault((row["camera"], row["reader"]), {})[row["qos"]] = row
    lines = [
        "| camera | reader | best effort: of 60 | ms | reliable: of 60 | ms |",
        "|---|---|---|---|---|---|",
    ]
    for (camera, reader), qualities in columns.items():
        cells = [camera, reader]
        for row in (qualities["best_effort"], qualities["reliable"]):
            matched = any(row["sent"])
            cells.append(shown(row["received"]) if matched else "no connection")
            cells.append(shown(row["latency_ms"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all pairs, or play one role of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="pairs whose labels contain this")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--table", type=Path, help="print the table of an earlier result")
    parser.add_argument("--role", choices=["publish", "receive"], help=argparse.SUPPRESS)
    parser.add_argument("--reliable", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        roles = {"publish": publish, "receive": receive}
        print(json.dumps(roles[options.role](reliable=options.reliable)))
        return
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    pairs = [pair for pair in PAIRS if not options.only or options.only in "->".join(pair)]
    result = measure(pairs, options.repeats)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
