"""Blocks of several cameras in one pass: what each gets is what it gets alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.background import Recorder, Recording
from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import BlockLayout
from seg_node.core.costs import MacCounter
from seg_node.core.joining import Joined
from seg_node.core.sparse import split
from seg_node.core.types import Action, ConfigError, Reason
from seg_node.nets.build import build_network, NETWORKS
from test.core.test_adaptive import adaptive, Chosen, frames, panned, SIDE, SIZE, still

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from seg_node.core.types import Frame

GRID = (3, 4)
CAMERAS = ("front", "left", "right")


def random_grid(rng: np.random.Generator, high: int) -> NDArray[np.uint8]:
    grid = np.full(GRID, Action.REUSE, np.uint8)
    grid.flat[rng.choice(grid.size, high, replace=False)] = Action.HIGH
    return grid


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    return build_network(name, 3).double().eval()


def recorded(net: nn.Module, image: torch.Tensor) -> Recording:
    recording = Recording()
    with Recorder(recording):
        net(image)
    return recording


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_a_batch_of_blocks_amid_several_memories_is_what_each_is_alone(name: str) -> None:
    net, rng = network(name), np.random.default_rng(0)
    images = torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8)
    memories = [recorded(net, image[None].flip(3)) for image in images]
    grids = [random_grid(rng, high) for high in (1, 5, 11)]
    alone = []
    for image, memory, grid in zip(images, memories, grids, strict=True):
        layout = BlockLayout(grid[None], SIDE, SIZE)
        alone.append(net(split(image[None], layout, memory)).combined())
    layout = BlockLayout(np.stack(grids), SIDE, SIZE)
    together = net(split(images, layout, Joined(memories, [1, 5, 11])))
    torch.testing.assert_close(together.combined(), torch.cat(alone), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_macs_are_those_of_each_image_alone() -> None:
    net, rng = network("pspnet18"), np.random.default_rng(0)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    memories = [recorded(net, image[None]) for image in images]
    grids, alone = [random_grid(rng, high) for high in (2, 7)], []
    for image, memory, grid in zip(images, memories, grids, strict=True):
        with MacCounter() as counter:
            net(split(image[None], BlockLayout(grid[None], SIDE, SIZE), memory))
        alone.append(counter.macs)
    with MacCounter() as counter:
        net(split(images, BlockLayout(np.stack(grids), SIDE, SIZE), Joined(memories, [2, 7])))
    assert counter.macs == sum(alone)
    assert 0 < counter.of_blocks < counter.macs
    assert counter.shares([2, 7]) == alone


# ---- in the pipeline ----------------------------------------------------------------------------


def drives(count: int) -> list[list[Frame]]:
    """Return what each camera sees, frame by frame; they see different things."""
    seen = [panned(count), panned(count, 3.0), still(count)]
    return [
        [replace(frame, camera=camera, image=np.roll(frame.image, 9 * i, 1)) for frame in drive]
        for i, (camera, drive) in enumerate(zip(CAMERAS, seen, strict=True))
    ]


def grids_of(count: int) -> list[list[NDArray[np.uint8]]]:
    """Return a grid for each camera of each frame, between 1 and all but one block HIGH."""
    rng = np.random.default_rng(5)
    return [[random_grid(rng, int(rng.integers(1, 12))) for _ in CAMERAS] for _ in range(count)]


@pytest.mark.parametrize("buckets", [0, 3])
def test_cameras_together_show_what_they_show_one_by_one(buckets: int) -> None:
    """Over many frames: so what is remembered must be the same as well."""
    torch.manual_seed(0)
    net, count = build_network("swiftnet18-half", 4), 7
    chosen = [grid for each in grids_of(count - 1) for grid in each]
    single = adaptive(net, Chosen(chosen), block_buckets=buckets)
    joined = adaptive(net, Chosen(chosen), block_buckets=buckets)
    for index, seen in enumerate(zip(*drives(count), strict=True)):
        expected = [single.step(frame) for frame in seen]
        found = joined.step_together(seen)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one.plan.grid, other.plan.grid)
            np.testing.assert_array_equal(one.age_ms, other.age_ms)
            if not buckets:  # else the number of all blocks is rounded up, not of each camera's
                assert one.report.macs == other.report.macs
            off = np.abs(one.confidence.astype(int) - other.confidence)[one.labels == other.labels]
            assert off.max() <= 1
            assert (one.labels == other.labels).mean() > 0.999, index


def test_the_network_runs_once_for_all_cameras() -> None:
    net = build_network("swiftnet18-half", 4)
    segmenter = adaptive(net, Chosen([grid for each in grids_of(1) for grid in each]))
    passes: list[int] = []

    def counted(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        passes.append(inputs[0].shape[0])

    net.register_forward_pre_hook(counted)
    first, second = zip(*drives(2), strict=True)
    segmenter.step_together(first)
    assert not [n for n in passes if n > 1]
    passes.clear()
    results = segmenter.step_together(second)
    assert passes == [3]
    assert [result.plan.reason for result in results] == [Reason.REFRESHED] * 3


def test_a_size_of_its_own_a_first_frame_and_a_still_one_go_alone() -> None:
    """Four cameras: two fit together, one is larger, one is new and has nothing remembered."""
    net = build_network("swiftnet18-half", 4)
    rng = np.random.default_rng(2)
    large = np.full((4, 4), Action.REUSE, np.uint8)
    large[1, 2] = Action.HIGH
    idle = np.full(GRID, Action.REUSE, np.uint8)
    grids = [random_grid(rng, 2), random_grid(rng, 3), idle, large]
    segmenter, single = adaptive(net, Chosen(grids)), adaptive(net, Chosen(grids))
    front, left, right = (drive[:2] for drive in drives(2))
    enlarged = [cv2.resize(x.image, (128, 128)).astype(np.uint8) for x in front]
    tall = [replace(x, camera="tall") for x in frames(enlarged)]
    new = replace(front[1], camera="new")
    segmenter.step_together([front[0], left[0], right[0], tall[0]])
    for frame in (front[0], left[0], right[0], tall[0]):
        single.step(frame)
    seen = [front[1], left[1], right[1], tall[1], new]
    found = segmenter.step_together(seen)
    for frame, result in zip(seen, found, strict=True):
        expected = single.step(frame)
        assert result.plan.reason is expected.plan.reason
        assert result.labels.shape == frame.image.shape[:2]
        assert (result.labels == expected.labels).mean() > 0.999
    assert found[-1].plan.reason is Reason.FIRST


def test_time_is_shared_out_and_none_is_counted_twice() -> None:
    """By a clock that the network alone moves: by a second in each pass."""
    net, now_ns = build_network("swiftnet18-half", 4), [0]

    def slow(*_: object) -> None:
        now_ns[0] += 1_000_000_000

    net.register_forward_pre_hook(slow)
    chosen = Chosen([random_grid(np.random.default_rng(0), high) for high in (2, 2, 8)])
    segmenter = adaptive(net, chosen)
    segmenter._clock, segmenter._ended_ns = lambda: now_ns[0], 0
    first, second = zip(*drives(2), strict=True)
    segmenter.step_together(first)
    began_ns = now_ns[0]
    reports = [result.report for result in segmenter.step_together(second)]
    assert now_ns[0] - began_ns == 1_000_000_000
    times = [report.total_ns for report in reports]
    assert times == [report.stage_ns["execute"] for report in reports]
    assert sum(times) == pytest.approx(1e9)
    assert times[0] == times[1] < times[2] < 6 * times[0]


def test_two_frames_of_one_camera_are_refused() -> None:
    segmenter = adaptive(build_network("swiftnet18-half", 4))
    with pytest.raises(ConfigError, match=r"\['front', 'front'\] were given together"):
        segmenter.step_together(panned(2))


def test_other_modes_take_frames_one_by_one() -> None:
    segmenter = adaptive(build_network("swiftnet18-half", 4), mode="warp")
    seen = [drive[0] for drive in drives(1)]
    assert not segmenter.joins(seen)
    assert [x.plan.reason for x in segmenter.step_together(seen)] == [Reason.FIRST] * 3


def test_memory_of_all_cameras_is_bounded() -> None:
    segmenter = adaptive(build_network("swiftnet18-half", 4), memory_limit_mb=1.0)
    for seen in zip(*drives(4), strict=True):
        results = segmenter.step_together(seen)
        memory = [result.report.memory for result in results]
        assert all(use is not None and use.held_bytes <= 1e6 for use in memory)
    kept = [x for x in segmenter._histories.values() if isinstance(x, BlockHistory)]
    assert len(kept) < len(CAMERAS)
