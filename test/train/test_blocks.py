"""A network learns to compute blocks amid what is remembered; its teacher stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout, Window
from seg_node.core.sparse import split
from seg_node.core.types import Action, ConfigError, ModelError
from seg_node.train.block_settings import BlockTraining
from seg_node.train.blocks import BlockTrainer, MovedPlanes
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.trainer import Run
from test.train.test_low import changed, high
from test.train.test_pairs import textured

if TYPE_CHECKING:
    from pathlib import Path

TINY = BlockTraining(
    steps=4,
    batch=2,
    crop_width=128,
    crop_height=64,
    warmup=2,
    checkpoint_every=2,
    validate_every=100,
    fusion_after=0,
    street_share=0.0,
)


def trainer(folder: Path, config: BlockTraining = TINY) -> BlockTrainer:
    pools = PairPools([textured(seed) for seed in range(3)])
    maker = PairMaker(pools, config)
    return BlockTrainer(high(), high(), maker, torch.ones(11), Run(folder))


def test_without_motion_the_surroundings_are_those_of_the_frame() -> None:
    net = high()
    image = torch.from_numpy(np.stack([textured(s).image for s in (0, 1)])).permute(0, 3, 1, 2)
    image = image[..., :64, :96]
    recording = Recording()
    with torch.no_grad(), Recorder(recording):
        dense = net(image)
    grids = np.full((2, 2, 3), Action.REUSE, np.uint8)
    grids[0, 0, 1] = grids[1, 1, 2] = Action.HIGH
    layout = BlockLayout(grids, 32, (64, 96))
    background = MovedPlanes(recording.tensors, torch.zeros(2, 64, 96, 2))
    with torch.no_grad():
        blocks = net(split(image, layout, background)).combined(base=dense)
    assert torch.allclose(blocks, dense, atol=1e-4)


def test_the_surroundings_are_those_that_the_flow_leads_to() -> None:
    plane = torch.arange(2 * 4 * 6.0).view(2, 1, 4, 6)
    flow = torch.zeros(2, 32, 48, 2)
    flow[1, ..., 0], flow[1, ..., 1] = 17.0, -8.0  # two pixels to the right, one up, at stride 8
    (moved,) = MovedPlanes([plane], flow).planes()
    window = Window(8, (4, 6))
    found = moved.whole(moved.find(None, window), window)
    assert torch.equal(found[0], plane[0])
    assert torch.equal(found[1, 0, 1:, :4], plane[1, 0, :3, 2:])
    assert torch.equal(found[1, 0, 0], found[1, 0, 1])  # beyond the image its border is repeated
    with pytest.raises(ModelError, match="LOW"):
        moved.find(torch.tensor([0]), window, halve=True)


def test_blocks_and_whole_frames_are_learned_and_the_teacher_stays(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, steps=30, learning_rate=1e-2))
    batch = run.batches(0)
    run._begin()
    found = [run._learn(step, batch) for step in range(16)]
    for name in ("blocks", "whole"):
        losses = [figures[name] for figures in found]
        assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert changed(high(), run.teacher) == set()
    statistics = {k for k in high().state_dict() if "running" in k or "tracked" in k}
    assert changed(high(), run.net) & statistics == set()
    assert changed(high(), run.net)


def test_only_pixels_of_computed_blocks_count_for_the_blocks(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    batch = run.batches(0)
    grids = run._grids(0, batch)
    high_pixels = torch.from_numpy(grids == Action.HIGH).repeat_interleave(32, 1)
    high_pixels = high_pixels.repeat_interleave(32, 2)
    other = torch.where(high_pixels, batch.labels, (batch.labels + 1) % 11)
    run._begin()
    one = copy.deepcopy(run.net.state_dict())
    first = run._learn(0, batch)
    run.net.load_state_dict(one)
    second = run._learn(0, replace(batch, labels=other))
    assert first["blocks"] == pytest.approx(second["blocks"], rel=1e-5)
    assert first["whole"] != pytest.approx(second["whole"], rel=1e-2)


def test_the_share_of_the_blocks_is_drawn_between_its_bounds(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, share_min=0.25, share_max=0.5))
    batch = run.batches(0)
    grids = np.concatenate([run._grids(step, batch) for step in range(40)])
    counts = (grids == Action.HIGH).sum((1, 2))
    assert set(counts) == {2, 3, 4}  # of eight
    assert len({grid.tobytes() for grid in grids}) > 30
    assert set(np.unique(grids)) == {Action.HIGH, Action.REUSE}
    np.testing.assert_array_equal(run._grids(7, batch), run._grids(7, batch))


def test_a_resumed_run_ends_bit_for_bit_alike(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").run()

    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken").run(stop)
    second = trainer(tmp_path / "broken")
    assert second.step == 2
    assert changed(whole, second.run()) == set()


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="block_side is 48"):
        replace(TINY, block_side=48)
    with pytest.raises(ConfigError, match=r"0\.5 to 0\.2"):
        replace(TINY, share_min=0.5, share_max=0.2)
