"""PSPNet on a dilated ResNet-18: Zhao et al., CVPR 2017 (arXiv 1612.01105).

Two forms, those of AR-Seg's experiments (papers.md section 2): `PSPNet`, for CamVid, decodes to
full resolution; `PSPNetStride8`, for Cityscapes, stays at stride 8.

Differences from AR-Seg's networks, on purpose: every convolution is followed by BatchNorm and
ReLU (some of theirs have a bias instead, or PReLU), the upsampling has an exact factor, and the
first block of a dilated stage is dilated as by the ResNet that it stands for. Layers, sizes and
so the multiply-accumulates are the same. There are no auxiliary heads (class presence, stage 3).

The pyramid normalises averages over the whole image, so training needs at least two images in
a batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import nn, Tensor

from seg_node.nets.resnet import conv_bn, Normalise, ResNet18
from seg_node.nets.swiftnet import upsample, with_pooled

PYRAMID_GRIDS = (1, 2, 3, 6)
ENCODER_STRIDE = 8
PYRAMID_CHANNELS = 1024
REMOVABLE = tuple(f"pyramid.branches.{index}" for index in range(len(PYRAMID_GRIDS)))
"""Modules without which the networks still work; see `nets/slim.py`."""


class PyramidContext(nn.Module):
    """Appends averages of ever smaller parts of the image, [N, cin, h, w] to [N, C, h, w].

    C is `out_channels` = cin + 4 * level, with `level` channels for each of `PYRAMID_GRIDS`.
    """

    def __init__(self, cin: int, level: int) -> None:
        """Build one branch per grid."""
        super().__init__()
        self.out_channels = cin + level * len(PYRAMID_GRIDS)
        self.branches = nn.ModuleList(conv_bn(cin, level, 1) for _ in PYRAMID_GRIDS)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Append pooled context."""
        return with_pooled(x, PYRAMID_GRIDS, self.branches, self.relu)


class PSPNet(nn.Module):
    """PSPNet18 with a decoder to full resolution; `head` is the last 1x1 convolution.

    Args:
        classes: number of output classes.

    """

    removable = REMOVABLE

    def __init__(self, classes: int) -> None:
        """Build encoder, pyramid, three decoder steps and the classifier."""
        super().__init__()
        self.classes = classes
        self.stride = 1
        self.feature_channels = 64
        self.normalise = Normalise()
        self.encoder = ResNet18(output_stride=ENCODER_STRIDE)
        channels = self.encoder.channels[-1]
        self.pyramid = PyramidContext(channels, channels)
        self.bottleneck = conv_bn(self.pyramid.out_channels, PYRAMID_CHANNELS, 1)
        widths = (PYRAMID_CHANNELS, 256, 64, self.feature_channels)
        self.decoder = nn.ModuleList(conv_bn(cin, cout, 3) for cin, cout in pairwise(widths))
        self.relu = nn.ReLU(inplace=True)
        self.drop_context = nn.Dropout2d(0.3)
        self.drop = nn.Dropout2d(0.15)
        self.head = nn.Conv2d(self.feature_channels, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, 64, H, W]."""
        *_, x = self.encoder(self.normalise(image))
        x = self.drop_context(self.relu(self.bottleneck(self.pyramid(x))))
        for stride, step in zip((4, 2, 1), self.decoder, strict=True):
            size = (-(-image.shape[-2] // stride), -(-image.shape[-1] // stride))
            x = self.drop(self.relu(step(upsample(x, 2, size))))
        return cast("Tensor", x)

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H, W]."""
        logits: Tensor = self.head(self.features(image))
        return logits


class PSPNetStride8(nn.Module):
    """PSPNet18 without a decoder; `head` is the last 1x1 convolution.

    Args:
        classes: number of output classes.

    """

    removable = REMOVABLE

    def __init__(self, classes: int) -> None:
        """Build encoder, pyramid, the convolution that merges it, and the classifier."""
        super().__init__()
        self.classes = classes
        self.stride = ENCODER_STRIDE
        self.feature_channels = 512
        self.normalise = Normalise()
        self.encoder = ResNet18(output_stride=ENCODER_STRIDE)
        channels = self.encoder.channels[-1]
        self.pyramid = PyramidContext(channels, channels // len(PYRAMID_GRIDS))
        self.merge = conv_bn(self.pyramid.out_channels, self.feature_channels, 3)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout2d(0.1)
        self.head = nn.Conv2d(self.feature_channels, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, 512, H/8, W/8], rounded up."""
        *_, x = self.encoder(self.normalise(image))
        return cast("Tensor", self.drop(self.relu(self.merge(self.pyramid(x)))))

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H/8, W/8], rounded up."""
        logits: Tensor = self.head(self.features(image))
        return logits
