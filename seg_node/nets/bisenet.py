"""BiSeNet on ResNet-18: Yu et al., ECCV 2018 (arXiv 1808.00897), in the form AR-Seg measures.

Difference from that form, on purpose: upsampling is bilinear by an exact factor (there: nearest,
then a resize to size). Layers, sizes and so the multiply-accumulates are the same. There are no
auxiliary heads at strides 8 and 16, which only training would use.

Attention normalises averages over the whole image, so training needs at least two images in a
batch.
"""

from __future__ import annotations

import torch
from torch import nn, Tensor

from seg_node.nets.resnet import conv_bn, Normalise, ResNet18
from seg_node.nets.swiftnet import upsample

CONTEXT_CHANNELS = 128
"""Of either path, at width 1."""
OUTPUT_STRIDE = 8


def size_of(x: Tensor) -> tuple[int, int]:
    """Return height and width of [N, C, h, w]."""
    return x.shape[-2], x.shape[-1]


class SpatialPath(nn.Module):
    """Detail at stride 8 from three strided convolutions: [N, 3, H, W] to [N, cout, H/8, W/8]."""

    def __init__(self, cout: int) -> None:
        """Build three halving convolutions to half the channels, and a 1x1."""
        super().__init__()
        inner = cout // 2
        self.layers = nn.ModuleList(
            (
                conv_bn(3, inner, 7, 2),
                conv_bn(inner, inner, 3, 2),
                conv_bn(inner, inner, 3, 2),
                conv_bn(inner, cout, 1),
            )
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalised image [N, 3, H, W] to [N, cout, H/8, W/8], rounded up."""
        for layer in self.layers:
            x = self.relu(layer(x))
        return x


class Attention(nn.Module):
    """One weight (0..1) for each channel of [N, C, h, w], from the channels' averages."""

    def __init__(self, channels: int) -> None:
        """Build the 1x1 convolution from averages to weights."""
        super().__init__()
        self.weigh = conv_bn(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, C, h, w] to weights [N, C, 1, 1]."""
        return torch.sigmoid(self.weigh(x.mean((2, 3), keepdim=True)))


class Refinement(nn.Module):
    """Attention refinement: features blended by a 3x3, then weighted: [N, cin, ...] to cout."""

    def __init__(self, cin: int, cout: int) -> None:
        """Build blend and attention."""
        super().__init__()
        self.blend = conv_bn(cin, cout, 3)
        self.relu = nn.ReLU(inplace=True)
        self.attention = Attention(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, cin, h, w] to [N, cout, h, w]."""
        x = self.relu(self.blend(x))
        refined: Tensor = x * self.attention(x)
        return refined


class ContextPath(nn.Module):
    """Meaning at stride 8 from a ResNet-18, refined from stride 32 upwards."""

    def __init__(self, width: float, cout: int) -> None:
        """Build encoder, global average, two refinements and their blends."""
        super().__init__()
        self.encoder = ResNet18(width)
        c16, c32 = self.encoder.channels[2:]
        self.average = conv_bn(c32, cout, 1)
        self.refine32 = Refinement(c32, cout)
        self.refine16 = Refinement(c16, cout)
        self.blend32 = conv_bn(cout, cout, 3)
        self.blend16 = conv_bn(cout, cout, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image [N, 3, H, W] to [N, cout, H/8, W/8], rounded up."""
        _, s8, s16, s32 = self.encoder(image)
        whole = self.relu(self.average(s32.mean((2, 3), keepdim=True)))
        x = upsample(self.refine32(s32) + whole, 2, size_of(s16))
        x = self.refine16(s16) + self.relu(self.blend32(x))
        x = upsample(x, 2, size_of(s8))
        context: Tensor = self.relu(self.blend16(x))
        return context


class BiSeNet(nn.Module):
    """BiSeNetV1-RN18: `features` ends before the last 1x1 convolution, `head` is that layer.

    Args:
        classes: number of output classes.
        width: channel factor of all layers; 1.0 is the paper's network.

    """

    def __init__(self, classes: int, width: float = 1.0) -> None:
        """Build both paths, their fusion, the output convolution and the classifier."""
        super().__init__()
        self.classes = classes
        self.stride = OUTPUT_STRIDE
        path = round(CONTEXT_CHANNELS * width)
        fused = self.feature_channels = 2 * path
        self.normalise = Normalise()
        self.spatial = SpatialPath(path)
        self.context = ContextPath(width, path)
        self.fuse = conv_bn(2 * path, fused, 1)
        self.attention = Attention(fused)
        self.output = conv_bn(fused, fused, 3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(fused, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, feature_channels, H/8, W/8], rounded up."""
        image = self.normalise(image)
        paths = torch.cat((self.spatial(image), self.context(image)), dim=1)
        fused = self.relu(self.fuse(paths))
        features: Tensor = self.relu(self.output(fused + fused * self.attention(fused)))
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H/8, W/8], rounded up."""
        logits: Tensor = self.head(self.features(image))
        return logits
