"""SwiftNet, single scale, on ResNet-18: Orsic et al., CVPR 2019 (arXiv 1903.08469).

Differences from the authors' network, on purpose: every convolution is followed by its own
BatchNorm (theirs pre-activate), so that all BatchNorms fold away at load; the layers, their
sizes and so the multiply-accumulates are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.nets.resnet import conv_bn, Normalise, Removed, ResNet18

if TYPE_CHECKING:
    from collections.abc import Sequence

PYRAMID_GRIDS = (8, 4, 2)
OUTPUT_STRIDE = 4


def upsample(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Upsample [N, C, h, w] bilinearly by an exact factor, then cut to size (H, W).

    The factor is exact whatever the image size (12 rows become 24, cut to 23), so the operation
    is the same everywhere in the image: a block with a one-pixel halo gives the same values.
    """
    full = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return full[..., : size[0], : size[1]]


def with_pooled(
    x: Tensor, grids: Sequence[int], branches: nn.ModuleList, relu: nn.Module
) -> Tensor:
    """Append averages over grids, which never exceed the feature map's own size, as channels.

    Args:
        x: [N, C, h, w].
        grids: averages per side; one for each branch.
        branches: what maps the averages of a grid; a removed one appends nothing.
        relu: what follows each of them.

    """
    h, w = x.shape[-2:]
    levels = [x]
    for grid, branch in zip(grids, branches, strict=True):
        if isinstance(branch, Removed):
            continue
        pooled = functional.adaptive_avg_pool2d(x, (min(grid, h), min(grid, w)))
        level = relu(branch(pooled))
        levels.append(functional.interpolate(level, (h, w), mode="bilinear"))
    return torch.cat(levels, dim=1)


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling over the whole feature map: [N, cin, h, w] to [N, cout, h, w]."""

    def __init__(self, cin: int, cout: int) -> None:
        """Build the bottleneck, one branch per grid of `PYRAMID_GRIDS`, and the merge."""
        super().__init__()
        level = cout // len(PYRAMID_GRIDS)
        self.bottleneck = conv_bn(cin, cout, 1)
        self.branches = nn.ModuleList(conv_bn(cout, level, 1) for _ in PYRAMID_GRIDS)
        self.merge = conv_bn(cout + level * len(PYRAMID_GRIDS), cout, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add pooled context."""
        x = self.relu(self.bottleneck(x))
        levels = with_pooled(x, PYRAMID_GRIDS, self.branches, self.relu)
        merged: Tensor = self.relu(self.merge(levels))
        return merged


class Upsample(nn.Module):
    """One decoder step: upsample x to the lateral features, add them, blend with a 3x3."""

    def __init__(self, lateral_channels: int, channels: int) -> None:
        """Build a 1x1 lateral projection and a 3x3 blend of `channels` outputs."""
        super().__init__()
        self.lateral = conv_bn(lateral_channels, channels, 1)
        self.blend = conv_bn(channels, channels, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        """Map x [N, C, h, w] and lateral [N, L, 2h, 2w] to [N, C, 2h, 2w]; odd sizes are cut."""
        size = (lateral.shape[-2], lateral.shape[-1])
        if isinstance(self.lateral, Removed):
            joined = upsample(x, 2, size)
        else:
            skip = self.lateral(lateral)
            joined = upsample(x, 2, size) + skip
        out: Tensor = self.relu(self.blend(joined))
        return out


class SwiftNet(nn.Module):
    """SwiftNet-RN18: `features` ends before the last 1x1 convolution, `head` is that layer.

    Args:
        classes: number of output classes.
        width: channel factor of encoder and decoder; 1.0 is the paper's network.

    Attributes:
        removable: modules without which the network still works: scales of its pyramid and of
            its decoder, but for the finest, which holds the edges.

    """

    removable = (
        *(f"pyramid.branches.{index}" for index in range(len(PYRAMID_GRIDS))),
        *("decoder.0.lateral", "decoder.1.lateral"),
    )

    def __init__(self, classes: int, width: float = 1.0) -> None:
        """Build encoder, pyramid pooling, three decoder steps and the classifier."""
        super().__init__()
        self.classes = classes
        self.stride = OUTPUT_STRIDE
        self.feature_channels = round(128 * width)
        self.normalise = Normalise()
        self.encoder = ResNet18(width)
        c4, c8, c16, c32 = self.encoder.channels
        self.pyramid = PyramidPooling(c32, self.feature_channels)
        self.decoder = nn.ModuleList(Upsample(c, self.feature_channels) for c in (c16, c8, c4))
        self.head = nn.Conv2d(self.feature_channels, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, feature_channels, H/4, W/4], rounded up."""
        s4, s8, s16, s32 = self.encoder(self.normalise(image))
        x: Tensor = self.pyramid(s32)
        for step, lateral in zip(self.decoder, (s16, s8, s4), strict=True):
            x = step(x, lateral)
        return x

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H/4, W/4], rounded up."""
        logits: Tensor = self.head(self.features(image))
        return logits
