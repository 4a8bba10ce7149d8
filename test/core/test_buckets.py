"""Few numbers of blocks: frames whose last block is repeated are those without, in few shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.backend import TorchKernels
from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout
from seg_node.core.config import Config
from seg_node.core.costs import MacCounter
from seg_node.core.fused import on_kernels
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import filled, NOTHING, Remembers, UNTRAINED
from seg_node.core.sparse import split
from seg_node.core.types import Action, Plan, Reason
from seg_node.data.street import Street
from seg_node.nets.swiftnet import SwiftNet

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.config import Value
    from seg_node.core.policy import Past
    from seg_node.core.sparse import BlockTensor
    from seg_node.core.types import StepReport

SIZE, SIDE = (150, 190), 32
LARGE = 2
"""Blocks of half resolution have to be so many times as large."""


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return SwiftNet(5, 0.25).eval().requires_grad_(requires_grad=False)


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = LARGE * SIZE[0], LARGE * SIZE[1]
    image = torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)
    return image.contiguous(memory_format=torch.channels_last)


def grid(seed: int, *actions: Action) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array(actions, np.uint8), (1, 5, 6), p=[0.3, 0.7])


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("other", [Action.LOW, Action.REUSE])
def test_a_network_on_repeated_blocks_gives_the_same(
    net: nn.Module, other: Action, *, fused: bool
) -> None:
    recording = Recording()
    net.double()
    with torch.inference_mode(), Recorder(recording):
        net(picture(9))
    background = recording if other is Action.REUSE else None
    size = LARGE * SIZE[0], LARGE * SIZE[1]
    results, macs = [], []
    for buckets in (0, 4):
        layout = BlockLayout(grid(2, Action.HIGH, other), LARGE * SIDE, size, buckets=buckets)
        with torch.inference_mode(), MacCounter() as counter:
            x: BlockTensor = split(picture(0), layout, background)
            if fused:
                x = on_kernels(picture(0), layout, background, TorchKernels())
            results.append(net(x).combined())
        macs.append(counter.macs)
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)
    assert macs[1] > macs[0]


class Nine:
    """Computes nine blocks of each frame but the first, others each time."""

    remembers = Remembers.BLOCKS

    def __init__(self) -> None:
        """Begin with the seed 0."""
        self.seed = 0

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return a random grid."""
        if past.lost is not None:
            return Plan(filled(image, config, Action.HIGH), past.lost)
        self.seed += 1
        actions = filled(image, config, Action.REUSE)
        chosen = np.random.default_rng(self.seed).permutation(actions.size)[:9]
        actions.flat[chosen] = Action.HIGH
        return Plan(actions, Reason.REFRESHED)

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Forget it."""

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0."""
        return 0


def test_what_is_remembered_is_the_same_over_a_clip(net: nn.Module) -> None:
    runs = []
    for buckets in (0, 4):
        settings: dict[str, Value] = {"block_size": SIDE, "block_buckets": buckets}
        config = Config(mode="adaptive", device="cpu").updated(settings)
        segmenter = Segmenter(net, {**UNTRAINED, "adaptive": Nine()}, config)
        frames = Street(3, SIZE[1], SIZE[0]).frames(5)
        runs.append([segmenter.step(sample.frame) for sample in frames])
    for plain, padded in zip(*runs, strict=True):
        assert np.array_equal(plain.plan.grid, padded.plan.grid)
        assert np.array_equal(plain.labels, padded.labels)
        assert np.array_equal(plain.confidence, padded.confidence)
        assert plain.report.macs < padded.report.macs or plain.plan.reason is Reason.FIRST


@pytest.mark.parametrize("buckets", [1, 3, 4, 7, 1000])
def test_there_are_few_numbers_and_none_is_too_small(buckets: int) -> None:
    found = set()
    for count in range(31):
        actions = np.full((1, 5, 6), Action.REUSE, np.uint8)
        actions.flat[:count] = Action.HIGH
        padded = BlockLayout(actions, SIDE, SIZE, buckets=buckets).count(Action.HIGH)
        assert count <= padded <= 30
        assert padded - count < -(-30 // buckets)
        found.add(padded)
    assert len(found) <= min(buckets, 30) + 1
