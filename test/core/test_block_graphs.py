"""Networks on blocks, recorded: a replay on other grids is what the network gives on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core import block_graphs, pipeline
from seg_node.core.backend import TorchKernels
from seg_node.core.background import Recorder, Recording
from seg_node.core.block_graphs import BlockGraphs, every_count
from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import BlockLayout, grid_shape, Window
from seg_node.core.config import Config
from seg_node.core.execution import Executor
from seg_node.core.fused import on_kernels
from seg_node.core.graphs import CudaCaptures, Graphs
from seg_node.core.lists import inside, Lists, numbers
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import filled, NOTHING, Ranked, Remembers, UNTRAINED
from seg_node.core.scores import Middle
from seg_node.core.types import Action, DeviceMemoryError, Frame, Plan, Reason
from seg_node.data.street import Street
from seg_node.loops import compiling
from seg_node.nets.build import build_network, fold_batchnorm
from seg_node.nets.swiftnet import SwiftNet
from test.core.tape import Tape

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from numpy.typing import NDArray
    from torch import nn

    from seg_node.core.config import Value
    from seg_node.core.policy import Past
    from seg_node.core.types import StepReport, StepResult

SIZE, SIDE, BUCKETS = (150, 190), 32, 4
GRID = (5, 6)


class Drawn:
    """Computes random blocks of each frame but the first, another number each time."""

    remembers = Remembers.BLOCKS

    def __init__(self) -> None:
        """Begin with the seed 0."""
        self.seed = 0

    def plan(self, image: torch.Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return a random grid."""
        if past.lost is not None:
            return Plan(filled(image, config, Action.HIGH), past.lost)
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        actions = filled(image, config, Action.REUSE)
        actions.flat[rng.permutation(actions.size)[: rng.integers(1, actions.size)]] = Action.HIGH
        return Plan(actions, Reason.REFRESHED)

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Forget it."""

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0."""
        return 0


@pytest.fixture(autouse=True)
def _no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch do all: a tape notes its operations alone, as a CUDA graph holds a device's."""
    monkeypatch.setattr(compiling, "AVAILABLE", False)


def network() -> nn.Module:
    torch.manual_seed(1)
    return SwiftNet(5, 0.25).eval().requires_grad_(requires_grad=False)


def segmenter(mode: str, tape: Tape | None, **settings: Value) -> Segmenter:
    """Return a segmenter whose networks on blocks are recorded, where there is a tape."""
    policies = {**UNTRAINED, "adaptive": Drawn(), "segblocks": Ranked(Middle())}
    side = SIDE if mode == "adaptive" else 2 * SIDE
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    config = Config(mode=mode, device="cpu", precision="fp32").updated(
        {"block_size": side, "block_buckets": BUCKETS, **dotted}
    )
    steps = Segmenter(network(), policies, config, kernels=TorchKernels())
    if tape is not None:
        steps._executor.graphs = Graphs(tape)
        steps._executor.blocks = BlockGraphs(
            steps._executor.net, TorchKernels(), steps._executor.graphs
        )
    return steps


def street(count: int, size: tuple[int, int] = SIZE) -> list[Frame]:
    return [sample.frame for sample in Street(3, size[1], size[0]).frames(count)]


def picture(seed: int, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)
    return image.contiguous(memory_format=torch.channels_last)


def shown(net: nn.Module, image: torch.Tensor) -> Recording:
    """Return what the network read of an image."""
    recording = Recording()
    with torch.inference_mode(), Recorder(recording):
        net(image)
    return recording


def check_same(a: StepResult, b: StepResult) -> None:
    assert np.array_equal(a.plan.grid, b.plan.grid)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.confidence, b.confidence)
    assert a.report.macs == b.report.macs


