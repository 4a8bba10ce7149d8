"""Small networks that decide what is computed: where a frame deserves full resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn, Tensor
from torch.nn import functional

from seg_node.nets.resnet import conv_bn, Normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIDE = 32
"""Pixels on each side of a block in the image that `ComplexityNet` sees; also its stride."""

CHANNELS = 64


class ComplexityNet(nn.Module):
    """SegBlocks' policy network: one logit per block, "this block deserves full resolution".

    It sees the image shrunk so that a block is 32 pixels wide, by picking pixels, as in the
    paper's code: what averaging would hide, such as fine texture, is what it looks for (papers.md
    section 3A, step 2). 0.34 GMAC for 8 x 16 blocks.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        """Build four convolutions that halve the size five times."""
        super().__init__()
        self.normalise = Normalise()
        self.layers = nn.ModuleList(
            (
                conv_bn(3, channels, 7, 4),
                conv_bn(channels, channels, 5, 2),
                conv_bn(channels, channels, 5, 2),
            )
        )
        self.relu = nn.ReLU(inplace=True)
        self.logit = nn.Conv2d(channels, 1, 5, 2, 2)

    def forward(self, image: Tensor, grid: Sequence[int]) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, gh, gw].

        Args:
            image: whole blocks; see `seg_node.core.scores.Complexity`, which pads.
            grid: blocks (gh, gw) of the image.

        """
        size = (grid[0] * BLOCK_SIDE, grid[1] * BLOCK_SIDE)
        small = functional.interpolate(image.to(self.normalise.mean.dtype), size, mode="nearest")
        x = self.normalise(small)
        for layer in self.layers:
            x = self.relu(layer(x))
        logits: Tensor = self.logit(x)
        return logits[:, 0]
