"""Small networks that decide what is computed: at full resolution, or at all."""

from __future__ import annotations

import math
from typing import Any, TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core.gate import DOUBT_FLOOR, TOLERANCE
from seg_node.nets.resnet import conv_bn, Normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIDE = 32
"""Pixels on each side of a block in the image that `ComplexityNet` sees; also its stride."""

CHANNELS = 64

PLACE = 4
"""Numbers that say where in the picture a pixel lies."""

HIDDEN = 8
"""Hidden units of `GateNet`."""

STEEP, FAINT = 0.5413, -4.0
"""Parameters whose softplus is 1, and nearly 0."""

DOUBT_USUAL = 0.12
"""Doubt, 0..1, of a middling bin."""


class ComplexityNet(nn.Module):
    """SegBlocks' policy network: one logit per block, "this block deserves full resolution".

    It sees the image shrunk so that a block is 32 pixels wide, by picking pixels, as in the
    paper's code: what averaging would hide, such as fine texture, is what it looks for (papers.md
    section 3A, step 2). 0.34 GMAC for 8 x 16 blocks.

    Unlike the paper's it is told where in the picture a block is: what is far away, and small,
    lies in the same rows in every frame of a camera.
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
        self.place = nn.Conv2d(PLACE, channels, 1, bias=False)
        nn.init.zeros_(self.place.weight)
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
        *first, last = self.layers
        for layer in first:
            x = self.relu(layer(x))
        x = last(x)
        x = self.relu(x + self.place(_places(x)))
        logits: Tensor = self.logit(x)
        return logits[:, 0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights; those of a policy that was not told places yet say nothing of them."""
        state_dict.setdefault(f"{prefix}place.weight", torch.zeros_like(self.place.weight))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _places(x: Tensor) -> Tensor:
    """Return row, column and the squares of both of the pixels of a plane, -1..1, [1, 4, h, w]."""
    h, w = x.shape[-2:]
    row, column = (
        (2 * torch.arange(length, device=x.device, dtype=x.dtype) + 1) / length - 1
        for length in (h, w)
    )
    planes = row[:, None].expand(h, w), column[None].expand(h, w)
    return torch.stack((*planes, *(plane * plane for plane in planes)))[None]


class GateNet(nn.Module):
    """Gates of stages of a network: from distortion and doubt to a logit per stage and bin.

    More distortion, or more doubt, never lowers a logit: what they are multiplied with is not
    negative (a softplus), and what follows does not fall. A gate sees the distortion of its own
    bin, of all stages, and of the bins around.

    Args:
        gates: number of stages.

    """

    def __init__(self, gates: int) -> None:
        """Build it so that it scores by distortion x doubt at first, as untrained gates do."""
        super().__init__()
        self.own = nn.Parameter(torch.full((gates,), STEEP))
        self.doubt = nn.Parameter(torch.full((gates,), STEEP))
        self.around = nn.Parameter(torch.full((HIDDEN, gates, 3, 3), FAINT))
        self.mix = nn.Parameter(torch.full((gates, HIDDEN, 1, 1), FAINT))
        self.limits = nn.Parameter(torch.linspace(0.0, 1.0, HIDDEN))
        undecided = math.log1p(TOLERANCE / (DOUBT_USUAL + DOUBT_FLOOR))
        steep = float(functional.softplus(torch.tensor(STEEP)))
        self.bias = nn.Parameter(torch.full((gates,), -steep * undecided))

    def forward(self, distortion: Tensor, doubt: Tensor) -> Tensor:
        """Return logits [N, G, gh, gw].

        Args:
            distortion: in grey levels, by stage, float [N, G, gh, gw].
            doubt: how uncertain the result before is, 0..1, float [N, 1, gh, gw].

        """
        seen = torch.log1p(distortion)
        unsure = torch.log((doubt + DOUBT_FLOOR) / DOUBT_USUAL)
        wide = functional.pad(seen, (1, 1, 1, 1), mode="replicate")
        # Each layer sums as many numbers as its kernel has: divided by them, it starts in scale.
        around = functional.conv2d(wide, functional.softplus(self.around) / self.around[0].numel())
        hidden = torch.relu(around - self.limits.view(1, -1, 1, 1))
        mixed = functional.conv2d(hidden, functional.softplus(self.mix) / HIDDEN)
        own, sure = (functional.softplus(x).view(1, -1, 1, 1) for x in (self.own, self.doubt))
        return own * seen + sure * unsure + mixed + self.bias.view(1, -1, 1, 1)