def test_frames_of_recorded_networks_are_those_of_the_networks() -> None:
    """Over a clip of random blocks, with whole frames amid it whose planes replace all before."""
    tape = Tape()
    plain, recorded = segmenter("adaptive", None), segmenter("adaptive", tape)
    for index, frame in enumerate(street(24)):
        if index in {9, 17}:
            for steps in (plain, recorded):
                steps.ask_full_frame()
        check_same(plain.step(frame), recorded.step(frame))
    assert recorded._executor.blocks is not None
    assert 1 < recorded._executor.blocks.count <= BUCKETS
    assert tape.replays == 21


def test_a_whole_frame_leaves_nothing_of_what_was_before_it() -> None:
    """Though the room for what is remembered stays: with new room, the clip goes on the same."""
    used, fresh = segmenter("adaptive", None), segmenter("adaptive", None)
    for index, frame in enumerate(street(16)):
        if index == 8:
            for steps in (used, fresh):
                steps.ask_full_frame()
            (history,) = fresh._histories.values()
            assert isinstance(history, BlockHistory)
            history.features = None
        check_same(used.step(frame), fresh.step(frame))


def test_blocks_of_both_resolutions_are_recorded_for_every_number() -> None:
    tape, size = Tape(), (300, 380)
    plain, recorded = (segmenter("segblocks", t, policy__high_fraction=0.5) for t in (None, tape))
    for index, frame in enumerate(street(6, size)):
        config = plain.config.updated({"policy.high_fraction": (0.5, 0.2)[index % 2]})
        for steps in (plain, recorded):
            steps.reconfigure(config)
        check_same(plain.step(frame), recorded.step(frame))
    assert recorded._executor.blocks is not None
    assert recorded._executor.blocks.count == 2
    assert tape.replays == 6


@pytest.mark.parametrize("name", ["swiftnet18-half", "pspnet18", "bisenet18"])
@pytest.mark.parametrize("other", [Action.LOW, Action.REUSE])
def test_every_kind_of_network_can_be_replayed(name: str, other: Action) -> None:
    """On other blocks of another image, over what another image shows."""
    torch.manual_seed(3)
    net = fold_batchnorm(build_network(name, 5).eval()).requires_grad_(requires_grad=False)
    kernels, size, side = TorchKernels(), (140, 250), 64
    background = shown(net, picture(9, size)) if other is Action.REUSE else None
    with torch.inference_mode():
        tape = Tape()
        blocks = BlockGraphs(net, kernels, Graphs(tape))
        for seed in range(4):
            actions = np.full((1, *grid_shape(*size, side)), other, np.uint8)
            actions.flat[np.random.default_rng(seed).permutation(actions.size)[:5]] = Action.HIGH
            layout, image = BlockLayout(actions, side, size), picture(seed, size)
            found = blocks.run(image, layout, background).combined()
            expected = net(on_kernels(image, layout, background, kernels)).combined()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (blocks.count, tape.replays) == (1, 4)


def test_configuring_records_every_number_and_the_first_camera_uses_them() -> None:
    tape = Tape()
    steps = segmenter("adaptive", tape)
    steps.warm_up(*SIZE)
    blocks = steps._executor.blocks
    assert blocks is not None
    assert blocks.count == BUCKETS
    plain, frames = segmenter("adaptive", None), street(8)
    plain.policies["adaptive"].seed = steps.policies["adaptive"].seed  # type: ignore[attr-defined]  # Drawn
    for frame in frames:
        check_same(plain.step(frame), steps.step(frame))
    assert blocks.count == BUCKETS
    for frame in frames:
        steps.step(replace(frame, camera="left"))
    assert BUCKETS < blocks.count <= 2 * BUCKETS


def test_records_over_memories_that_are_gone_go() -> None:
    steps = segmenter("adaptive", Tape())
    blocks = steps._executor.blocks
    assert blocks is not None
    for frame in street(8):
        steps.step(frame)
    assert blocks.count > 1
    steps.reset()
    steps.step(street(1)[0])
    assert blocks.count == 0
    for frame in street(8, (96, 64)):  # another size: another room for what is remembered
        steps.step(frame)
    assert {kind.size for kind in blocks._steps} == {(96, 64)}


