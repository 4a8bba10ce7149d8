"""A network of one's own in seg_node: any encoder of timm under SwiftNet's decoder.

    pip install timm
    TIMM_PRETRAINED=1 PYTHONPATH=examples seg_node train segment \
        --model timm_encoder:mobilenetv3_small ...

With TIMM_PRETRAINED=1, training starts from timm's ImageNet weights, which timm downloads.
Without it the encoder starts from random weights: right for loading a trained model, which
brings its own.
"""

from __future__ import annotations

import os

import timm
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.nets.swiftnet import PyramidPooling, Upsample

STRIDES = (4, 8, 16, 32)
"""Strides of the encoder that the decoder uses; it starts at the last and ends at the first."""


class TimmSwiftNet(nn.Module):
    """A timm encoder with pyramid pooling and a three-step decoder.

    Args:
        encoder: timm's name; one that offers `features_only` and the strides 4 to 32.
        classes: number of output classes.
        channels: width of the decoder.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: str, classes: int, channels: int = 96) -> None:
        """Build the encoder by its name and put a fresh decoder on top."""
        super().__init__()
        self.classes = classes
        self.stride = STRIDES[0]
        self.feature_channels = channels
        pretrained = os.environ.get("TIMM_PRETRAINED") == "1"
        self.encoder = timm.create_model(encoder, features_only=True, pretrained=pretrained)
        config = self.encoder.pretrained_cfg
        self.register_buffer("mean", 255 * torch.tensor(config["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(config["std"]).view(1, 3, 1, 1))
        info = self.encoder.feature_info
        width = dict(zip(info.reduction(), info.channels(), strict=True))
        self.taps = [info.reduction().index(stride) for stride in STRIDES]
        self.pyramid = PyramidPooling(width[STRIDES[-1]], channels)
        self.decoder = nn.ModuleList(Upsample(width[s], channels) for s in STRIDES[-2::-1])
        self.head = nn.Conv2d(channels, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, channels, H/4, W/4], rounded up."""
        height, width = image.shape[-2:]
        x = (image.to(self.mean.dtype) - self.mean) / self.std
        # Some encoders round sizes down. With whole cells of the last stride none has to.
        x = functional.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        stages = self.encoder(x)
        *laterals, x = (stages[tap] for tap in self.taps)
        x = self.pyramid(x)
        for step, lateral in zip(self.decoder, reversed(laterals), strict=True):
            x = step(x, lateral)
        features: Tensor = x[..., : -(-height // self.stride), : -(-width // self.stride)]
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H/4, W/4], rounded up."""
        logits: Tensor = self.head(self.features(image))
        return logits


def mobilenetv3_small(classes: int) -> TimmSwiftNet:
    """Build MobileNetV3-Small under the decoder."""
    return TimmSwiftNet("mobilenetv3_small_100", classes)


def resnet18d(classes: int) -> TimmSwiftNet:
    """Build ResNet-18-D under the decoder."""
    return TimmSwiftNet("resnet18d", classes)


def convnext_atto(classes: int) -> TimmSwiftNet:
    """Build ConvNeXt-Atto under the decoder."""
    return TimmSwiftNet("convnext_atto", classes)
