"""Exact multiply-accumulate counts (MACs, not twice as many floating-point operations)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.blocks import BlockLayout, grid_shape, SETS
from seg_node.core.sparse import split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


def dense_macs(net: nn.Module, height: int, width: int) -> int:
    """Count the MACs of one forward pass on one image, without computing it.

    Convolutions and matrix products count, as in the papers; normalisation, activations,
    pooling and resizing do not.

    Args:
        net: called as net(image) with an image [1, 3, height, width].
        height: image height in pixels.
        width: image width in pixels.

    """
    shadow = copy.deepcopy(net).to("meta").eval()
    image = torch.empty((1, 3, height, width), device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        shadow(image)
    return counter.get_total_flops() // 2


class PlanCosts:
    """Exact MACs of any plan of HIGH and LOW blocks, for one network, image size and block side.

    Every block of a set costs the same, so three counted grids give the cost of all grids. Halos
    cost nothing here: they are copied, and every convolution computes its blocks alone. Blocks
    that stick out of the image are computed, and counted, as a whole.

    Args:
        net: called as net(image), or net(blocks) with a `BlockTensor`.
        size: height and width of the image, in pixels.
        side: side of a block, in pixels.

    """

    def __init__(self, net: nn.Module, size: tuple[int, int], side: int) -> None:
        """Prepare a copy of the network without memory; counting waits until it is needed."""
        self._net = copy.deepcopy(net).to("meta").eval()
        self._size = size
        self._side = side
        self._counted: dict[tuple[int, int], int] = {}

    def macs(self, grid: NDArray[np.uint8]) -> int:
        """Return the MACs of a plan's grid, uint8 [gh, gw] without REUSE blocks."""
        high, low = (int(np.count_nonzero(grid == action)) for action in SETS)
        if not high or not low:
            return self._count(high, low)
        one = self._count(1, grid.size - 1)
        return one + (high - 1) * (self._count(2, grid.size - 2) - one)

    def _count(self, high: int, low: int) -> int:
        """Count the MACs of a grid with so many HIGH and LOW blocks, wherever they lie."""
        key = (high, low)
        if key not in self._counted:
            actions = np.repeat(np.array(SETS, np.uint8), key)
            shape = grid_shape(*self._size, self._side)
            layout = BlockLayout(
                actions.reshape(1, *shape), self._side, self._size, device=torch.device("meta")
            )
            image = torch.empty((1, 3, *self._size), device="meta")
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                self._net(split(image, layout))
            self._counted[key] = counter.get_total_flops() // 2
        return self._counted[key]
