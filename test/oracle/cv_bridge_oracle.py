"""Converts image messages with the real cv_bridge, in an environment where it works.

Debian's python3-cv-bridge needs NumPy 1 while the package's own environment has NumPy 2, so
`test/data/test_cv_bridge_oracle.py` runs this file with the interpreter of `.venv-oracle`:

    apt-get install python3-cv-bridge
    python3.11 -m venv .venv-oracle
    .venv-oracle/bin/pip install 'numpy<2' 'opencv-python-headless<4.12' ros-sensor-msgs
    .venv-oracle/bin/python test/oracle/cv_bridge_oracle.py CASES.json RESULTS.npz

CASES.json is a list of messages (name, encoding, width, height, step, is_bigendian, data in
hexadecimal). RESULTS.npz holds for each the RGB pictures NAME/cv_bridge, NAME/builtin and
NAME/chosen (by `choose_converter("cv_bridge")`); NAME/refused replaces the first where cv_bridge
raises. `versions` says what ran.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
import sys
from typing import Any

import cv2
import numpy as np

DEBIAN_PACKAGES = "/usr/lib/python3/dist-packages"


def main(cases_file: Path, results_file: Path) -> None:
    """Convert all cases and write the results."""
    sys.path.append(DEBIAN_PACKAGES)  # last: NumPy and OpenCV come from this environment
    raw_images = importlib.import_module("seg_node.data.raw_images")
    converters = importlib.import_module("seg_node.data.converters")
    cv_bridge = importlib.import_module("cv_bridge")
    chosen = converters.choose_converter("cv_bridge")
    results: dict[str, Any] = {
        "versions": f"NumPy {np.__version__}, OpenCV {cv2.__version__}, chose {chosen.name}"
    }
    for case in json.loads(cases_file.read_text(encoding="utf-8")):
        name, message = case["name"], _message(case)
        results[f"{name}/builtin"] = raw_images.image_to_rgb(message)
        results[f"{name}/chosen"] = chosen(message)
        try:
            results[f"{name}/cv_bridge"] = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
        except (cv_bridge.CvBridgeError, AttributeError) as error:
            results[f"{name}/refused"] = str(error)
    np.savez(results_file, **results)


def _message(case: dict[str, Any]) -> Any:
    """Return a case as a real `sensor_msgs/Image`."""
    message = importlib.import_module("sensor_msgs.msg").Image()
    for field in ("encoding", "width", "height", "step", "is_bigendian"):
        setattr(message, field, case[field])
    message.data.frombytes(bytes.fromhex(case["data"]))
    return message


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
