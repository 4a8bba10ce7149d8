"""What the node says of its health: each threshold from just below and just above."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import pytest

pytest.importorskip("rclpy")

from seg_node.core.config import Config
from seg_node.core.types import MemoryUse
from seg_node.nets.manifest import Manifest
from seg_node.ros import diagnostics
from seg_node.ros.diagnostics import (
    compute_status,
    ERROR,
    Health,
    input_status,
    model_status,
    OK,
    output_status,
    Processed,
    report,
    Situation,
    WARN,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MS = 1_000_000
NOW_NS = 100_000 * MS
RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def situation(**changes: Any) -> Situation:
    """Return an active node with one camera, at `NOW_NS`."""
    usual = Situation(
        name="/segmentation",
        state="active",
        enabled=True,
        topic="/image",
        publishers=(RAW,),
        expected_type=RAW,
        config=Config(),
        manifest=None,
        compute="cpu float32",
        converter="the built-in converter is used",
        dropped=0,
        now_ns=NOW_NS,
    )
    return replace(usual, **changes)


def health(
    arrivals_ms: Sequence[float] = (), *, step_ms: float = 10, lag_ms: float = 20, share: float = 1
) -> Health:
    """Return the health after images that arrived some ms before now, `share` of them processed.

    Args:
        arrivals_ms: how long ago each image arrived, oldest first.
        step_ms: duration of each step.
        lag_ms: node clock minus stamp of each.
        share: how many of the images were processed, 0..1, the newest.

    """
    made = Health()
    for ago_ms in arrivals_ms:
        made.arrived(int(NOW_NS - ago_ms * MS))
    for ago_ms in arrivals_ms[len(arrivals_ms) - round(share * len(arrivals_ms)) :]:
        done_ns = int(NOW_NS - ago_ms * MS)
        made.done(Processed(done_ns, int(step_ms * MS), int(2 * step_ms * MS), int(lag_ms * MS)))
    return made


TEN_HZ = [ago * 100.0 for ago in range(20, -1, -1)]
"""Twenty-one images, one every 100 ms, the newest right now."""


def test_stale_begins_after_the_limit() -> None:
    """The limit is input.stale_s, 1 s by default."""
    assert input_status(situation(), health([1000]))[0] == OK
    level, text, _ = input_status(situation(), health([1001]))
    assert level == ERROR
    assert text.startswith("stale: no image for 1.0 s on /image")


def test_stale_limit_is_the_setting() -> None:
    patient = situation(config=Config().updated({"input.stale_s": 3.0}))
    assert input_status(patient, health([2999]))[0] == OK
    assert input_status(patient, health([3001]))[0] == ERROR


def test_rate_is_that_of_the_arrivals() -> None:
    level, text, values = input_status(situation(), health(TEN_HZ))
    assert (level, text) == (OK, "10.0 Hz")
    assert values["rate_hz"] == pytest.approx(10)


def test_rate_forgets_what_is_older_than_five_seconds() -> None:
    old = [ago * 10.0 for ago in range(1000, 501, -1)]
    assert input_status(situation(), health([*old, *TEN_HZ]))[1] == "10.0 Hz"


def test_single_image_has_no_rate() -> None:
    assert input_status(situation(), health([0]))[1] == "0.0 Hz"


def test_refusal_is_an_error_until_a_good_frame() -> None:
    refused = health([10])
    refused.refuse("odd width")
    level, text, values = input_status(situation(), refused)
    assert (level, text) == (ERROR, "unusable image: odd width")
    assert values["refused"] == 1
    refused.done(Processed(NOW_NS, MS, MS, MS))
    assert input_status(situation(), refused)[0] == OK


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"publishers": ()}, WARN, "no publisher on /image"),
        ({"publishers": (RAW,)}, ERROR, "has a publisher but no image arrives"),
        ({"publishers": (COMPRESSED,)}, ERROR, "set input.transport to compressed"),
        (
            {"publishers": (RAW,), "expected_type": COMPRESSED},
            ERROR,
            "set input.transport to raw",
        ),
        ({"state": "inactive"}, OK, "inactive: not subscribed"),
        ({"enabled": False}, OK, "switched off by ~/enable"),
    ],
)
def test_reason_for_no_image_at_all(changes: dict[str, Any], level: bytes, words: str) -> None:
    found = input_status(situation(**changes), Health())
    assert found[0] == level
    assert words in found[1]


def test_slow_steps_that_lose_frames_are_overload() -> None:
    """Both: 101 ms a frame at 10 Hz, and more than a tenth of the frames overtaken."""
    level, text, _ = compute_status(situation(), health(TEN_HZ, step_ms=101, share=0.8))
    assert level == WARN
    assert "lower input.scale" in text


@pytest.mark.parametrize(("step_ms", "share"), [(99, 0.8), (101, 0.95), (101, 1)])
def test_one_sign_of_overload_alone_is_none(step_ms: float, share: float) -> None:
    assert compute_status(situation(), health(TEN_HZ, step_ms=step_ms, share=share))[0] == OK


def test_compute_reports_medians_and_the_period() -> None:
    _, _, values = compute_status(situation(dropped=3), health(TEN_HZ, step_ms=7))
    assert values["step_p50_ms"] == pytest.approx(7)
    assert values["latency_p95_ms"] == pytest.approx(14)
    assert values["period_ms"] == pytest.approx(100)
    assert values["dropped"] == 3


def test_a_budget_that_no_plan_keeps_is_told_with_what_to_do() -> None:
    """Of frames in the last seconds, more than half cost more than the budget whatever is done."""
    made = Health()
    settings = Config().updated({"budget.latency_ms": 5.0, "max_age_ms": 300.0})
    for number, ago_ms in enumerate(TEN_HZ):
        made.arrived(int(NOW_NS - ago_ms * MS))
        made.done(Processed(int(NOW_NS - ago_ms * MS), MS, MS, MS, fits=number % 5 < 3))
    assert compute_status(situation(config=settings), made)[0] == OK
    for number in range(6):
        made.done(Processed(NOW_NS + number, MS, MS, MS, fits=False))
    level, text, values = compute_status(situation(config=settings), made)
    assert level == WARN
    assert "budget.latency_ms is 5, but" in text
    assert "max_age_ms 300 allows costs more; raise budget.latency_ms" in text
    assert values["budget_kept_share"] == pytest.approx(13 / 27)
    settings = Config().updated({"budget.compute": 0.02})
    assert "budget.compute is 0.02" in compute_status(situation(config=settings), made)[1]


def test_no_frame_is_not_overload() -> None:
    assert compute_status(situation(), Health())[:2] == (OK, "no frame in the last 5 s")


@pytest.mark.parametrize("lag_ms", [4999, -4999])
def test_stamps_near_the_clock_are_fine(lag_ms: float) -> None:
    assert output_status(situation(), health(TEN_HZ, lag_ms=lag_ms))[0] == OK


@pytest.mark.parametrize("lag_ms", [5001, -5001])
def test_stamps_far_from_the_clock_name_the_clock(lag_ms: float) -> None:
    level, text, _ = output_status(situation(), health(TEN_HZ, lag_ms=lag_ms))
    assert level == WARN
    assert "--clock" in text


def test_output_counts_masks() -> None:
    level, text, values = output_status(situation(), health(TEN_HZ))
    assert (level, text) == (OK, "10.0 masks/s")
    assert values["published"] == len(TEN_HZ)
    assert output_status(situation(), Health())[1] == "no mask in the last 5 s"


def test_model_says_what_is_in_use() -> None:
    manifest = Manifest(
        name="small",
        network="swiftnet18-half",
        file="",
        sha256="abc",
        classes=(),
        training_size=(1, 1),
        data="",
        terms="",
        command="",
        commit="",
        scores={},
    )
    _, text, values = model_status(situation(manifest=manifest), Health())
    assert text == "small on cpu float32"
    assert values["sha256"] == "abc"
    missing = situation(state="unconfigured")
    assert model_status(missing, Health())[1] == "unconfigured: no model loaded"


def test_report_names_every_part_after_the_node() -> None:
    statuses = report(situation(), health(TEN_HZ))
    parts = ("input", "compute", "output", "model")
    assert [s.name for s in statuses] == [f"/segmentation: {part}" for part in parts]
    assert {s.hardware_id for s in statuses} == {"/image"}
    rate = next(v.value for v in statuses[0].values if v.key == "rate_hz")
    assert rate == "10.000"


def test_window_is_five_seconds() -> None:
    """One report looks back that far, from either side of the end."""
    inside, outside = health([4999]), health([5001])
    assert len(inside.recent(NOW_NS)[1]) == 1
    assert outside.recent(NOW_NS) == ([], [])
    assert diagnostics.WINDOW_NS == 5000 * MS


def with_memory(use: MemoryUse) -> Health:
    made = health(TEN_HZ)
    made.done(Processed(NOW_NS, 10 * MS, 20 * MS, 20 * MS, memory=use))
    return made


def test_memory_that_is_short_is_told_with_what_is_left_out() -> None:
    level, _, values = compute_status(situation(), with_memory(MemoryUse(12_500_000, 5_000_000)))
    assert level == OK
    assert (values["memory_peak_mb"], values["memory_held_mb"]) == (12.5, 5.0)
    short = MemoryUse(12_500_000, 0, 2, 1, "50% of the blocks")
    level, text, values = compute_status(situation(), with_memory(short))
    assert (level, text) == (WARN, "memory of the device is short: 50% of the blocks")
    assert values["memory_short"] == 2


def test_a_frame_lost_for_lack_of_memory_is_an_error_until_the_next_mask() -> None:
    made = health(TEN_HZ)
    made.lose("it does not fit")
    level, text, values = compute_status(situation(), made)
    assert (level, text, values["lost"]) == (ERROR, "frame lost: it does not fit", 1)
    made.done(Processed(NOW_NS, 10 * MS, 20 * MS, 20 * MS))
    assert compute_status(situation(), made)[0] == OK
