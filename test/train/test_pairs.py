"""Pairs of frames: the motion between them leads from the present frame to the remembered one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import DataError, IGNORE_LABEL, Motion
from seg_node.core.warp import pull
from seg_node.data.clips import StreetClip
from seg_node.train.augment import Picture
from seg_node.train.low_settings import LowTraining
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.pair_motion import disturbed, estimated
from seg_node.train.pairs import augment_pair, flipped, FramePair
from seg_node.train.rides import real_rides, render_ride, Ride, Steps
from seg_node.train.still_pairs import still_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = LowTraining(
    batch=3,
    crop_width=128,
    crop_height=64,
    jitter=0.0,
    blur=0.0,
    jpeg=0.0,
    flip=0.0,
    scale_min=1.3,
    scale_max=1.3,
    motion_noise=0.0,
    estimated_share=0.0,
    hidden_known=1.0,
)


def textured(seed: int = 0) -> Picture:
    """Return a picture of smooth patches with a small thing of class 2."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = np.asarray(cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC), np.uint8)
    labels = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > 127).astype(np.uint8)
    labels[40:70, 60:85] = 2
    return Picture(image, labels)


@pytest.fixture(scope="module")
def ride() -> Ride:
    """Return some frames of a small street."""
    return render_ride(1_000_003, 40, 7, (160, 120))


def error(pair: FramePair, flow: NDArray[np.float32] | None = None) -> float:
    """Return how badly the moved remembered image explains the present one, where valid."""
    moved = pull(pair.key, pair.motion.flow if flow is None else flow)
    difference = cv2.absdiff(moved, pair.picture.image).mean(-1)
    return float(difference[pair.motion.valid].mean())


def assert_explains(pair: FramePair, limit: float) -> None:
    """Check the motion, and that no wrong one is as good."""
    flow = pair.motion.flow
    assert error(pair) < limit
    turned = flow * np.array((-1, 1), np.float32)
    for wrong in (-flow, flow[..., ::-1].copy(), 0.5 * flow, turned):
        assert error(pair, wrong) > 1.2 * error(pair)


@pytest.mark.parametrize("distance", [3, 6])
def test_the_motion_of_a_street_is_exact_over_any_distance(ride: Ride, distance: int) -> None:
    pair = ride.pair(6, distance)
    assert_explains(pair, 6.0)
    assert np.array_equal(pair.key, ride.images[6 - distance])
    assert ride.labels is not None
    assert np.array_equal(pair.picture.labels, ride.labels[6])
    unmarked = replace(pair, motion=replace(pair.motion, valid=np.ones_like(pair.motion.valid)))
    assert error(unmarked) > error(pair)
    guess = ride.pair(6, distance, estimate=True)
    assert not np.array_equal(guess.motion.flow, pair.motion.flow)
    gap = np.abs(guess.motion.flow - pair.motion.flow).max(-1)
    assert float(np.median(gap[pair.motion.valid])) < 1.5


def test_steps_add_up_from_the_present_back_to_the_key() -> None:
    flows = [np.full((8, 8, 2), 0.25 * 2**n, np.float16) for n in range(5)]
    steps = Steps(flows, [np.ones((8, 8), np.bool_) for _ in range(5)])
    assert (steps.motion(4, 1).flow == flows[4]).all()
    assert (steps.motion(4, 3).flow == flows[4] + flows[3] + flows[2]).all()
    assert (steps.motion(3, 3).flow == flows[3] + flows[2] + flows[1]).all()


@pytest.mark.parametrize("with_things", [False, True])
def test_a_still_becomes_a_pair_with_exact_motion(with_things: bool) -> None:  # noqa: FBT001 - a case
    things = textured(1) if with_things else None
    pairs = [still_pair(textured(), things, 11, np.random.default_rng(s)) for s in (1, 4, 5, 6)]
    for pair in pairs:
        assert_explains(pair, 1.5)
        assert float(pair.motion.valid.mean()) > 0.3
    labels = [np.unique(pair.picture.labels).tolist() for pair in pairs]
    assert any(IGNORE_LABEL in found for found in labels)
    for pair in pairs:
        # The labels moved as the image did: dark patches are class 0, bright ones 1.
        bright = cv2.cvtColor(pair.picture.image, cv2.COLOR_RGB2GRAY) > 127
        known = pair.picture.labels < 2
        assert float((pair.picture.labels == bright)[known].mean()) > 0.95


def test_things_of_another_frame_move_by_themselves_and_hide_what_is_behind() -> None:
    for seed in range(20):
        camera = still_pair(textured(), None, 11, np.random.default_rng(seed))
        pair = still_pair(textured(), textured(1), 11, np.random.default_rng(seed))
        own = np.any(pair.motion.flow != camera.motion.flow, axis=-1)
        if set(np.unique(pair.picture.labels[own])) == {2}:
            break
    assert 50 < int(own.sum()) < 3000
    hidden = camera.motion.valid & ~pair.motion.valid
    assert int(hidden.sum()) > 20
    seen = replace(pair, motion=Motion(pair.motion.flow, hidden & ~own))
    assert error(seen) > 10 * error(pair)


