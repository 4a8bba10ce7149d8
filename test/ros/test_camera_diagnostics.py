"""What a node with several cameras says of each of them, and of all together."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy")

from seg_node.ros.camera_diagnostics import camera_status, report_cameras, together
from seg_node.ros.diagnostics import ERROR, Health, OK, Situation, WARN
from test.ros.test_diagnostics import COMPRESSED, health, MS, NOW_NS, RAW, situation, TEN_HZ

PARTS = ["input", "compute", "output", "model"]


def of(camera: str, **changes: Any) -> Situation:
    """Return the situation of one of several cameras."""
    return situation(camera=camera, topic=f"/{camera}/image", **changes)


def report(*watched: tuple[Situation, Health]) -> dict[str, Any]:
    """Return the statuses by what they are of, in order."""
    return {s.name.removeprefix("/segmentation: "): s for s in report_cameras(watched)}


def values(status: Any) -> dict[str, str]:
    """Return the values of a status by key."""
    return {pair.key: pair.value for pair in status.values}


def test_one_status_for_each_camera_then_those_of_the_node() -> None:
    statuses = report((of("left"), health(TEN_HZ)), (of("right"), health(TEN_HZ)))
    assert list(statuses) == ["camera left", "camera right", *PARTS]
    assert statuses["camera left"].hardware_id == "/left/image"
    assert statuses["input"].hardware_id == "/left/image, /right/image"
    assert {s.level for s in statuses.values()} == {OK}


def test_the_node_adds_its_cameras_up() -> None:
    left, right = health(TEN_HZ), health([ago + 0.5 for ago in TEN_HZ])
    right.refused, left.resizes = 2, 3
    statuses = report((of("left", dropped=1), left), (of("right", dropped=4), right))
    found = values(statuses["input"]) | values(statuses["compute"])
    assert (found["received"], found["refused"], found["size_changes"]) == ("42", "2", "3")
    assert (found["publishers"], found["dropped"]) == ("2", "5")
    assert float(found["rate_hz"]) == pytest.approx(20, rel=0.05)
    assert values(statuses["output"])["published"] == "42"
    assert statuses["input"].message == statuses["input"].message.split(";")[0]


def test_counts_of_one_camera_are_its_own() -> None:
    left, right = health(TEN_HZ), health(TEN_HZ)
    left.refuse("odd width")
    left.jumps, left.resizes = 2, 1
    statuses = report((of("left", dropped=7), left), (of("right"), right))
    bad, good = values(statuses["camera left"]), values(statuses["camera right"])
    keys = ("refused", "stamp_jumps", "size_changes", "dropped")
    assert [bad[key] for key in keys] == ["1", "2", "1", "7"]
    assert [good[key] for key in keys] == ["0"] * 4


def test_the_node_is_as_bad_as_its_worst_camera_and_says_which() -> None:
    stale = health([ago + 1001 for ago in TEN_HZ])
    statuses = report(
        (of("left"), health(TEN_HZ)), (of("right"), stale), (of("rear", publishers=()), Health())
    )
    assert [statuses[f"camera {name}"].level for name in ("left", "right", "rear")] == [
        OK,
        ERROR,
        WARN,
    ]
    assert statuses["input"].level == ERROR
    assert statuses["input"].message == (
        "right: stale: no image for 1.0 s on /right/image; "
        "rear: no publisher on /rear/image; is the camera running and remapped?"
    )
    assert statuses["output"].level == OK


def test_a_camera_with_odd_stamps_is_told_beside_two_good_ones() -> None:
    odd = health(TEN_HZ, lag_ms=6000)
    statuses = report(
        (of("left"), health(TEN_HZ)), (of("right"), health(TEN_HZ)), (of("rear"), odd)
    )
    assert "--clock" in statuses["camera rear"].message
    assert statuses["output"].level == WARN
    assert statuses["output"].message.startswith("rear: stamps differ from the clock by 6.0 s")
    assert values(statuses["camera rear"])["mask_rate_hz"] == "10.000"


def test_overload_is_judged_over_all_cameras() -> None:
    """Each of three has 100 ms for a step of 40 ms; together they have 33 ms."""
    cameras = [
        (of(name), health([ago + shift for ago in TEN_HZ], step_ms=40, share=0.8))
        for name, shift in (("left", 0), ("right", 30), ("rear", 60))
    ]
    statuses = report(*cameras)
    assert statuses["compute"].level == WARN
    assert statuses["compute"].message.startswith("overloaded: 40 ms a frame, an image every 33")
    assert {statuses[f"camera {each.camera}"].level for each, _ in cameras} == {OK}
    assert float(values(statuses["camera left"])["overtaken_share"]) == pytest.approx(
        0.19, abs=0.01
    )


def test_a_frame_that_one_camera_lost_is_told_of_the_node() -> None:
    lossy = health(TEN_HZ)
    lossy.lose("it does not fit")
    statuses = report((of("left"), health(TEN_HZ)), (of("right"), lossy))
    assert statuses["compute"].message == "frame lost: it does not fit"
    assert [values(statuses[f"camera {name}"])["lost"] for name in ("left", "right")] == ["0", "1"]


def test_the_fix_names_the_topic_to_remap() -> None:
    level, text, _ = camera_status(of("left", publishers=("my_msgs/msg/Radar",)), Health())
    assert (level, text.rpartition("; ")[2]) == (ERROR, "remap left/image")
    _, text, _ = camera_status(of("left", publishers=(COMPRESSED,)), Health())
    assert text.endswith("set input.transport to compressed or remap left/image")


def test_slow_cameras_within_their_limit_are_well_together() -> None:
    """The newest image may be older than the window of the rates."""
    patient = of("left").config.updated({"input.stale_s": 10.0})
    cameras = [(of(name, config=patient), health([6000])) for name in ("left", "right")]
    assert report(*cameras)["input"].message == "0.0 Hz"
    whole, merged = together(cameras)
    assert whole.publishers == (RAW, RAW)
    assert list(merged.arrivals) == [NOW_NS - 6000 * MS] * 2