def test_records_go_where_memory_is_short() -> None:
    steps = segmenter("adaptive", Tape())
    steps.warm_up(*SIZE)
    for frame in street(3):
        steps.step(frame)

    def full(*_: Any) -> NoReturn:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(DeviceMemoryError):
        steps._memory.step("", steps.config, full)
    assert steps._executor.blocks is not None
    assert steps._executor.blocks.count == 0


def test_memory_that_is_short_in_configuring_leaves_recording_for_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> NoReturn:
        raise torch.cuda.OutOfMemoryError

    small = (64, 96)
    for place, name in ((pipeline, "every_count"), (Executor, "_on_blocks")):
        steps = segmenter("adaptive", Tape())
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            steps.warm_up(*small)
        assert "recorded when they are needed" in caplog.text
        assert steps._executor.blocks is not None
        assert steps._executor.blocks.count == 0
        for frame in street(66, small):  # what was left out for want of memory comes back in time
            steps.step(frame)
        assert steps._executor.blocks.count >= 1


def test_the_least_recently_used_record_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_graphs, "MOST", 2)
    steps = segmenter("adaptive", Tape())
    plain = segmenter("adaptive", None)
    for frame in street(12):
        check_same(plain.step(frame), steps.step(frame))
    assert steps._executor.blocks is not None
    assert steps._executor.blocks.count == 2


@pytest.mark.parametrize("buckets", [1, 3, 4, 7, 1000])
def test_every_number_of_blocks_has_a_grid(buckets: int) -> None:
    def kind(grid: NDArray[np.uint8]) -> int:
        return BlockLayout(grid[None], SIDE, SIZE, buckets=buckets).count(Action.HIGH)

    found = [kind(grid) for grid in every_count(GRID, buckets, Action.REUSE)]
    assert len(found) == len(set(found))
    for count in range(1, 30):
        grid = np.full(GRID, Action.REUSE, np.uint8)
        grid.flat[-count:] = Action.HIGH
        assert kind(grid) in found


def test_lists_are_of_one_length_and_overwritten_where_they_are() -> None:
    rng, window = np.random.default_rng(0), Window(4, (38, 48), 1, 1)
    layouts = []
    for _ in range(6):
        grid = np.full((1, *GRID), Action.REUSE, np.uint8)
        grid.flat[rng.permutation(30)[:7]] = Action.HIGH
        layouts.append(BlockLayout(grid, SIDE, SIZE))

    def make(layout: BlockLayout) -> tuple[torch.Tensor, ...]:
        rows = numbers(layout, Action.HIGH, window, clamp=False)
        return rows, inside(layout, Action.HIGH, window)

    lists = Lists(layouts[0])
    kept = lists.get("rows", make)
    for layout in (*layouts[1:], layouts[0]):
        lists.fill(layout)
        again = lists.get("rows", make)
        assert all(a is b for a, b in zip(kept, again, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(kept, make(layout), strict=True))
    assert not torch.equal(make(layouts[0])[0], make(layouts[1])[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_networks_give_what_the_networks_give() -> None:
    triton = pytest.importorskip("seg_node.kernels.backend", reason="triton is not installed")
    device, side, size = torch.device("cuda"), 64, (140, 250)
    net, kernels = network().to(device), triton.TritonKernels(device)
    background = shown(net, picture(9, size).to(device))
    with torch.inference_mode():
        blocks = BlockGraphs(net, kernels, Graphs(CudaCaptures(device)))
        for seed in range(4):
            grid = np.full((1, *grid_shape(*size, side)), Action.REUSE, np.uint8)
            grid.flat[np.random.default_rng(seed).permutation(grid.size)[:5]] = Action.HIGH
            layout = BlockLayout(grid, side, size, device=device)
            image = picture(seed, size).to(device)
            found = blocks.run(image, layout, background).combined()
            expected = net(on_kernels(image, layout, background, kernels)).combined()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert blocks.count == 1
