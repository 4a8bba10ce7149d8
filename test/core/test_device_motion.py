"""Motion where frames are computed: what the host's method does, without the host."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import block_mean, plane_means
from seg_node.core.budgeted import Budgeted
from seg_node.core.config import Config, Value
from seg_node.core.device_motion import DeviceMotion, OnDevice
from seg_node.core.flow import work_image
from seg_node.core.history import History
from seg_node.core.matching import TorchMatcher
from seg_node.core.memory import moved as moved_features
from seg_node.core.motion import compose, explained, fit, unlike
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import UNTRAINED
from seg_node.core.tracking import choose_method, MotionTracker, OnHost, StepTracker
from seg_node.core.types import Frame, Motion, Reason
from seg_node.core.warp import pull
from seg_node.data.street import Street
from test.core.motions import moved, picture
from test.core.test_adaptive import Redness

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = torch.device("cpu")
SIZE = (60, 84)
STEP_NS = 66_000_000


def on_device() -> OnDevice:
    return OnDevice(CPU, TorchMatcher())


def plane(seed: int) -> NDArray[np.uint8]:
    return work_image(picture(seed, SIZE))


def there(motion: Motion) -> DeviceMotion:
    """Return a motion with its planes as tensors."""
    intra = None if motion.intra is None else torch.from_numpy(motion.intra)
    return DeviceMotion(
        torch.from_numpy(motion.flow), torch.from_numpy(motion.valid), intra, motion.since_ns
    )


def random_motion(seed: int, *, coded: bool) -> Motion:
    """Return a motion by whole pixels, with holes; some of it leads outside."""
    rng = np.random.default_rng(seed)
    flow = rng.integers(-9, 10, (*SIZE, 2)).astype(np.float32)
    valid, intra = rng.random((2, *SIZE)) < 0.8
    return Motion(flow, valid & ~(coded & intra), intra if coded else None, seed)


def drive(count: int, pixels: int = 2) -> list[Frame]:
    """Return frames of a camera that looks ever further right."""
    wide = picture(4, (SIZE[0], SIZE[1] + count * pixels))
    return [
        Frame(wide[:, i * pixels : i * pixels + SIZE[1]].copy(), i * STEP_NS, "optical", "front")
        for i in range(count)
    ]


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Counts how often the host would wait for a number of the device."""

    def __init__(self) -> None:
        """Count from 0."""
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operation before it runs."""
        name = str(func)
        self.count += any(word in name for word in ("_local_scalar_dense", "nonzero", "equal"))
        return func(*args, **(kwargs or {}))


# ---- the algebra of motions ----------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (True, True)])
def test_motions_are_joined_as_on_the_host(*, first: bool, second: bool) -> None:
    later, earlier = random_motion(1, coded=first), random_motion(2, coded=second)
    expected = compose(later, earlier)
    found = on_device().compose(there(later), there(earlier))
    np.testing.assert_array_equal(found.flow.numpy(), expected.flow)
    np.testing.assert_array_equal(found.valid.numpy(), expected.valid)
    assert found.since_ns == 2
    assert (found.intra is None) == (expected.intra is None)
    if found.intra is not None and expected.intra is not None:
        np.testing.assert_array_equal(found.intra.numpy(), expected.intra)


def test_vectors_are_brought_to_the_size_of_the_pictures() -> None:
    motion = replace(random_motion(3, coded=True), since_ns=17)
    expected = fit(motion, (45, 63))
    found = on_device().fitted(motion, torch.zeros(45, 63))
    np.testing.assert_array_equal(found.flow.numpy(), expected.flow)
    np.testing.assert_array_equal(found.valid.numpy(), expected.valid)
    assert found.intra is not None
    assert expected.intra is not None
    np.testing.assert_array_equal(found.intra.numpy(), expected.intra)
    assert found.since_ns == 17


def test_a_step_is_handed_over_at_any_size_as_by_the_host() -> None:
    motion = random_motion(5, coded=False)
    expected, known = OnHost().step_at(motion, (30, 21))
    found, valid = on_device().step_at(there(motion), (30, 21))
    np.testing.assert_array_equal(found, expected)
    assert valid.equal(known)


def test_features_are_moved_the_same() -> None:
    motion = random_motion(6, coded=False)
    features = torch.rand(1, 5, 15, 21, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(
        moved_features(features, there(motion)), moved_features(features, motion), strict=True
    ):
        assert found.equal(expected)


def test_a_picture_is_as_unlike_the_moved_one_as_on_the_host() -> None:
    motion = moved(2.0, -1.0, size=SIZE)
    for before, image in ((plane(1), plane(2)), (plane(1), np.full(SIZE, 90, np.uint8))):
        old, new = (torch.from_numpy(x).float() for x in (before, image))
        found = on_device().change(old, new, there(motion))
        shifted = pull(before, motion.flow)
        assert found.unlike == pytest.approx(unlike(image, shifted), rel=0.01)
        assert found.explained == pytest.approx(explained(image, before, shifted), abs=0.02)


# ---- pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(360, 480), (720, 960), (500, 777), (1, 9)], ids=str)
def test_grey_pictures_are_those_of_the_host(size: tuple[int, int]) -> None:
    frame = Frame(picture(2, size))
    found = on_device().see(frame)
    expected = work_image(frame.image)
    assert found.shape == expected.shape
    # Where pixels do not divide evenly, both average them, each in its own way.
    even = size[0] % expected.shape[0] == 0 and size[1] % expected.shape[1] == 0
    assert np.abs(found.numpy() - expected).mean() < (0.6 if even else 2.5)
    grey = on_device().grey(frame, (size[0], size[1] // 3))
    assert np.abs(grey.numpy() - OnHost().grey(frame, (size[0], size[1] // 3)).numpy()).mean() < 1


def test_the_image_is_read_where_it_was_uploaded_to() -> None:
    """And that of another frame is not taken for it."""
    method, frame, other = on_device(), Frame(picture(1, SIZE)), Frame(picture(2, SIZE))
    uploaded = torch.full((1, 3, *SIZE), 77, dtype=torch.uint8)
    method.take(frame, uploaded)
    assert (method.see(frame) - 77).abs().max() < 0.01
    assert np.abs(method.see(other).numpy() - work_image(other.image)).mean() < 0.6


# ---- estimates -----------------------------------------------------------------------------


def test_refining_keeps_what_is_right_and_mends_what_is_wrong() -> None:
    wide = picture(1, (80, 110))
    before, image = (work_image(x) for x in (wide[10:70, 10:94], wide[13:73, 14:98]))
    motion = moved(4.0, 3.0, 7, SIZE)
    motion.flow[:, 48:] += np.array([2.0, -3.0], np.float32)
    pictures = [torch.from_numpy(x).float() for x in (before, image)]
    found = on_device().refine(pictures[0], pictures[1], there(motion))
    assert (found.flow[:50, :36] == torch.tensor([4.0, 3.0])).all()
    assert (found.flow[10:46, 58:72] == torch.tensor([4.0, 3.0])).all()
    assert found.since_ns == 7


def test_what_is_left_of_motion_is_found() -> None:
    wide = work_image(picture(1, (80, 110)))
    left = on_device().correct(wide[10:70, 10:94], wide[11:71, 8:92])
    assert (left[12:-12, 12:-12] == np.array([-2, 1], np.float32)).all()
    assert not on_device().correct(wide, wide).any()


def test_motion_is_valid_where_it_leads_to_the_earlier_image() -> None:
    wide = torch.from_numpy(work_image(picture(1, (80, 110)))).float()
    motion = on_device().estimate(wide[10:70, 10:94], wide[10:70, 15:99], 5, None)
    assert not motion.valid[12:-12, -4:].any()
    assert motion.valid[:, :-14].float().mean() > 0.99
    assert motion.since_ns == 5


# ---- following frames ----------------------------------------------------------------------


def test_a_street_is_followed_to_a_keyframe_and_a_cut_is_seen() -> None:
    street = Street(7, 160, 120)
    shots = [street.render(index) for index in range(20, 24)]
    tracker = MotionTracker("flow", on_device())
    tracker.track(shots[0].frame)
    tracker.start(shots[0].frame)
    error = {}
    truth = Motion(shots[1].flow, ~shots[1].occluded)
    for number, (_, shot) in enumerate(pairwise(shots), 1):
        found = tracker.track(shot.frame)
        assert isinstance(found, DeviceMotion)
        step = Motion(shot.flow, ~shot.occluded)
        truth = step if number == 1 else compose(step, truth)
        difference = np.linalg.norm(found.flow.numpy() - truth.flow, axis=-1)
        error[number] = np.median(difference[truth.valid])
    assert max(error.values()) < 0.6
    assert (
        tracker.track(replace(shots[-1].frame, image=picture(3, (120, 160)))) is Reason.SCENE_CUT
    )


def test_vectors_of_the_stream_are_used() -> None:
    frames = drive(2)
    frames[1] = replace(frames[1], motion=moved(6.0, 1.0, 0, SIZE))
    tracker = StepTracker("codec", on_device())
    tracker.start(frames[0])
    found = tracker.track(replace(frames[0], motion=moved(6.0, 1.0, 0, SIZE)))
    assert isinstance(found, Reason)  # what a stream states has to explain the picture
    close = [
        replace(frame, image=np.asarray(cv2.blur(frame.image, (25, 25)), np.uint8))
        for frame in frames
    ]
    tracker = StepTracker("codec", on_device())
    tracker.start(close[0])
    found = tracker.track(close[1])
    assert isinstance(found, DeviceMotion)
    assert (found.flow == torch.tensor([6.0, 1.0])).all()


def small_drive(count: int) -> list[Frame]:
    return [Frame(frame.image[:24, :32].copy(), frame.stamp_ns) for frame in drive(count)]


def test_mode_warp_waits_for_two_numbers_that_tell_what_the_camera_does() -> None:
    frames, config = small_drive(3), Config(device="cpu")
    features = torch.rand(1, 2, 6, 8)
    history = History(on_device())
    history.look(frames[0], config)
    history.keep(frames[0], features, features, 32)
    for frame in frames[1:]:
        with Waits() as waits:
            assert history.look(frame, config).lost is None
            history.logits()
            history.age_ms(frame)
        assert waits.count == 2


def test_mode_adaptive_waits_for_two_numbers_besides_the_planes_that_its_host_reads() -> None:
    """Those are in docs/gpu.md."""
    frames, config = small_drive(2), Config(device="cpu")
    history = BlockHistory(4, 32, CPU, on_device())
    history.look(frames[0], config)
    history.keep_all(frames[0], torch.rand(1, 2, 6, 8))
    with Waits() as waits:
        assert history.look(frames[1], config).lost is None
    assert waits.count == 2


@pytest.mark.parametrize("mode", ["warp", "adaptive"])
def test_modes_run_with_it_and_a_still_picture_keeps_its_mask(mode: str) -> None:
    """Law 2: no block computed, no motion: the previous result, bit for bit."""
    values: dict[str, Value] = {"mode": mode, "block_size": 32, "device": "cpu"}
    values |= {"motion.estimator": "matching", "budget.compute": 0.0, "reuse.threshold": 255.0}
    config = Config().updated(values)
    segmenter = Segmenter(Redness(), {**UNTRAINED, "adaptive": Budgeted()}, config)
    frame = drive(1)[0]
    results = [segmenter.step(replace(frame, stamp_ns=i * STEP_NS)) for i in range(3)]
    assert results[0].plan.reason is Reason.FIRST
    for result in results[1:]:
        assert not result.plan.grid.any()
        np.testing.assert_array_equal(result.labels, results[0].labels)
        np.testing.assert_array_equal(result.confidence, results[0].confidence)


def test_a_moving_picture_takes_its_mask_along() -> None:
    """Dense and warped masks agree where content was seen, on what matching found."""
    config = Config(device="cpu", mode="warp").updated({"motion.estimator": "matching"})
    segmenter = Segmenter(Redness(), UNTRAINED, config)
    dense = Segmenter(Redness(), UNTRAINED, Config(device="cpu", mode="dense"))
    agreements, copied = [], []
    first = None
    for frame in drive(4, pixels=4):
        found, wanted = segmenter.step(frame).labels, dense.step(frame).labels
        first = wanted if first is None else first
        agreements.append((found == wanted)[:, :-16].mean())
        copied.append((first == wanted)[:, :-16].mean())
    assert agreements[-1] > 0.98
    assert 1 - agreements[-1] < 0.4 * (1 - copied[-1])


# ---- the choice ----------------------------------------------------------------------------


def test_the_device_is_chosen_where_kernels_are_fused() -> None:
    gpu = torch.device("cuda")
    assert isinstance(choose_method("auto", CPU, TorchMatcher()), OnHost)
    assert isinstance(choose_method("auto", gpu, None), OnHost)
    assert isinstance(choose_method("auto", gpu, TorchMatcher()), OnDevice)
    assert isinstance(choose_method("dis", gpu, TorchMatcher()), OnHost)
    assert isinstance(choose_method("matching", CPU, None), OnDevice)


# ---- means of blocks -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 11), (8, 8), (3, 2)], ids=str)
def test_blocks_are_averaged_as_on_the_host(size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).random(size).astype(np.float32)
    found = plane_means(torch.from_numpy(values)[None], 4)[0]
    np.testing.assert_allclose(found.numpy(), block_mean(values, 4), rtol=1e-12)
