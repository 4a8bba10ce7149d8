"""Batches of slimmed data: a function of (seed, step), small where frames are simple."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from seg_node.core.types import ConfigError
from seg_node.train.batches import BatchMaker, Pools
from seg_node.train.data_slimming import DataManifest, SlimFrame
from seg_node.train.slim_batches import SlimBatchMaker
from test.train.slim_samples import frames, maker, TINY

if TYPE_CHECKING:
    from seg_node.train.slim_settings import SlimTraining

DATA = replace(TINY, slim="data", training_macs=0.5, steps=200, warmup=0)
FRAMES = (
    SlimFrame("a", 1.0, 0.5, 0.25, 2.0),
    SlimFrame("b", 2.0, 0.5, 1.0, 1.0),
    SlimFrame("c", 3.0, 1.0, 1.0, 0.5),
)
LISTED = DataManifest("gradient", 0.5, FRAMES)


def listed(config: SlimTraining = DATA, pools: Pools | None = None) -> SlimBatchMaker:
    return SlimBatchMaker(pools or Pools(frames(3)), config, LISTED, (0, 150))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    make, again = maker(DATA), maker(DATA)
    ahead = dict(make.run(3, 9))
    for step in (7, 3, 8):
        one, other = ahead[step], again(step)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.emphasis is not None
        assert torch.equal(one.emphasis, other.emphasis)  # type: ignore[arg-type]  # as above
    seeded = maker(replace(DATA, seed=1))
    scales = [[each.scale(step) for step in range(30)] for each in (make, seeded)]
    assert scales[0] != scales[1]


def test_steps_have_the_scales_of_the_frames_in_their_proportion() -> None:
    make = listed()
    counts = Counter(make.scale(step) for step in range(150))
    assert counts.keys() == {0.5, 1.0}
    assert 80 < counts[0.5] < 120  # two frames of three
    for step in range(12):
        batch = make(step)
        side = 64 if make.scale(step) == 1.0 else 32
        assert batch.images.shape[-2:] == batch.labels.shape[-2:] == (side, side)
        assert len(batch.images) == len(make.slots(step)) >= 2


def test_frames_come_at_their_scale_and_as_often_as_they_are_kept() -> None:
    make = listed(replace(DATA, batch=16))
    used: Counter[int] = Counter()
    for step in range(150):
        for slot in make.slots(step):
            index = make.frame(step, slot)
            assert FRAMES[index].scale == make.scale(step)
            used[index] += 1
    assert used[0] / used[1] == pytest.approx(0.25, rel=0.2)
    assert used[2] / used[1] == pytest.approx(1.0, rel=0.2)


def test_dropped_samples_leave_the_others_as_they_are() -> None:
    make = listed()
    step = next(s for s in range(150) if make.scale(s) == 0.5 and len(make.slots(s)) == 3)
    kept = make.slots(step)
    whole = torch.stack([torch.from_numpy(make._sample(step, s).labels.copy()) for s in kept])
    assert torch.equal(make(step).labels, whole.long())
    weights = make(step).emphasis
    assert weights is not None
    assert weights.tolist() == [FRAMES[make.frame(step, slot)].weight for slot in kept]


def test_two_samples_stay_at_least() -> None:
    rare = tuple(replace(frame, keep=1e-9) for frame in FRAMES)
    make = SlimBatchMaker(Pools(frames(3)), DATA, replace(LISTED, frames=rare), (0, 150))
    assert {len(make.slots(step)) for step in range(20)} == {2}


def test_outside_of_its_steps_the_data_are_whole() -> None:
    make, plain = listed(), BatchMaker(Pools(frames(3)), DATA)
    for step in (150, 199):
        assert make.scale(step) == 1.0
        one, other = make(step), plain(step)
        assert torch.equal(one.images, other.images)
        assert one.emphasis is None


def test_small_frames_show_as_much_of_the_scene() -> None:
    make = listed(replace(DATA, scale_min=1.0, scale_max=1.0))
    how, crop = make.look(next(s for s in range(9) if make.scale(s) == 0.5))
    assert (how.scale_min, how.scale_max, crop) == (0.5, 0.5, (32, 32))


def test_streets_are_shown_at_the_steps_scale_and_never_dropped() -> None:
    config = replace(DATA, street_share=1.0, streets=1)
    street = frames(1)
    make = listed(config, Pools(frames(3), streets=street))
    step = next(s for s in range(9) if make.scale(s) == 0.5)
    batch = make(step)
    assert batch.images.shape == (4, 3, 32, 32)
    assert batch.emphasis is not None
    assert batch.emphasis.tolist() == [1.0] * 4


def test_a_list_of_other_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="slimmed data have 3 frames, the data 4"):
        listed(pools=Pools(frames(4)))


def test_crops_keep_whole_cells() -> None:
    config = replace(DATA, crop_width=320, crop_height=256)
    assert [config.crop_of(s) for s in (1.0, 0.75, 0.5)] == [(320, 256), (240, 192), (160, 128)]
    assert config.area(0.5) == 0.25
