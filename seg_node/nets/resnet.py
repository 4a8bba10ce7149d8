"""ResNet-18 encoder with a width factor: He et al., Deep Residual Learning, CVPR 2016."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, Tensor

STAGE_STRIDES = (4, 8, 16, 32)
"""Stride of each stage when none is dilated, in input pixels per feature pixel."""


def conv_bn(
    cin: int, cout: int, kernel: int, stride: int = 1, *, dilation: int = 1
) -> nn.Sequential:
    """Return a bias-free convolution with half padding, followed by BatchNorm.

    The pair folds into one convolution at load time, so every layer of our networks is
    written as this pair, with the activation (if any) outside.
    """
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(cout),
    )


class Normalise(nn.Module):
    """Maps RGB 0..255 to mean 0 and variance 1; part of the network, so no caller can forget it.

    The constants are those of CamVid train (papers.md section 2); they are saved with the weights.
    They are never rounded to half precision: that would shift all that the network sees, and leave
    its features nearly three times as far from those in float32 (docs/export.md).
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        """Register mean and standard deviation per RGB channel, in 0..255."""
        super().__init__()
        mean = torch.tensor((0.39068, 0.40521, 0.41434)).view(1, 3, 1, 1) * 255.0
        std = torch.tensor((0.29652, 0.30514, 0.30080)).view(1, 3, 1, 1) * 255.0
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self._number = mean.dtype

    def _apply(self, fn: Any, recurse: bool = True) -> Normalise:  # noqa: FBT001, FBT002 - as torch calls it
        """Follow the network to another device or number format."""
        exact = self.mean, self.std
        # What becomes of a tensor of that format: the constants may be of another.
        self._number = fn(self.mean.new_empty(0, dtype=self._number)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it
        if self._number in {torch.float16, torch.bfloat16}:
            self.mean, self.std = (constant.to(self.mean.device) for constant in exact)
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W], uint8 or float, to the same shape in the weights' type."""
        return ((image.to(self.mean.dtype) - self.mean) / self.std).to(self._number)


class Removed(nn.Identity):
    """Stands where a network was slimmed by a whole module; see `nets/slim.py`."""


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions; `identity` blocks keep shape and channels."""

    def __init__(
        self, cin: int, cout: int, stride: int, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        """Build a block that maps [N, cin, h, w] to [N, cout, h / stride, w / stride]."""
        super().__init__()
        self.conv1 = conv_bn(cin, cout, 3, stride, dilation=dilations[0])
        self.conv2 = conv_bn(cout, cout, 3, dilation=dilations[1])
        self.relu = nn.ReLU(inplace=True)
        self.is_identity = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if self.is_identity else conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, cin, h, w] to [N, cout, h / stride, w / stride]."""
        out: Tensor = self.conv2(self.relu(self.conv1(x)))
        total: Tensor = self.relu(out + self.shortcut(x))
        return total


class ResNet18(nn.Module):
    """ResNet-18 without its classifier; returns the output of all four stages.

    Past `output_stride`, a stage dilates its convolutions instead of halving the size, each by
    what was not halved before it. So the weights fit every output stride, and every n-th pixel
    of a dilated stage is the pixel that the strided stage computes.

    Args:
        width: channel factor; 1.0 gives the paper's 64, 128, 256, 512.
        output_stride: the largest stride, in input pixels per feature pixel: 4, 8, 16 or 32.

    """

    def __init__(self, width: float = 1.0, output_stride: int = 32) -> None:
        """Build the stem and four stages of two basic blocks each."""
        super().__init__()
        self.channels = tuple(round(c * width) for c in (64, 128, 256, 512))
        self.stem = conv_bn(3, self.channels[0], 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = (self.channels[0], *self.channels[:-1])
        self.stages = nn.ModuleList()
        dilation = 1
        for cin, cout, stride in zip(inputs, self.channels, STAGE_STRIDES, strict=True):
            before, dilation = dilation, max(1, stride // output_stride)
            # The pooling before the first stage halves for it.
            halves = stride > STAGE_STRIDES[0] and dilation == 1
            first = BasicBlock(cin, cout, 2 if halves else 1, (before, dilation))
            second = BasicBlock(cout, cout, 1, (dilation, dilation))
            self.stages.append(nn.Sequential(first, second))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map a normalised image [N, 3, H, W] to features at strides 4, 8, 16 and 32.

        No stride exceeds `output_stride`; sizes are rounded up.
        """
        x = self.pool(self.relu(self.stem(image)))
        s4 = self.stages[0](x)
        s8 = self.stages[1](s4)
        s16 = self.stages[2](s8)
        return s4, s8, s16, self.stages[3](s16)
