"""Modules are computed in some bins exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.bins import compute_bins
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.costs import MacCounter
from seg_node.core.types import Action
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
        for share in (0.2, 0.6, 1.0):
            kept = rng.random(grid_shape(*size, SIDE)) < share
            kept[1, 1] = True
            grid = np.where(kept, Action.HIGH, Action.REUSE).astype(np.uint8)
            layout = BlockLayout(grid[None], SIDE, size)
            with FlopCounterMode(display=False) as flops, MacCounter() as counter:
                tiles = compute_bins(module, x, layout, 2)
            assert counter.macs == flops.get_total_flops() // 2
            b = tiles.shape[-1]
            assert len(tiles) == kept.sum()
            for tile, (row, column) in zip(tiles, np.argwhere(kept), strict=True):
                want = expected[0, :, row * b : row * b + b, column * b : column * b + b]
                torch.testing.assert_close(
                    tile[:, : want.shape[1], : want.shape[2]], want, rtol=0, atol=1e-9
                )
