"""The numbers behind the plots: nothing lost where it matters, and never too many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.eval.charts import chart_data, POINTS
from seg_node.eval.frames import FrameRow, FrameWriter, read_frames

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.eval.frames import ModeFrames


def table(path: Path, *rows: FrameRow) -> dict[str, ModeFrames]:
    """Return a table of these rows."""
    with FrameWriter(path / "frames.csv") as writer:
        for row in rows:
            writer.write(row)
    return read_frames(path / "frames.csv", 1)


def test_a_long_run_is_thinned_and_keeps_its_peaks(tmp_path: Path) -> None:
    """One slow frame of 1500 stays the peak of its point; shares are means."""
    rows = [
        FrameRow(i, i * 10**8, "warp", step_ms=9.0 if i == 700 else 1.0, high=float(i % 2))
        for i in range(1500)
    ]
    data = chart_data([], table(tmp_path, *rows), "mIoU")
    line = data["timeline"]["warp"]
    assert line["frames_per_point"] == 3
    assert len(line["seconds"]) == 500 <= POINTS
    assert line["step"][700 // 3] == 9.0
    assert sorted(set(line["step"])) == [1.0, 9.0]
    assert line["high"][:2] == [0.333, 0.667]
    assert line["seconds"][1] == pytest.approx(0.3)
    assert line["late"] == [None] * 500, "frames did not arrive"


def test_dropped_frames_have_no_times_and_are_counted(tmp_path: Path) -> None:
    rows = [FrameRow(0, 0, "warp", step_ms=4.0), FrameRow(1, 10, "warp", dropped=True)]
    line = chart_data([], table(tmp_path, *rows), "mIoU")["timeline"]["warp"]
    assert line["step"] == [4.0, None]
    assert line["dropped"] == [0, 1]


def test_the_histogram_has_every_frame(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [FrameRow(i, i, m, step_ms=random.uniform(1, 90)) for i in range(50) for m in "ab"]
    found = chart_data([], table(tmp_path, *rows), "mIoU")["histogram"]
    for shares in found["shares"].values():
        assert sum(shares) == pytest.approx(1.0)
    assert len(found["edges"]) == len(found["shares"]["a"]) + 1


def test_everything_is_json(tmp_path: Path) -> None:
    rows = [FrameRow(i, i, "dense", step_ms=0.0 if i else None) for i in range(2)]
    data = chart_data([], table(tmp_path, *rows), "mIoU")
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["first"], data["colors"]) == ("dense", {"dense": "#0072b2"})
    assert chart_data([], {}, "mIoU")["histogram"]["edges"] == []
