"""Start a node's executable, wait until it is on the ROS graph, interrupt it, want exit 0.

Usage: start_and_stop.py EXECUTABLE [NODE_NAME]
"""  # noqa: INP001 - a script of CI, not a package

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

START_S = 120.0
"""Importing torch alone takes several seconds, more on a busy machine."""
STOP_S = 30.0


def main(executable: str, node_name: str = "segmentation") -> int:
    """Return 0 if the node came up and ended with exit status 0 after SIGINT."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    import rclpy  # noqa: PLC0415, TID251 - a script of CI; reads the two settings above

    with subprocess.Popen([executable]) as process:  # noqa: S603 - CI names its own executable
        try:
            rclpy.init()
            observer = rclpy.create_node("start_and_stop")
            end = time.monotonic() + START_S
            while node_name not in observer.get_node_names():
                if process.poll() is not None:
                    sys.exit(f"{executable} ended by itself with status {process.returncode}")
                if time.monotonic() > end:
                    sys.exit(f"{executable}: no node {node_name!r} after {START_S:.0f} s")
                time.sleep(0.2)
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            status = process.wait(STOP_S)
        finally:
            process.kill()
            rclpy.try_shutdown()
    print(f"{executable}: up, interrupted, exit status {status}")  # noqa: T201 - its result
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
