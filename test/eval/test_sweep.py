"""Sweeps: a row a point, a front that nothing beats, and points that are run only once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from seg_node.cli import main
from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip
from seg_node.eval.progress import EXIT_INTERRUPTED
from seg_node.eval.replay import follow
from seg_node.eval.sweep import pareto

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

MS = 1_000_000


@pytest.fixture(autouse=True)
def _models(random_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bag of four frames."""
    path = tmp_path_factory.mktemp("bag") / "bag"
    with BagWriter(path) as writer:
        for sample in StreetClip(5, 4, (128, 64)):
            stamp_ns = 10**18 + sample.frame.stamp_ns
            writer.write_image("/image", sample.frame.image, stamp_ns=stamp_ns, frame_id="c")
    return path


def sweep(bag: Path, out: Path, *options: str) -> int:
    """Sweep mode warp on the CPU; dense runs beside unasked."""
    settings = ["--device", "cpu", "--out", str(out), "--mode", "warp"]
    return main(["replay", str(bag), *settings, *options])


def content(out: Path) -> Any:
    """Return what sweep.json holds."""
    return json.loads((out / "sweep.json").read_text())


def test_a_row_of_every_point_and_mode(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    axes = ("--sweep", "keyframe_interval=1,2", "--sweep", "motion.source=flow,none")
    assert sweep(bag, out, *axes, "--require", "gmac_saving>0.4") == 0
    found = content(out)
    rows = [row for row in found["rows"] if row["mode"] == "warp"]
    assert [tuple(row["settings"].values()) for row in rows] == [
        (1, "flow"), (1, "none"), (2, "flow"), (2, "none"),
    ]  # fmt: skip
    assert [row["gmac_saving"] for row in rows] == [0, 0, 0.5, 0.5]
    assert [row["meets"] for row in rows] == [False, False, True, True]
    assert [[v["passed"] for v in row["verdicts"]] for row in rows] == [
        [False], [False], [True], [True],
    ]  # fmt: skip
    assert rows[2]["verdicts"][0]["text"] == "passed warp: gmac_saving>0.4, measured 0.5"
    assert "2 of 4 keep all rules" in (out / "report.html").read_text()
    assert rows[0]["agreement_miou"] == 1.0 > rows[2]["agreement_miou"]
    assert (found["points"], found["complete"], found["accuracy"]) == (4, 4, "agreement_miou")
    assert [("gmac" in row["pareto"]) for row in rows[:2]] == [True, True]
    for row in rows:
        folder = out / "points" / row["point"]
        assert json.loads((folder / "results.json").read_text())["modes"]["warp"]["frames"] == 4
        assert not (folder / "modes").exists(), "points have no pictures"
        assert "result_bag" not in (folder / "report.html").read_text()
    table = capsys.readouterr().out
    assert "keyframe_interval" in table
    assert "front by gmac" in table
    assert f"look at {out / 'report.html'}" in table
    assert (out / "report.html").exists()
    assert sweep(bag, out, "--sweep", "keyframe_interval=2", "--require", "gmac_saving>0.6") == 1


def test_points_that_are_complete_are_not_run_again(
    tmp_path: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wider sweep runs the new points, a changed setting all of them."""
    run = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        run.append(args)
        return follow(*args, **kwargs)

    monkeypatch.setattr("seg_node.eval.sweep.follow", noted)
    out = tmp_path / "out"
    for axis, extra, expected in (
        ("keyframe_interval=2", (), 1),
        ("keyframe_interval=2", (), 0),
        ("keyframe_interval=2,3", (), 1),
        ("keyframe_interval=2,3", ("--set", "max_age_ms=500"), 2),
    ):
        run.clear()
        assert sweep(bag, out, "--sweep", axis, "--samples", "0", *extra) == 0
        assert len(run) == expected
    # One that was ended is run again, from its start.
    done = out / "points" / content(out)["rows"][0]["point"] / "results.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "interrupted": True}))
    run.clear()
    assert sweep(bag, out, "--sweep", "keyframe_interval=2,3", "--set", "max_age_ms=500") == 0
    assert len(run) == 1


def test_ctrl_c_leaves_the_points_that_are_complete(
    tmp_path: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "seg_node.eval.sweep.follow", lambda *a, **k: {**follow(*a, **k), "interrupted": True}
    )
    out = tmp_path / "out"
    assert sweep(bag, out, "--sweep", "keyframe_interval=2,3") == EXIT_INTERRUPTED
    assert content(out)["points"] == 2
    assert len(list((out / "points").iterdir())) == 1


def test_the_folder_is_never_somebody_elses(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert sweep(bag, tmp_path, "--sweep", "keyframe_interval=2,3") == 1
    assert "is not empty and holds no earlier sweep: choose another" in capsys.readouterr().err


def test_the_front_is_what_nothing_beats() -> None:
    """By hand: (gain, cost); equals stand both, what was not measured does not count."""
    points = [(0.9, 10), (0.8, 5), (0.85, 12), (0.8, 6), (0.9, 10), (None, 1), (0.95, None)]
    rows = [{"miou": gain, "gmac": cost} for gain, cost in points]
    assert pareto(rows, "miou", "gmac") == [True, True, False, False, True, False, False]
