"""Whole networks and frames through the Triton kernels equal those in torch."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.attention import local_attention
from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout
from seg_node.core.config import Config
from seg_node.core.costs import MacCounter
from seg_node.core.fused import on_kernels
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Ranked
from seg_node.core.scores import Middle
from seg_node.core.sparse import split
from seg_node.core.types import Action, Frame
from seg_node.kernels.attention import attend
from seg_node.kernels.backend import TritonKernels
from seg_node.nets.build import fold_batchnorm
from seg_node.nets.swiftnet import SwiftNet
from test.kernels.operands import plane, SINGLE

if TYPE_CHECKING:
    from torch import nn

    from seg_node.core.masks import Planes

SIZE, SIDE = (96, 70), 32


def small_net(device: torch.device) -> nn.Module:
    """Return a SwiftNet of a quarter of the width, folded."""
    torch.manual_seed(1)
    net = fold_batchnorm(SwiftNet(5, 0.25).eval()).requires_grad_(requires_grad=False)
    return net.to(device)


def picture(seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, *SIZE), generator=generator).float().to(device)


def test_a_network_over_a_background_equals_the_reference(device: torch.device) -> None:
    """A third of the blocks anew, halos of the others from another image, and the same account."""
    net, kernels = small_net(device), TritonKernels(device)
    recording = Recording()
    with Recorder(recording):
        net(picture(1, device))
    grid = np.full((1, 3, 3), Action.REUSE, np.uint8)
    grid[0, 0, 0] = grid[0, 1, 2] = grid[0, 2, 2] = Action.HIGH
    layout = BlockLayout(grid, SIDE, SIZE, device=device)
    with MacCounter() as plain:
        expected = net(split(picture(0, device), layout, recording)).combined()
    with MacCounter() as fused:
        found = net(on_kernels(picture(0, device), layout, recording, kernels)).combined()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert fused.macs == plain.macs > 0


class Counted(TritonKernels):
    """Counts what a segmenter has its kernels do."""

    def __init__(self, device: torch.device) -> None:
        """Start without any."""
        super().__init__(device)
        self.convolutions = self.masks = 0

    def convolve(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count a convolution and do it."""
        self.convolutions += 1
        return super().convolve(*args, **kwargs)

    def decide(self, *args: Any) -> Planes:
        """Count a mask and make it."""
        self.masks += 1
        return super().decide(*args)


def test_a_segmenter_decides_with_its_kernels(device: torch.device) -> None:
    """Both resolutions in one frame, from bytes to bytes."""
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    config = Config(device=device.type, precision="fp32", mode="segblocks")
    config = config.updated({"policy.high_fraction": 0.5})
    results = []
    counted = Counted(device)
    for kernels in (None, counted):
        policies = {"segblocks": Ranked(Middle())}
        segmenter = Segmenter(small_net(device), policies, config, kernels=kernels)
        results.append(segmenter.step(Frame(image, 0)))
    plain, fused = results
    assert sorted(plain.plan.grid.flat) == [Action.LOW, Action.HIGH]
    assert (plain.labels == fused.labels).mean() > 0.99
    assert np.abs(plain.confidence.astype(int) - fused.confidence).max() <= 2
    assert plain.report.macs == fused.report.macs
    assert (counted.convolutions > 20, counted.masks) == (True, 1)


def test_attention_costs_what_the_reference_costs(device: torch.device) -> None:
    base, *others = (plane(seed, 16, (4, 5), SINGLE).to(device) for seed in range(4))
    counts = []
    for function in (local_attention, attend):
        with MacCounter() as counter:
            function(base, (others[0], others[1], others[2]), None, 3)
        counts.append(counter.macs)
    assert counts[0] == counts[1] == 2 * 9 * base.numel()
