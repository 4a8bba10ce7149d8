"""The example that makes a labelled bag: what it writes is what the data hold."""

from __future__ import annotations

from itertools import islice
import os
from pathlib import Path
import subprocess
import sys

import numpy as np

from seg_node.core.types import CAMVID_CLASSES
from seg_node.data.bag_clip import BagClip
from seg_node.data.clips import StreetClip

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the example as a user does."""
    command = [sys.executable, "examples/labelled_bag.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_frames_labels_and_classes_arrive(tmp_path: Path) -> None:
    out = tmp_path / "bag"
    done = run("street:5", str(out), "--frames", "3")
    assert (done.returncode, done.stdout) == (0, f"3 frames, bag:{out}\n")
    clip = BagClip(out, None, "/camera/truth")
    assert clip.topic.name == "/camera/image"
    assert clip.classes == CAMVID_CLASSES
    stamps = []
    for found, drawn in zip(clip, islice(StreetClip(5), 3), strict=True):
        assert np.array_equal(found.frame.image, drawn.frame.image)
        assert found.labels is not None
        assert drawn.labels is not None
        assert np.array_equal(found.labels, drawn.labels)
        stamps.append(found.frame.stamp_ns - drawn.frame.stamp_ns)
    assert stamps == [10**18] * 3
    again = run("street:5", str(out), "--frames", "3")
    assert again.returncode == 1
    assert again.stderr.startswith("labelled_bag: ")
    assert again.stderr.count("\n") == 1
