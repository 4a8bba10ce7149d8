"""Motion: composition against exact flow, estimates, distortion, and tracking (law 8)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.device_motion import OnDevice
from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.matching import TorchMatcher
from seg_node.core.motion import (
    block_distortion,
    block_starts,
    compose,
    fit,
    MAX_GAP_NS,
    same_view,
    still,
    UNKNOWN_DISTORTION,
    unlike,
)
from seg_node.core.tracking import MotionTracker, OnHost, StepTracker
from seg_node.core.types import ConfigError, DataError, Frame, Motion, Reason
from seg_node.data.camvid import CamVid
from seg_node.data.street import Street, StreetFrame
from test.core.motions import moved, picture, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.tracking import AnyMethod

    Grey = NDArray[np.uint8]

RATE_HZ = 15.0
S = 1_000_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def host_tracker(source: str = "auto") -> MotionTracker[Grey, Motion]:
    return MotionTracker(source, OnHost())


def exact(shot: StreetFrame) -> Motion:
    return Motion(shot.flow, ~shot.occluded)


def error_px(motion: Motion, truth: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*np.moveaxis(motion.flow - truth, -1, 0)), np.float64)


def textured(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.asarray(slope > 20)


# ---- composition -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 3])
def test_two_exact_motions_of_the_street_compose_to_the_motion_over_both(seed: int) -> None:
    every = Street(seed, 240, 180, rate_hz=RATE_HZ)
    first, second = every.render(5), every.render(6)
    both = Street(seed, 240, 180, rate_hz=RATE_HZ / 2).render(3)  # the same time as frame 6
    every_second = np.abs(both.frame.image.astype(int) - second.frame.image).mean()
    assert every_second < 3
    motion = compose(exact(second), exact(first))
    error = error_px(motion, both.flow)
    known = motion.valid & ~both.occluded
    assert known.mean() > 0.7
    # Surfaces meet inside a pixel: bilinear composition blends there.
    assert np.percentile(error[known], 90) < 0.05
    assert np.median(error[known]) < 0.02
    swapped = compose(exact(first), exact(second))
    assert np.percentile(error_px(swapped, both.flow)[known], 90) > 0.1


def test_flows_add_where_the_later_one_leads() -> None:
    later, earlier = moved(3.0, -2.0, 20), still(SIZE, 10)
    earlier.flow[40, 50] = (7.0, 5.0)
    motion = compose(later, earlier)
    assert motion.flow[42, 47].tolist() == [10.0, 3.0]
    assert motion.flow[40, 50].tolist() == [3.0, -2.0]
    assert motion.since_ns == 10


def test_unknown_on_either_way_stays_unknown() -> None:
    later, earlier = moved(2.0, 0.0), still(SIZE)
    later.valid[5, 5] = False
    earlier.valid[8, 30] = False
    valid = compose(later, earlier).valid
    assert not valid[5, 5]
    assert not valid[8, 28]
    assert not valid[:, -2:].any()  # they came from outside
    assert valid.sum() == valid.size - 2 * SIZE[0] - 2


def test_content_that_was_coded_anew_on_the_way_is_intra() -> None:
    here, there = np.zeros(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
    here[1, 1], there[10, 10] = True, True
    later, earlier = replace(moved(1.0, 2.0), intra=here), replace(still(SIZE), intra=there)
    both = compose(later, earlier).intra
    assert both is not None
    assert np.argwhere(both).tolist() == [[1, 1], [8, 9]]
    alone = compose(replace(later, intra=None), earlier).intra
    assert alone is not None
    assert np.argwhere(alone).tolist() == [[8, 9]]
    assert compose(later, replace(earlier, intra=None)).intra is here
    assert compose(still(SIZE), still(SIZE)).intra is None


def test_motions_of_different_grids_are_not_joined() -> None:
    with pytest.raises(DataError, match=r"\[120, 160\] and \[60, 80\]"):
        compose(still(SIZE), still((60, 80)))


def test_fit_scales_flow_and_keeps_masks_in_place() -> None:
    motion = replace(moved(4.0, 2.0, 5, (9, 17)), intra=np.zeros((9, 17), np.bool_))
    assert motion.intra is not None
    motion.valid[0, 16], motion.intra[8, 0] = False, True
    small = fit(motion, (5, 5))
    assert small.flow[2, 2].tolist() == [1.0, 1.0]
    assert np.argwhere(~small.valid).tolist() == [[0, 4]]
    assert small.intra is not None
    assert np.argwhere(small.intra).tolist() == [[4, 0]]
    assert small.since_ns == 5


# ---- distortion ------------------------------------------------------------------------------


def test_an_exact_translation_has_no_distortion() -> None:
    wide = picture(3, (140, 190))
    before, image = wide[10:130, 10:170], wide[13:133, 14:174]
    found = block_distortion(image, before, moved(4.0, 3.0), 32)
    assert found.dtype == np.float32
    assert found.shape == (4, 5)
    # The last row and column of blocks came from outside.
    assert found[:-1, :-1].max() == 0
    assert block_distortion(image, before, moved(3.0, 4.0), 32)[:-1, :-1].min() > 1


def test_distortion_is_that_of_the_block_that_changed() -> None:
    before = np.full((100, 150, 3), 90, np.uint8)
    image = before.copy()
    image[32:64, 64:96] += 20
    image[96:, 128:] += 7  # a block of 4 x 22 pixels
    found = block_distortion(image, before, still((100, 150)), 32)
    expected = np.zeros((4, 5))
    expected[1, 2], expected[3, 4] = 20, 7
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_of_unknown_motion_count_as_the_worst() -> None:
    image = picture(4, (64, 64))
    motion = still((64, 64))
    motion.valid[:16, :32] = False
    found = block_distortion(image, image, motion, 32)
    assert found.tolist() == [[UNKNOWN_DISTORTION / 2, 0], [0, 0]]


def test_large_images_and_coarse_motion_have_the_same_blocks() -> None:
    before = np.full((720, 1280, 3), 90, np.uint8)
    image = before.copy()
    image[128:192, 640:704] += 40
    found = block_distortion(image, before, still((45, 80)), 64)
    assert found.shape == (12, 20)
    assert found[2, 10] == pytest.approx(40, abs=4)
    assert np.delete(found.ravel(), 2 * 20 + 10).max() < 4


def test_starts_repeat_where_the_plane_is_coarser_than_the_blocks() -> None:
    rows, columns = block_starts((64, 100), 16, (2, 9))
    assert rows.tolist() == [0, 0, 1, 1]
    assert columns.tolist() == [0, 1, 2, 4, 5, 7, 8]


# ---- tracking --------------------------------------------------------------------------------


def track(tracker: MotionTracker[Grey, Motion], frames: Iterable[Frame]) -> list[Motion | Reason]:
    """Start with the first frame and track the others."""
    first, *rest = frames
    tracker.start(first)
    return [tracker.track(frame) for frame in rest]


def test_estimated_motion_follows_the_street() -> None:
    street = Street(4)
    shots = [street.render(i) for i in range(20, 24)]
    truth = exact(shots[1])
    for shot in shots[2:]:
        truth = compose(exact(shot), truth)
    motion = track(host_tracker("flow"), [shot.frame for shot in shots])[-1]
    assert isinstance(motion, Motion)
    assert motion.since_ns == shots[0].frame.stamp_ns
    clear = truth.valid & textured(shots[-1].frame.image)
    assert clear.sum() > 5_000
    length = np.hypot(truth.flow[..., 0], truth.flow[..., 1])[clear]
    error = error_px(motion, truth.flow)[clear]
    assert np.median(length) > 25
    assert np.median(error) < 3
    assert (error < 0.5 * length).mean() > 0.75  # a swap or sign flip would miss by all of it


def test_the_whole_way_is_refined_against_the_keyframe() -> None:
    street = Street(4, 240, 180)
    frames = [street.render(i).frame for i in range(20, 27)]
    motion = track(host_tracker("flow"), frames)[-1]
    assert isinstance(motion, Motion)
    estimator, greys = FlowEstimator(), [work_image(frame.image) for frame in frames]
    plain = estimator.estimate(greys[0], greys[1])
    for before, grey in pairwise(greys[1:]):
        plain = compose(estimator.estimate(before, grey), plain)
    left, tracked = (
        block_distortion(frames[-1].image, frames[0].image, replace(x, valid=plain.valid), 240)
        for x in (plain, motion)
    )
    assert tracked[0, 0] < 0.9 * left[0, 0]


def test_each_step_goes_on_from_the_one_before_until_the_scene_is_another() -> None:
    street = Street(4)
    frames = [street.render(i).frame for i in range(20, 23)]
    greys = [work_image(frame.image) for frame in frames]
    estimator = FlowEstimator()
    first = estimator.estimate(greys[0], greys[1])
    tracker = host_tracker("flow")
    track(tracker, frames[:2])
    tracker.start(frames[1])  # a keyframe that was followed
    motion = tracker.track(frames[2])
    assert isinstance(motion, Motion)
    going_on = estimator.estimate(greys[1], greys[2], start=first)
    np.testing.assert_array_equal(motion.flow, going_on.flow)
    again = replace(frames[1])
    tracker.start(again)  # a frame that nobody followed
    motion = tracker.track(frames[2])
    assert isinstance(motion, Motion)
    np.testing.assert_array_equal(motion.flow, estimator.estimate(greys[1], greys[2]).flow)


def test_without_a_source_nothing_moves() -> None:
    first, *rest = coded(3)
    frames = [first, *(replace(frame, image=first.image) for frame in rest)]
    for motion in track(host_tracker("none"), frames):
        assert isinstance(motion, Motion)
        assert not motion.flow.any()
        assert motion.valid.all()


def coded(count: int, size: tuple[int, int] = SIZE) -> list[Frame]:
    """Return frames of one picture that moves 4 px a frame, with vectors as codecs state them."""
    wide = picture(5, (size[0], size[1] + 4 * count))
    frames = []
    for i in range(count):
        motion = moved(4.0, 0.0, (i - 1) * S // 10, size) if i else None
        if motion is not None:
            motion = replace(motion, intra=np.zeros(size, np.bool_))
        image = np.ascontiguousarray(wide[:, 4 * i : 4 * i + size[1]])
        frames.append(Frame(image, i * S // 10, motion=motion))
    return frames


@pytest.mark.parametrize("source", ["codec", "auto"])
def test_vectors_of_the_codec_add_up(source: str) -> None:
    motion = track(host_tracker(source), coded(4))[-1]
    assert isinstance(motion, Motion)
    np.testing.assert_array_equal(motion.flow, moved(12.0, 0.0).flow)
    assert motion.intra is not None


def test_flow_ignores_vectors() -> None:
    frames = [replace(x, motion=moved(9.0, 9.0, i * S // 10)) for i, x in enumerate(coded(2), -1)]
    motion = track(host_tracker("flow"), frames)[-1]
    assert isinstance(motion, Motion)
    assert np.median(motion.flow.reshape(-1, 2), axis=0) == pytest.approx([4, 0], abs=0.3)


def test_vectors_are_used_at_the_size_of_the_work_image() -> None:
    motion = track(host_tracker("codec"), coded(3, (720, 960)))[-1]
    assert isinstance(motion, Motion)
    assert motion.flow.shape == (360, 480, 2)
    np.testing.assert_allclose(motion.flow[..., 0], 8 * 479 / 959, rtol=1e-5)


def anew(frame: Frame) -> Frame:
    """Return a frame as a codec that codes all of it anew."""
    motion = replace(still(SIZE, 0), intra=np.ones(SIZE, np.bool_))
    return replace(frame, motion=replace(motion, valid=np.zeros(SIZE, np.bool_)))


def test_codec_frames_that_cannot_be_followed_say_why() -> None:
    first, second, third = coded(3)
    tracker = host_tracker("codec")
    tracker.start(first)
    assert tracker.track(replace(second, motion=None)) is Reason.NO_VECTORS
    assert tracker.track(anew(second)) is Reason.INTRA
    assert tracker.track(third) is Reason.DROPPED
    assert isinstance(tracker.track(second), Motion)
    assert isinstance(tracker.track(third), Motion)


@pytest.mark.parametrize("source", ["codec", "auto"])
def test_blocks_coded_anew_are_unknown_and_the_rest_is_followed(source: str) -> None:
    first, second = coded(2)
    assert second.motion is not None
    assert second.motion.intra is not None
    second.motion.intra[:30] = True
    second.motion.valid[:30] = False
    motion = track(host_tracker(source), [first, second])[-1]
    assert isinstance(motion, Motion)
    assert not motion.valid[:30].any()
    assert (motion.flow == (4.0, 0.0)).all()


def test_auto_estimates_what_the_codec_does_not_state() -> None:
    frames = coded(5)
    frames[1] = replace(frames[1], motion=None)
    frames[2] = anew(frames[2])
    del frames[3]
    motion = track(host_tracker("auto"), frames)[-1]
    assert isinstance(motion, Motion)
    flow = np.median(motion.flow.reshape(-1, 2), axis=0)
    assert flow == pytest.approx([16, 0], abs=0.2)


def test_there_is_nothing_to_follow_before_the_start() -> None:
    assert host_tracker("none").track(coded(1)[0]) is Reason.FIRST


@pytest.mark.parametrize("source", ["flow", "none"])
@pytest.mark.parametrize(
    ("step_ns", "lost"),
    [(MAX_GAP_NS + 1, Reason.GAP), (MAX_GAP_NS, None), (0, None), (-1, Reason.GAP)],
)
def test_a_jump_in_time_is_no_motion(source: str, step_ns: int, lost: Reason | None) -> None:
    frame = Frame(picture(6), 50 * S)
    tracker = host_tracker(source)
    tracker.start(frame)
    found = tracker.track(replace(frame, stamp_ns=50 * S + step_ns))
    assert found is lost if lost else isinstance(found, Motion)


@pytest.mark.parametrize(
    "change",
    [{"image": picture(6, (120, 161))}, {"frame_id": "other"}, {"camera": "rear"}],
)
def test_another_size_frame_id_or_camera_is_no_motion(change: dict[str, object]) -> None:
    frame = Frame(picture(6))
    tracker = host_tracker("flow")
    tracker.start(frame)
    other = replace(frame, **change)  # type: ignore[arg-type]  # a field and its value
    assert not same_view(frame, other)
    assert tracker.track(other) is Reason.CAMERA


def test_a_cut_between_streets_is_seen_and_the_next_scene_followed() -> None:
    one, other = Street(1, 240, 180), Street(2, 240, 180)
    last = one.render(4).frame
    cut, after = other.render(5).frame, other.render(6).frame
    for source in ("flow", "none", "auto"):
        tracker = host_tracker(source)
        tracker.start(last)
        assert tracker.track(cut) is Reason.SCENE_CUT
        tracker.start(cut)
        assert isinstance(tracker.track(after), Motion)


def all_followed(frames: Iterable[Frame]) -> bool:
    """Tell whether a tracker with and one without motion follow all frames."""
    trackers = [host_tracker("flow"), host_tracker("none")]
    first, *rest = frames
    for tracker in trackers:
        tracker.start(first)
    return all(isinstance(t.track(frame), Motion) for frame in rest for t in trackers)


def test_a_drive_on_the_street_has_no_cut() -> None:
    street = Street(1, 240, 180)  # the quickest of the first seven
    assert all_followed(Frame(street.picture(i)[0], i * S // 15) for i in range(150))


@pytest.mark.camvid
def test_a_real_drive_has_no_cut(camvid_dir: Path) -> None:
    (clip,) = CamVid(camvid_dir, "val").clips()
    assert len(clip.frames) == 101
    assert all_followed(ref.load().frame for ref in clip.frames)


def test_without_motion_more_difference_is_no_cut() -> None:
    first = picture(1)
    image = np.asarray(cv2.addWeighted(first, 0.55, picture(2), 0.45, 0), np.uint8)
    assert 0.4 < unlike(work_image(image), work_image(first)) < 0.55
    frames = [Frame(first), Frame(image, S // 10, motion=moved(0.0, 0.0))]
    assert isinstance(track(host_tracker("none"), frames)[-1], Motion)
    assert track(host_tracker("codec"), frames)[-1] is Reason.SCENE_CUT


def test_noise_in_the_dark_is_no_cut() -> None:
    rng = np.random.default_rng(8)
    dark = [rng.integers(0, 6, SIZE).astype(np.uint8) for _ in range(2)]
    assert unlike(dark[0], dark[1]) < 0.4
    assert unlike(work_image(picture(1)), work_image(picture(2))) > 0.55


# ---- a camera that stands still --------------------------------------------------------------

METHODS = [OnHost(), OnDevice(torch.device("cpu"), TorchMatcher())]
NOISE = 4.0


def noisy(image: NDArray[np.uint8], index: int) -> Frame:
    noise = np.random.default_rng(index).normal(0, NOISE, image.shape)
    return Frame(np.clip(np.round(image + noise), 0, 255).astype(np.uint8), index * S // 15)


def steps(
    method: AnyMethod, frames: Iterable[Frame]
) -> tuple[StepTracker[Any, Any], NDArray[np.float32]]:
    """Follow some frames; return the tracker and the flow of the last step."""
    tracker = StepTracker("flow", method)
    first, *rest = frames
    tracker.start(first)
    found = [tracker.track(frame) for frame in rest][-1]
    assert not isinstance(found, Reason)
    return tracker, np.asarray(found.flow)


@pytest.mark.parametrize("method", METHODS)
def test_the_noise_of_a_still_camera_moves_nothing(method: AnyMethod) -> None:
    """Nor is what it remembers corrected by it; a camera that moves is, by the same noise."""
    image = Street(1, 240, 180).picture(0)[0]
    tracker, flow = steps(method, (noisy(image, i) for i in range(5)))
    assert tracker.standing
    assert (flow == 0).all(-1).mean() > 0.99
    one, other = (work_image(noisy(image, i).image) for i in (7, 8))
    assert (tracker.correct(one, other) == 0).all(-1).mean() > 0.99
    assert (method.correct(one, other) == 0).all(-1).mean() < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_what_moves_before_a_still_camera_is_followed_through_its_noise(method: AnyMethod) -> None:
    image, thing = Street(1, 240, 180).picture(0)[0], picture(3, (36, 36))
    shown = []
    for index in range(4):
        image_now = image.copy()
        image_now[70:106, 60 + 3 * index : 96 + 3 * index] = thing
        shown.append(noisy(image_now, index))
    tracker, flow = steps(method, shown)
    assert tracker.standing
    assert np.median(flow[78:98, 77:97], (0, 1)) == pytest.approx([-3, 0], abs=0.9)
    assert (flow[120:, 120:] == 0).all(-1).mean() > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_a_camera_that_moves_does_not_stand_for_its_noise(method: AnyMethod) -> None:
    street = Street(1, 240, 180, rate_hz=RATE_HZ)
    tracker, flow = steps(method, (noisy(street.picture(i)[0], i) for i in range(4)))
    assert not tracker.standing
    assert (flow == 0).all(-1).mean() < 0.1


def test_motion_that_is_stated_is_never_noise() -> None:
    image = picture(1)
    tracker = StepTracker("none", OnHost())
    tracker.start(noisy(image, 0))
    assert isinstance(tracker.track(noisy(image, 1)), Motion)
    assert not tracker.standing


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"motion.source is 'codecs'; choose one of auto, codec"):
        host_tracker("codecs")
