"""Better, worse or no difference seen: figure by figure, with what else differs between runs."""

from __future__ import annotations

import json
from typing import Any, TYPE_CHECKING

import pytest

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.eval.compare import change_table, compare, read_old_run
from seg_node.eval.frames import read_frames
from seg_node.eval.tables import plain
from test.eval.runs import make_run

if TYPE_CHECKING:
    from pathlib import Path

BOTH = {"dense": (0.10, 40.0), "warp": (0.20, 8.0)}


def run(out: Path, **changed: Any) -> dict[str, Any]:
    """Write a made-up run as replay would and return its results."""
    results, _ = make_run(out, **{"modes": BOTH, "count": 20, **changed})
    (out / "results.json").write_text(json.dumps(results))
    return results


def changes(tmp_path: Path, **changed: Any) -> tuple[dict[tuple[str, str], str], dict[str, Any]]:
    """Return the verdicts of a run that differs as told, by mode and figure; and all of it."""
    run(tmp_path / "old")
    results = run(tmp_path / "new", **changed)
    frames = read_frames(tmp_path / "new" / "frames.csv", len(CAMVID_CLASSES))
    found = compare(read_old_run(tmp_path / "old" / "results.json"), results, frames)
    return {(c["mode"], c["figure"]): c["verdict"] for c in found["changes"]}, found


def test_the_same_run_differs_in_nothing(tmp_path: Path) -> None:
    verdicts, found = changes(tmp_path)
    assert set(verdicts.values()) == {"no difference seen"}
    assert {figure for mode, figure in verdicts if mode == "warp"} == {
        "miou", "agreement", "ms_mean", "ms_p95", "age_p95", "gmac", "dropped",
    }  # fmt: skip
    assert found["notes"] == []


def test_each_figure_knows_which_way_is_up(tmp_path: Path) -> None:
    """Mode warp gets more right and takes longer; dense the other way round."""
    verdicts, _ = changes(tmp_path, modes={"dense": (0.20, 30.0), "warp": (0.10, 9.9)})
    assert verdicts["warp", "miou"] == verdicts["dense", "ms_mean"] == "better"
    assert verdicts["warp", "ms_p95"] == verdicts["dense", "miou"] == "worse"
    assert verdicts["warp", "gmac"] == "no difference seen"


def test_chance_is_no_difference(tmp_path: Path) -> None:
    """Other noise around the same times and errors; frames are still the same."""
    verdicts, found = changes(tmp_path, seed=1)
    assert verdicts["warp", "ms_mean"] == verdicts["warp", "miou"] == "no difference seen"
    change = next(c for c in found["changes"] if c["figure"] == "ms_mean")
    assert change["old"] != change["new"]
    assert (change["paired"], change["frames"]) == (True, 20)


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old"), run(tmp_path / "new", modes={"warp": (0.2, 8.0)})
    new["config"] = {**new["config"], "max_age_ms": 77.0}
    new["source"] = {**new["source"], "sha256": "ee" * 32}
    new["device"] = "cuda"
    new["model"] = {"name": "another", "sha256": "00"}
    frames = read_frames(tmp_path / "new" / "frames.csv", len(CAMVID_CLASSES))
    found = compare(read_old_run(tmp_path / "old" / "results.json"), new, frames)
    assert {c["paired"] for c in found["changes"]} == {False}
    told = "\n".join(found["notes"])
    for expected in (
        "frames cannot be paired",
        "another model: made-up then, another now",
        "another device: cpu then, cuda now",
        f"max_age_ms was {old['config']['max_age_ms']}, is 77.0",
        "not run now: dense",
    ):
        assert expected in told
    table = plain(change_table(found))
    assert f"Against {tmp_path / 'old' / 'results.json'}" in table
    assert "no difference seen" in table


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    results = run(tmp_path / "old")
    frames = read_frames(tmp_path / "old" / "frames.csv", len(CAMVID_CLASSES))
    path = tmp_path / "old" / "results.json"
    old = read_old_run(path)
    with pytest.raises(DataError, match="it has mode dense, warp, this run adaptive; run a mode"):
        compare(old, results, {"adaptive": frames["warp"]})
    with pytest.raises(DataError, match="its model has other classes"):
        compare(old, {**results, "classes": ["cat"]}, frames)
    (tmp_path / "old" / "frames.csv").rename(tmp_path / "frames.csv")
    with pytest.raises(DataError, match=r"there is no frames\.csv beside it"):
        read_old_run(path)
    path.write_text("[]")
    with pytest.raises(DataError, match=r"give the results\.json of a replay or evaluate"):
        read_old_run(path)
    with pytest.raises(DataError, match="cannot compare with"):
        read_old_run(tmp_path / "nowhere.json")
