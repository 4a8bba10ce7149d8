"""Predictions have to move with the picture; what was hidden or cut does not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import Frame, Motion
from seg_node.data.street import Street
from seg_node.eval.temporal import (
    consistent,
    MAX_STEP_NS,
    TemporalConsistency,
    warp_labels,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP_NS = MAX_STEP_NS // 2


def still(height: int, width: int) -> Motion:
    """Return no motion and no occlusion."""
    flow = np.zeros((height, width, 2), np.float32)
    return Motion(flow, np.ones((height, width), np.bool_))


def moved(x: float, y: float, height: int = 6, width: int = 8) -> NDArray[np.float32]:
    """Return the same backward flow everywhere."""
    return np.full((height, width, 2), (x, y), np.float32)


def frame(index: int, height: int = 32, width: int = 40, camera: str = "") -> Frame:
    """Return a grey frame."""
    return Frame(np.full((height, width, 3), 90, np.uint8), index * STEP_NS, camera=camera)


def texture(height: int = 120, width: int = 160, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3))
    return np.asarray(cv2.resize(noise.astype(np.uint8), (width, height)), np.uint8)


def test_warp_reads_where_the_flow_points() -> None:
    # One marked pixel at column 3, row 1 of an image that is not square.
    labels = np.zeros((6, 8), np.uint8)
    labels[1, 3] = 7
    right_and_down = warp_labels(labels, moved(-2, -1))
    assert np.argwhere(right_and_down == 7).tolist() == [[2, 5]]
    assert (right_and_down[0] == 255).all(), "row 0 came from outside"
    assert (right_and_down[:, :2] == 255).all(), "columns 0 and 1 came from outside"
    assert (right_and_down == 255).sum() == 8 + 2 * 5
    assert np.array_equal(warp_labels(labels, moved(0, 0)), labels)
    assert np.array_equal(warp_labels(labels, moved(0.4, -0.4)), labels), "to the nearest pixel"


def test_warp_pixel_by_pixel_gives_the_same() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, (6, 8)).astype(np.uint8)
    flow = rng.uniform(-4, 4, (6, 8, 2)).astype(np.float32)
    warped = warp_labels(labels, flow)
    for (y, x), value in np.ndenumerate(warped):
        u, v = round(float(x + flow[y, x, 0])), round(float(y + flow[y, x, 1]))
        inside = 0 <= u < 8 and 0 <= v < 6
        assert value == (labels[v, u] if inside else 255)


def test_flicker_of_a_hand_counted_case() -> None:
    score = TemporalConsistency(3)
    for index, prediction in enumerate(([[0, 0, 1, 1]], [[0, 1, 1, 1]])):
        score.update(frame(index, 1, 4), np.array(prediction, np.uint8), still(1, 4))
    assert score.consistency() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert score.details() == {"pairs": {"exact": 1, "estimated": 0}, "cuts": 0, "visible": 1.0}


def test_occluded_pixels_do_not_count() -> None:
    score = TemporalConsistency(3)
    motion = still(1, 4)
    motion.valid[0, 1] = False
    for index, prediction in enumerate(([[0, 0, 1, 1]], [[0, 1, 1, 1]])):
        score.update(frame(index, 1, 4), np.array(prediction, np.uint8), motion)
    assert score.consistency() == 1.0
    assert score.details()["visible"] == 0.75


@pytest.mark.parametrize(
    "second",
    [
        frame(1, camera="other"),
        frame(1, height=33),
        frame(0),
        Frame(frame(0).image, MAX_STEP_NS + 1),
    ],
    ids=["other camera", "other size", "same stamp", "too late"],
)
def test_frames_that_do_not_follow_are_not_compared(second: Frame) -> None:
    score = TemporalConsistency(2)
    for item in (frame(0), second):
        score.update(item, np.zeros(item.image.shape[:2], np.uint8))
    assert score.consistency() is None
    assert score.details() == {"pairs": {"exact": 0, "estimated": 0}, "cuts": 0, "visible": None}
    last = Frame(second.image, second.stamp_ns + MAX_STEP_NS, camera=second.camera)
    score.update(last, np.zeros(last.image.shape[:2], np.uint8))
    assert score.details()["pairs"]["estimated"] == 1, "the next one follows again"


def test_tiny_images_need_exact_motion() -> None:
    score = TemporalConsistency(2)
    for index in range(2):
        score.update(frame(index, height=31), np.zeros((31, 40), np.uint8))
    assert score.consistency() is None
    score.update(frame(2, height=31), np.zeros((31, 40), np.uint8), still(31, 40))
    assert score.consistency() == 1.0


def test_truth_of_the_street_follows_its_exact_motion() -> None:
    street = Street(3, 96, 72)
    right, wrong, unmoved = (TemporalConsistency(11) for _ in range(3))
    for item in street.frames(4):
        right.update(item.frame, item.labels, Motion(item.flow, ~item.occluded))
        wrong.update(item.frame, item.labels, Motion(-item.flow, ~item.occluded))
        unmoved.update(item.frame, item.labels, still(72, 96))
    figures = [score.consistency() for score in (right, wrong, unmoved)]
    assert figures[0] is not None
    assert figures[1] is not None
    assert figures[2] is not None
    assert figures[0] > 0.97
    assert figures[0] - 0.1 > figures[2] > figures[1]


def test_estimated_motion_follows_a_shifted_picture() -> None:
    picture = texture()
    labels = np.repeat(np.repeat([[0, 1], [2, 3]], 60, 0), 80, 1).astype(np.uint8)
    score, unmoved = TemporalConsistency(4), TemporalConsistency(4)
    for index in range(3):
        shift = (3 * index, -2 * index)
        item = Frame(np.roll(picture, shift, (1, 0)), index * STEP_NS)
        prediction = np.roll(labels, shift, (1, 0))
        score.update(item, prediction)
        unmoved.update(item, prediction, still(120, 160))
    consistency, without = score.consistency(), unmoved.consistency()
    assert consistency is not None
    assert without is not None
    assert consistency > 0.985
    assert without < 0.95
    details = score.details()
    assert details["pairs"] == {"exact": 0, "estimated": 2}
    assert 0.85 < details["visible"] < 1.0, "what came in at two sides was not there before"


def test_a_cut_is_counted_and_not_compared() -> None:
    score = TemporalConsistency(2)
    for index, seed in enumerate((1, 1, 2)):
        labels = np.full((120, 160), index // 2, np.uint8)
        score.update(Frame(texture(seed=seed), index * STEP_NS), labels)
    assert score.details()["cuts"] == 1
    assert score.details()["pairs"]["estimated"] == 1
    assert score.consistency() == 1.0


def test_flows_that_undo_each_other_are_visible() -> None:
    assert consistent(moved(0, 0), moved(0, 0)).all()
    there = consistent(moved(2, 1), moved(-2, -1))
    assert there[:5, :6].all()
    assert not there[5].any(), "below the image"
    assert not there[:, 6:].any(), "right of the image"
    assert not consistent(moved(2, 1), moved(-1, -1)).any(), "one pixel off"
    assert consistent(moved(2, 1), moved(-1.5, -1))[:5, :6].all(), "half a pixel off"


@pytest.mark.parametrize("size", [(32, 300), (32, 700), (300, 32)])
def test_long_images_do_not_crash_the_estimator(size: tuple[int, int]) -> None:
    score = TemporalConsistency(2)
    for index in range(2):
        score.update(frame(index, *size), np.zeros(size, np.uint8))
    assert score.details()["pairs"]["estimated"] == 1