def test_scaling_cropping_and_flipping_keep_the_motion(ride: Ride) -> None:
    pair = ride.pair(6, 3)
    assert error(flipped(pair)) == pytest.approx(error(pair), abs=0.3)
    assert_explains(flipped(pair), 6.0)
    still = still_pair(textured(), None, 11, np.random.default_rng(1))
    for seed in range(6):
        how = replace(PLAIN, flip=0.5 * (seed % 3), scale_min=0.6, scale_max=1.7)
        made = augment_pair(still, how, np.random.default_rng(seed))
        assert made.picture.image.shape == made.key.shape == (64, 128, 3)
        assert made.motion.flow.shape == (64, 128, 2)
        assert_explains(made, 6.0)


def test_padding_is_void_and_never_valid() -> None:
    pair = still_pair(textured(), None, 1, np.random.default_rng(0))
    how = replace(PLAIN, crop_width=192, crop_height=192, scale_min=1.0, scale_max=1.0)
    made = augment_pair(pair, how, np.random.default_rng(0))
    assert (made.picture.labels[120:] == IGNORE_LABEL).all()
    assert not made.motion.valid[120:].any()
    assert not made.motion.valid[:, 160:].any()
    # A flow that leads into the padding has nothing to show either.
    right = replace(pair, motion=replace(pair.motion, flow=pair.motion.flow * 0 + 12))
    moved = augment_pair(right, how, np.random.default_rng(0))
    assert not moved.motion.valid[:, 148:].any()
    assert moved.motion.valid[20:100, 20:140].any()


def test_the_images_of_a_pair_are_disturbed_each_by_itself() -> None:
    picture = textured()
    still = Motion(np.zeros((120, 160, 2), np.float32), np.ones((120, 160), np.bool_))
    pair = FramePair(picture, picture.image, still)
    made = augment_pair(pair, replace(PLAIN, jitter=0.4), np.random.default_rng(0))
    apart = float(cv2.absdiff(made.key, made.picture.image).mean())
    assert 1.0 < apart < 30.0


def test_disturbed_motion_is_somewhat_wrong_and_in_blocks() -> None:
    flow = np.full((120, 160, 2), 6.0, np.float32)
    motion = Motion(flow, np.ones((120, 160), np.bool_))
    made = [disturbed(motion, np.random.default_rng(seed)) for seed in range(20)]
    gaps = [float(np.abs(m.flow - flow).mean()) for m in made]
    assert 0.1 < min(gaps) < max(gaps) < 4.0
    blocks = [m for m in made if np.ptp(m.flow[:8, :8], axis=(0, 1)).max() == 0]
    assert 5 <= len(blocks) <= 15
    assert all((m.flow * 4 == np.round(m.flow * 4)).all() for m in blocks)
    still = [(m.flow == 0).all(-1) for m in blocks]
    assert any(lost.any() for lost in still)
    marked = [not m.valid[lost].any() for m, lost in zip(blocks, still, strict=True) if lost.any()]
    assert any(marked)
    assert not all(marked)


def test_estimated_motion_leads_to_the_key() -> None:
    pair = still_pair(textured(), None, 1, np.random.default_rng(3))
    assert_explains(replace(pair, motion=estimated(pair.key, pair.picture.image)), 6.0)


def test_batches_depend_on_seed_and_step_and_mix_their_pools(ride: Ride) -> None:
    config = replace(PLAIN, batch=24, street_share=0.3, unlabelled_share=0.3)
    loose = Ride(ride.images, ride.estimated)
    pools = PairPools([textured(s) for s in range(3)], [ride], [loose])
    make = PairMaker(pools, config)
    batch, again, other = make(3), PairMaker(pools, config)(3), make(4)
    assert all(
        np.array_equal(getattr(batch, name), getattr(again, name))
        for name in ("images", "labels", "keys", "flow", "valid")
    )
    assert not np.array_equal(batch.keys, other.keys)
    void = (batch.labels == IGNORE_LABEL).flatten(1).all(1)
    street = ((batch.labels > 2) & (batch.labels != IGNORE_LABEL)).flatten(1).any(1)
    assert 2 <= int(void.sum()) <= 14
    assert 2 <= int(street.sum()) <= 14
    assert batch.images.shape == batch.keys.shape == (24, 3, 64, 128)
    assert batch.flow.shape == (24, 64, 128, 2)


def test_every_distance_is_drawn(ride: Ride, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    pair = Ride.pair

    def noted(self: Ride, now: int, distance: int, *, estimate: bool = False) -> FramePair:
        drawn.append((now, distance))
        return pair(self, now, distance, estimate=estimate)

    monkeypatch.setattr(Ride, "pair", noted)
    config = replace(PLAIN, batch=40, street_share=1.0, distance_max=4)
    PairMaker(PairPools([textured()], [ride]), config)(0)
    assert {distance for _, distance in drawn} == {1, 2, 3, 4}
    assert all(now - distance >= 0 for now, distance in drawn)


def test_clips_are_thinned_out_and_slow_ones_refused() -> None:
    clip = StreetClip(3, 5, (64, 48))
    (ride,) = real_rides(clip, 1 << 30)
    assert len(ride) == 5
    assert ride.exact is None
    pair = ride.pair(4, 2)
    assert (pair.picture.labels == IGNORE_LABEL).all()
    with pytest.raises(DataError, match=r"street:3 has no consecutive frames at 5 Hz or more"):
        real_rides(StreetClip(3, 1, (64, 48)), 1 << 30)
