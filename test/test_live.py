"""Live replay: the real node in real time, and what simulated time predicts of it."""

from __future__ import annotations

from itertools import cycle, islice
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import TYPE_CHECKING
import zlib

import numpy as np
import pytest

from seg_node.cli import main
from seg_node.core.types import Action, Reason
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip
from seg_node.demo.clip import Sent
from seg_node.demo.live import _dense_macs, _result, Heard, overhead_ns
from seg_node.ros.recorded import RecordedMask, RecordedStatus

if TYPE_CHECKING:
    from typing import Any

MS = 1_000_000
PERIOD_MS = 6
FRAMES = 600
PIXEL = zlib.compress(b"\0")


def heard(frames: list[tuple[int, int | None, int]]) -> Heard:
    """Return what was heard of frames (sent, received or None, step), in ms."""
    masks, stats = {}, {}
    grid, age = np.full((1, 1), Action.HIGH, np.uint8), np.zeros((1, 1), np.uint16)
    for sent_ms, received_ms, step_ms in frames:
        if received_ms is not None:
            masks[sent_ms * MS] = RecordedMask(received_ms * MS, 1, 1, "mono8", PIXEL)
            values = {"step_ms": f"{step_ms}.000", "reason": Reason.DENSE.value}
            stats[sent_ms * MS] = RecordedStatus("", 0, "", values)
    sent = [Sent(index, sent_ms * MS) for index, (sent_ms, _, _) in enumerate(frames)]
    return Heard(sent, masks, stats, dict.fromkeys(masks, grid), dict.fromkeys(masks, age))


def test_overhead_is_the_mean_of_frames_that_waited() -> None:
    """The second and third were sent while the one before was in work, the last one after it."""
    frames = [(0, 50, 40), (20, 97, 42), (30, None, 0), (90, 138, 42), (160, 250, 40)]
    assert overhead_ns(heard(frames[:1])) is None
    assert overhead_ns(heard(frames)) == 2 * MS, "5 and -1: what one lacks the other has too much"
    assert overhead_ns(heard([(0, 50, 40), (20, 80, 42)])) == 0


def test_a_frame_that_computed_nothing_is_told_of_by_the_others() -> None:
    """Of a frame without MACs the share that it saved says nothing of dense; 2 of 8 GMAC do."""
    told = heard([(0, 50, 40), (60, 70, 5)])
    for stamp_ns, gmac, saving in ((0, "2.000", "0.750"), (60 * MS, "0.000", "1.000")):
        told.stats[stamp_ns].values.update(gmac=gmac, gmac_saving=saving)
    dense_macs = _dense_macs(told)
    found = [_result(told, stamp_ns, dense_macs).report for stamp_ns in (0, 60 * MS)]
    assert [(r.macs, r.dense_macs) for r in found] == [(2 * 10**9, 8 * 10**9), (0, 8 * 10**9)]
    assert [r.total_ns for r in found] == [40 * MS, 5 * MS]


def write_bag(path: Path) -> Path:
    """Write a recording that is too fast for any CPU."""
    pictures = [sample.frame.image for sample in StreetClip(1, 12, (192, 128))]
    with BagWriter(path) as bag:
        for index, picture in enumerate(islice(cycle(pictures), FRAMES)):
            stamp_ns = 10**18 + PERIOD_MS * MS * index
            bag.write_image("/image", picture, stamp_ns=stamp_ns, frame_id="c")
    return path


def results(out: Path) -> Any:
    """Return the written results."""
    return json.loads((out / "results.json").read_text())


@pytest.mark.ros
@pytest.mark.slow
def test_simulated_time_predicts_what_the_real_node_processes(
    tmp_path: Path, random_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 5%, from the costs that the node's own run has recorded.

    And a frame at either end: which one is the first and which the last that the real node takes
    is a matter of less than a step. In so short a recording that is most of the 5%.
    """
    pytest.importorskip("rclpy")
    bag, live, virtual = write_bag(tmp_path / "bag"), tmp_path / "live", tmp_path / "virtual"
    options = ["--mode", "dense", "--samples", "0", "--device", "cpu", "--set", "threads=1"]
    ran = subprocess.run(
        [sys.executable, "-m", "seg_node.cli", "replay", str(bag), "--clock", "live", *options,
         "--out", str(live)],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "SEG_NODE_MODELS": str(random_models)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = results(live)["modes"]["dense"]
    assert found["frames"] + found["dropped"] == FRAMES
    assert found["dropped"] > FRAMES / 10, "a node that keeps up tells nothing"
    assert found["lateness_ms"]["p50"] > found["ms"]["p50"] > 0
    assert found["gmac_saving"] == pytest.approx(0, abs=0.01)
    with BagReader(live / "result_bag") as reader:
        assert reader.promised["/segmentation/mask"] == found["frames"]
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    costs = ["--clock", "virtual", "--costs", str(live / "costs.json"), "--out", str(virtual)]
    assert main(["replay", str(bag), *costs, *options]) == 0
    predicted = results(virtual)["modes"]["dense"]["frames"]
    assert abs(predicted - found["frames"]) <= 0.05 * found["frames"] + 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--mode", "dense,warp"), "--clock live runs one mode on one node"),
        (("--reference", "dense"), "--clock live runs one mode on one node"),
        (("--resume",), "--resume goes with --clock every-frame: time runs on in live"),
        (("--sweep", "max_age_ms=1,2"), "--sweep does not go with --clock live: record its"),
    ],
)
def test_what_live_does_not_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], text: str
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["replay", "street:1", "--clock", "live", *out, *options]) == 1
    assert text in capsys.readouterr().err


def test_without_ros_live_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    arguments = ["replay", "street:1", "--clock", "live", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "no rclpy: source /opt/ros/<distro>/setup.bash first" in capsys.readouterr().err
