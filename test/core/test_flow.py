"""Estimated motion: axes and signs, every shape, refining, starting from what is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.motion import still
from seg_node.core.warp import origin
from seg_node.data.street import Street
from test.core.motions import moved, picture, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def test_a_translation_is_found_with_its_axes_and_signs() -> None:
    wide = picture(1, (140, 190))
    before, image = wide[10:130, 10:170], wide[13:133, 15:175]  # came from 5 right and 3 below
    motion = FlowEstimator().estimate(work_image(before), work_image(image), 17)
    assert np.median(motion.flow.reshape(-1, 2), axis=0) == pytest.approx([5, 3], abs=0.3)
    assert motion.since_ns == 17
    assert not motion.valid[-1, -1]
    assert motion.valid[:-6, :-8].mean() > 0.99


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (5, 9), (11, 300), (12, 12), (13, 12), (17, 640), (75, 31)]
)
def test_images_of_every_shape_have_motion(size: tuple[int, int]) -> None:
    image = picture(2, size)
    motion = FlowEstimator().estimate(work_image(image), work_image(image))
    assert motion.flow.shape == (*size, 2)
    assert motion.flow.dtype == np.float32
    assert np.abs(motion.flow).max() < 0.5


def test_noise_moves_nothing_out_of_the_image() -> None:
    """A still camera sees all that it saw; one that moves a pixel on does not."""
    image = picture(1, (120, 160)).astype(np.float32)
    rng = np.random.default_rng(0)
    before, after = (
        np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8) for _ in range(2)
    )
    still_motion = FlowEstimator().estimate(work_image(before), work_image(after))
    x, y = origin(still_motion.flow)
    assert ((x < 0) | (x > 159) | (y < 0) | (y > 119)).mean() > 0.005  # the noise leads beyond
    assert still_motion.valid.mean() > 0.998
    moved_on = FlowEstimator().estimate(work_image(before[:, 1:]), work_image(after[:, :-1]))
    assert not moved_on.valid[20:-20, 0].any()


def test_refining_keeps_what_is_right_and_mends_what_is_wrong() -> None:
    wide = picture(1, (140, 190))
    before, image = (work_image(x) for x in (wide[10:130, 10:170], wide[13:133, 14:174]))
    motion = replace(moved(4.0, 3.0, 7), intra=np.zeros(SIZE, np.bool_))
    motion.flow[:, 90:] += np.array([2.0, -3.0], np.float32)
    given = motion.flow.copy()
    found = FlowEstimator().refine(before, image, motion)
    np.testing.assert_array_equal(motion.flow, given)
    assert (found.flow[:110, :80] == np.array([4, 3], np.float32)).all()
    wrong = found.flow[:110, 100:150].reshape(-1, 2)
    assert np.median(wrong, axis=0) == pytest.approx([4, 3], abs=0.5)
    assert found.valid is motion.valid
    assert found.intra is motion.intra
    assert found.since_ns == 7


def test_an_estimate_does_not_depend_on_what_was_refined_before() -> None:
    estimator = FlowEstimator()
    before, image, other = (work_image(picture(seed)) for seed in (1, 2, 3))
    alone = estimator.estimate(before, image).flow
    estimator.refine(other, image, moved(9.0, -4.0))
    np.testing.assert_array_equal(estimator.estimate(before, image).flow, alone)
    started = FlowEstimator().estimate(before, image, start=moved(2.0, 1.0)).flow
    again = estimator.estimate(before, image, start=moved(2.0, 1.0)).flow
    np.testing.assert_array_equal(again, started)
    old, new = (work_image(picture(seed, (60, 90))) for seed in (1, 2))
    np.testing.assert_array_equal(
        estimator.refine(old, new, still((60, 90))).flow,
        FlowEstimator().refine(old, new, still((60, 90))).flow,
    )


def test_a_start_leads_further_than_an_estimate_from_nothing() -> None:
    wide = picture(1, (140, 260))
    before, image = (work_image(x) for x in (wide[10:130, 10:170], wide[10:130, 60:220]))
    estimator, start = FlowEstimator(), moved(48.0, 1.0)
    known = estimator.estimate(before, image, 3, start)
    assert np.median(known.flow[:, :100].reshape(-1, 2), axis=0) == pytest.approx([50, 0], abs=1)
    assert not known.valid[:, -40:].any()
    assert known.since_ns == 3
    assert start.flow[5, 5].tolist() == [48.0, 1.0]
    lost = estimator.estimate(before, image)
    assert abs(np.median(lost.flow[:, :100, 0]) - 50) > 20


def test_a_tiny_motion_can_be_refined() -> None:
    image = work_image(picture(2, (5, 9)))
    assert FlowEstimator().refine(image, image, still((5, 9))).flow.shape == (5, 9, 2)


@pytest.mark.parametrize(
    ("size", "work"),
    [((360, 480), (360, 480)), ((720, 960), (360, 480)), ((36, 48), (36, 48)), ((1, 9), (1, 9))],
)
def test_work_images_have_at_most_480x360_pixels(
    size: tuple[int, int], work: tuple[int, int]
) -> None:
    assert work_image(np.zeros((*size, 3), np.uint8)).shape == work


def test_it_is_finer_than_the_preset_it_goes_on_from() -> None:
    """By the exact motion of a street, where the earlier frame shows the content."""
    street = Street(1)
    before, shot = street.render(20).frame, street.render(21)
    pair = work_image(before.image), work_image(shot.frame.image)
    seen = ~shot.occluded
    ours, preset = (
        np.median(np.abs(estimator.estimate(*pair).flow - shot.flow)[seen].max(-1))
        for estimator in (FlowEstimator(), FlowEstimator(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST))
    )
    assert ours < 0.85 * preset
