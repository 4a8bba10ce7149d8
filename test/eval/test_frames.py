"""The table of frames: whole rows whatever happens, and read as they were written."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import Action, DataError, Plan, Reason, StepReport, StepResult
from seg_node.eval.frames import COLUMNS, FrameRow, FrameWriter, read_frames, row_of
from seg_node.eval.results import FrameScore

if TYPE_CHECKING:
    from pathlib import Path

TOO_LARGE = r"cannot write .*frames\.csv: .*File too large"


def result() -> StepResult:
    """Return a step on four blocks, one of them computed and one at half resolution."""
    grid = np.array([[Action.HIGH, Action.LOW, Action.REUSE, Action.REUSE]], np.uint8)
    age_ms = np.array([[0, 0, 100, 300]], np.uint16)
    labels = np.zeros((1, 4), np.uint8)
    report = StepReport({"motion": 1_000_000, "plan": 250_000}, 5_000_000, 2 * 10**9, 10**10, 0.5)
    return StepResult(labels, labels, Plan(grid, Reason.MOVED), age_ms, report)


def write(path: Path, *rows: FrameRow, keep: int = 0) -> None:
    """Write a table of these rows."""
    with FrameWriter(path, keep=keep) as table:
        for row in rows:
            table.write(row)


def test_a_step_comes_back_as_it_was(tmp_path: Path) -> None:
    overlaps = np.array([[3, 4], [0, 0], [0, 1]])
    score = FrameScore(0.375, overlaps, 0.75)
    stamp_ns = 1_700_000_000_123_456_789
    row = row_of(7, stamp_ns, "warp", result(), score, late_ms=12.0)
    write(tmp_path / "frames.csv", row)
    frames = read_frames(tmp_path / "frames.csv", 3)["warp"]
    assert (frames.index.tolist(), frames.stamp_ns.tolist()) == ([7], [stamp_ns])
    assert frames.reason == ("MOVED",)
    assert {name: column.tolist() for name, column in frames.numbers.items()} == {
        "step_ms": [5.0],
        "late_ms": [12.0],
        "high": [0.25],
        "low": [0.25],
        "reuse": [0.5],
        "age_p50_ms": [50.0],
        "age_max_ms": [300.0],
        "gmac": [2.0],
        "joules": [0.5],
        "miou": [0.375],
        "agreement": [0.75],
    }
    assert {k: v.tolist() for k, v in frames.stage_ms.items()} == {"motion": [1.0], "plan": [0.25]}
    assert frames.overlaps.tolist() == [overlaps.tolist()]
    assert frames.miou() == pytest.approx((3 / 4 + 0) / 2), "class 1 is nowhere"


def test_modes_and_dropped_frames_are_kept_apart(tmp_path: Path) -> None:
    write(
        tmp_path / "frames.csv",
        FrameRow(0, 10, "dense", step_ms=40.0),
        FrameRow(0, 10, "warp", step_ms=8.0),
        FrameRow(1, 20, "dense", dropped=True),
        FrameRow(1, 20, "warp", step_ms=9.0, stage_ms={"late": 1.0}),
    )
    modes = read_frames(tmp_path / "frames.csv", 2)
    assert list(modes) == ["dense", "warp"]
    assert modes["dense"].index.tolist() == [0, 1]
    assert modes["dense"].dropped.tolist() == [False, True]
    assert modes["warp"].numbers["step_ms"].tolist() == [8.0, 9.0]
    assert np.isnan(modes["warp"].numbers["miou"]).all()
    assert np.array_equal(modes["warp"].stage_ms["late"], [np.nan, 1.0], equal_nan=True)
    assert modes["warp"].miou() is None


def test_a_run_goes_on_behind_what_is_whole(tmp_path: Path) -> None:
    """Other rows go, also the half one of a run that was killed, wherever they lie."""
    path = tmp_path / "frames.csv"
    order = [(0, "a"), (1, "a"), (2, "a"), (0, "b"), (1, "b"), (2, "b")]
    write(path, *(FrameRow(index, index * 10, mode, step_ms=1.0) for index, mode in order))
    with path.open("a") as file:
        file.write("1,10,c,0,1.")
    write(path, FrameRow(2, 20, "a", step_ms=5.0), keep=2)
    modes = read_frames(path, 1)
    assert modes["a"].numbers["step_ms"].tolist() == [1.0, 1.0, 5.0]
    assert modes["b"].index.tolist() == [0, 1]
    assert "c" not in modes
    with pytest.raises(DataError, match=r"ends at frame 2, so nothing can follow frame 8"):
        FrameWriter(path, keep=9)


def test_frames_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    """A frame that is dropped late is written after its successor."""
    rows = [FrameRow(index, index, "a", step_ms=float(index)) for index in (2, 0, 1)]
    write(tmp_path / "frames.csv", *rows)
    frames = read_frames(tmp_path / "frames.csv", 1)["a"]
    assert frames.index.tolist() == frames.numbers["step_ms"].tolist() == [0, 1, 2]


def test_rows_are_on_disk_before_the_end(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "frames.csv") as table:
        table.write(FrameRow(0, 10, "a"))
        assert len((tmp_path / "frames.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n", "is no table of frames"),
        (",".join(COLUMNS) + "\n0,1,a,0,quick" + "," * 13 + "\n", "is damaged: could not convert"),
        (",".join(COLUMNS) + "\n0,1,a,0" + "," * 14 + "9:1/2\n", "is damaged: index 9"),
        (",".join(COLUMNS) + "\n0,1,a\n", "is damaged"),
    ],
    ids=["another table", "no number", "another class set", "cut"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "frames.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        read_frames(path, 3)
    with pytest.raises(DataError, match="cannot read"):
        read_frames(tmp_path / "nowhere.csv", 3)
    with pytest.raises(DataError, match="cannot write"):
        FrameWriter(tmp_path / "nowhere" / "frames.csv")


def test_a_full_disk_is_told_from_the_first_line_on(tmp_path: Path) -> None:
    table = tmp_path / "frames.csv"
    table.symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"cannot write .*frames\.csv: .*No space left on device"):
        FrameWriter(table)


def test_what_is_left_at_the_end_may_fill_the_disk(tmp_path: Path) -> None:
    """No file may grow beyond its heading: the row fails, and once more when it is closed."""
    table = FrameWriter(tmp_path / "frames.csv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, ((tmp_path / "frames.csv").stat().st_size, before[1])
    )
    try:
        with pytest.raises(DataError, match=TOO_LARGE):
            table.write(FrameRow(0, 0, "dense"))
        with pytest.raises(DataError, match=TOO_LARGE):
            table.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
