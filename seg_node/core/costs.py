"""Exact multiply-accumulate counts (MACs, not twice as many floating-point operations)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.blocks import BlockLayout, grid_shape, SETS
from seg_node.core.sparse import halved, split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


def dense_macs(net: nn.Module, height: int, width: int, *more: object) -> int:
    """Count the MACs of one forward pass on one image, without computing it.

    Convolutions and matrix products count, as in the papers; normalisation, activations,
    pooling and resizing do not.

    Args:
        net: called as net(image) with an image [1, 3, height, width].
        height: image height in pixels.
        width: image width in pixels.
        more: what else the network is called with.

    """
    shadow = copy.deepcopy(net).to("meta").eval()
    image = torch.empty((1, 3, height, width), device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        shadow(image, *more)
    return counter.get_total_flops() // 2


class PlanCosts:
    """Exact MACs of any plan of HIGH and LOW blocks, for one network and image size.

    Every block of a set costs the same, so two counted grids give the cost of all. Halos cost
    nothing here: they are copied, and a convolution computes the pixels of its blocks alone.
    Blocks that stick out of the image are computed, and counted, as a whole. Whole frames at one
    resolution are computed, and counted, without blocks.

    Args:
        net: called as net(image), or as net(blocks) with a `BlockTensor`.
        size: height and width of the image, in pixels.

    Attributes:
        size: height and width of the image, in pixels.
        dense: MACs of the dense network.

    """

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        """Count the dense network; plans are counted when they occur."""
        self.size = size
        self.dense = dense_macs(net, *size)
        self._net = copy.deepcopy(net).to("meta").eval()
        self._counted: dict[tuple[int, int, int], int] = {}

    def macs(self, grid: NDArray[np.uint8], side: int) -> int:
        """Return the MACs of a plan.

        Args:
            grid: `Action` per block, uint8 [gh, gw], without REUSE.
            side: side of a block, in pixels.

        """
        high, low = (int(np.count_nonzero(grid == action)) for action in SETS)
        if not low:
            return self.dense
        if not high:
            return self._count(0, low, side)
        one = self._count(1, grid.size - 1, side)
        return one + (high - 1) * (self._count(2, grid.size - 2, side) - one)

    def _count(self, high: int, low: int, side: int) -> int:
        """Count the MACs of a grid with so many HIGH and LOW blocks, wherever they lie."""
        key = (high, low, side)
        if key not in self._counted:
            image = torch.empty((1, 3, *self.size), device="meta")
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                self._net(split(image, self._layout(high, low, side)) if high else halved(image))
            self._counted[key] = counter.get_total_flops() // 2
        return self._counted[key]

    def _layout(self, high: int, low: int, side: int) -> BlockLayout:
        actions = np.repeat(np.array(SETS, np.uint8), (high, low))
        grid = actions.reshape(1, *grid_shape(*self.size, side))
        return BlockLayout(grid, side, self.size, device=torch.device("meta"))
