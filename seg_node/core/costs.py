"""Exact multiply-accumulate counts (MACs, not twice as many floating-point operations)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
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
