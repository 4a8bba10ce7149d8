"""Modules are computed in some bins exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.bins import areas_of, compute_bins
from seg_node.core.blocks import grid_shape, to_pixels
from seg_node.core.costs import MacCounter
from seg_node.nets.resnet import BasicBlock
from test.core.test_residual import awake, Bottleneck, Deep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SIDE = 32


@pytest.mark.parametrize(
    "block",
    [
        lambda: BasicBlock(8, 8, 1),
        lambda: BasicBlock(8, 12, 2),
        lambda: BasicBlock(8, 8, 1, (2, 4)),
        Bottleneck,
        lambda: Bottleneck(4),
        Deep,
    ],
    ids=["identity", "down", "dilated", "bottleneck", "grouped", "deep"],
)
def test_bins_are_those_of_the_whole(block: Callable[[], nn.Module]) -> None:
    """At every border of the image, beside kept bins and beside others; MACs are all counted."""
    torch.manual_seed(0)
    module = awake(block()).double()
    size = (71, 101)
    x = torch.randn(1, 8, 36, 51, dtype=torch.float64)
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        expected = module(x.clone())
        plane = (expected.shape[-2], expected.shape[-1])
        side = SIDE // 2 * plane[0] // 36
        for share in (0.2, 0.6, 1.0):
            kept = rng.random(grid_shape(*size, SIDE)) < share
            kept[1, 1] = True
            with FlopCounterMode(display=False) as flops, MacCounter() as counter:
                parts = compute_bins(module, x.clone(), areas_of(kept, side, plane))
            assert counter.macs == flops.get_total_flops() // 2
            covered = np.zeros(plane, np.int64)
            for area, values in parts:
                area.of(torch.from_numpy(covered)).add_(1)
                torch.testing.assert_close(values, area.of(expected), rtol=0, atol=1e-9)
            np.testing.assert_array_equal(covered, to_pixels(kept, side, plane))
