"""Intervals of pooled figures by drawing recordings anew."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import Action, CAMVID_CLASSES, Frame
from seg_node.data.datasets import Sample
from seg_node.eval.bag_intervals import bag_intervals
from seg_node.eval.results import count_frame, ModeRecord
from test.eval.runs import SIZE, step

TRUTH = np.repeat(np.arange(4, dtype=np.uint8), SIZE[0] // 4)[:, None].repeat(SIZE[1], 1)


def recording(
    wrong: dict[str, float], ms: float, *, frames: int = 3, labelled: bool = True
) -> dict[str, ModeRecord]:
    """Count frames of which a mode gets this share of the columns wrong."""
    records = {mode: ModeRecord(len(CAMVID_CLASSES)) for mode in wrong}
    for index in range(frames):
        results = {}
        for mode, share in wrong.items():
            labels = TRUTH.copy()
            labels[:, : round(share * SIZE[1])] = 3 - labels[:, : round(share * SIZE[1])]
            results[mode] = step(labels, Action.HIGH, ms)
        frame = Frame(np.zeros((*SIZE, 3), np.uint8), index)
        count_frame(records, "x", Sample("0", frame, TRUTH if labelled else None), results)
    return records


def test_recordings_that_are_alike_leave_no_doubt() -> None:
    same = recording({"dense": 0.25, "warp": 0.5}, 20)
    found = {(x.mode, x.figure): x for x in bag_intervals([same] * 5)}
    miou = found["warp", "miou"]
    assert [miou.low, miou.value, miou.high] == pytest.approx([1 / 3] * 3)
    assert miou.recordings == 5
    gain = found["warp", "miou_gain"]
    assert gain.low == gain.high == pytest.approx(1 / 3 - 0.6)
    assert found["warp", "agreement"].value == 0.75
    assert found["dense", "ms_mean"].value == pytest.approx(20)
    assert ("dense", "miou_gain") not in found


def test_one_that_is_different_widens_the_interval() -> None:
    """Of ten recordings one takes 100 ms a frame, and the others 10: mean 19 ms."""
    some = [recording({"warp": 0.0}, 100 if index == 0 else 10) for index in range(10)]
    found = {x.figure: x for x in bag_intervals(some)}
    step_ms = found["ms_mean"]
    assert step_ms.value == pytest.approx(19)
    assert step_ms.low == pytest.approx(10), "in a third of the draws it is not there"
    assert step_ms.high == pytest.approx(37), "in a few it is there three times"
    assert (found["gmac"].low, found["gmac"].high) == (1, 1)


def test_long_recordings_weigh_more() -> None:
    both = [recording({"warp": 0.0}, 10, frames=9), recording({"warp": 0.0}, 110, frames=1)]
    assert {x.figure: x for x in bag_intervals(both)}["ms_mean"].value == pytest.approx(20)


def test_what_too_few_recordings_have_has_no_interval() -> None:
    some = [recording({"warp": 0.25}, 20, labelled=index == 0) for index in range(4)]
    assert [x.figure for x in bag_intervals(some)] == ["ms_mean", "gmac"]
    assert bag_intervals(some[:1]) == []
    assert bag_intervals([]) == []
