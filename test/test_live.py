"""Live replay: the real node in real time, and what simulated time predicts of it."""

from __future__ import annotations

from itertools import cycle, islice
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.cli import main
from seg_node.core.types import Action, Reason
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip
from seg_node.demo.clip import Sent
from seg_node.demo.live import Heard, overheads_ns
from seg_node.ros.recorded import RecordedMask, RecordedStatus

if TYPE_CHECKING:
    from typing import Any

MS = 1_000_000
PERIOD_MS = 6
FRAMES = 500


def heard(frames: list[tuple[int, int | None, int]]) -> Heard:
    """Return what was heard of frames (sent, received or None, step), in ms."""
    masks, stats = {}, {}
    grid, age = np.full((1, 1), Action.HIGH, np.uint8), np.zeros((1, 1), np.uint16)
    for sent_ms, received_ms, step_ms in frames:
        if received_ms is not None:
            masks[sent_ms * MS] = RecordedMask(received_ms * MS, 1, 1, "mono8", b"")
            values = {"step_ms": f"{step_ms}.000", "reason": Reason.DENSE.value}
            stats[sent_ms * MS] = RecordedStatus("", 0, "", values)
    sent = [Sent(index, sent_ms * MS) for index, (sent_ms, _, _) in enumerate(frames)]
    return Heard(sent, masks, stats, dict.fromkeys(masks, grid), dict.fromkeys(masks, age))


def test_overhead_is_known_of_frames_that_waited() -> None:
    """The second was sent while the first was in work, the fourth after all was done."""
    found = overheads_ns(heard([(0, 50, 40), (20, 97, 42), (30, None, 0), (120, 170, 40)]))
    assert found == {20 * MS: 5 * MS}
    assert overheads_ns(heard([(0, 50, 40), (20, 80, 42)])) == {20 * MS: 0}


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
    """Within 5%, from the costs that the node's own run has recorded."""
    pytest.importorskip("rclpy")
    bag, live, virtual = write_bag(tmp_path / "bag"), tmp_path / "live", tmp_path / "virtual"
    options = ["--samples", "0", "--device", "cpu", "--set", "threads=1"]
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
    assert abs(predicted - found["frames"]) <= 0.05 * found["frames"]


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
