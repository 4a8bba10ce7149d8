"""Networks as others write them: with paddings of their own, pyramids by size, pooled attention.

On blocks each has to give what it gives on the whole frame, over a background of that frame, and
its operations have to find the planes that the whole frame has read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core.backend import TorchKernels
from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.budgeted import Budgeted
from seg_node.core.config import Config
from seg_node.core.forms import Margin, Reading
from seg_node.core.fused import on_kernels
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Ranked, UNTRAINED
from seg_node.core.scores import Middle
from seg_node.core.sparse import split
from seg_node.core.tiles import halved
from seg_node.core.types import Action, ModelError
from seg_node.data.street import Street

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 64
HIGH, LOW, REUSE = Action.HIGH, Action.LOW, Action.REUSE


class Network(nn.Module):
    """What all have: normalisation of the image and a head at a quarter of its resolution."""

    classes, stride, feature_channels = 4, 4, 8

    def __init__(self) -> None:
        """Draw a head."""
        super().__init__()
        self.head = nn.Conv2d(self.feature_channels, self.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB to logits."""
        logits: Tensor = self.head(self.features(image))
        return logits

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        raise NotImplementedError

    def normalised(self, image: Tensor) -> Tensor:
        """Return an image with values around zero."""
        return (image.to(self.head.weight.dtype) - 120.0) / 70.0


def conv(before: int, after: int, kernel: int = 3, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kwargs.pop("padding", kernel // 2), **kwargs)


class PaddedUnet(Network):
    """Pads the image to a multiple of 16, and enlarges to the sizes of its lateral planes."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.down = nn.ModuleList(conv(8, 8, stride=2) for _ in range(2))
        self.up = nn.ModuleList(conv(16, 8) for _ in range(2))

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        height, width = image.size()[-2:]
        x = functional.pad(self.normalised(image), (0, -width % 16, 0, -height % 16))
        planes = [torch.relu(self.stem(x))]
        for layer in self.down:
            planes.append(torch.relu(layer(planes[-1])))
        x = planes.pop()
        for layer in self.up:
            lateral = planes.pop()
            x = functional.interpolate(x, size=lateral.shape[-2:], mode="bilinear")
            x = torch.relu(layer(torch.cat((x, lateral), 1)))
        return x[..., : -(-height // 4), : -(-width // 4)]


class SameAsTensorflow(Network):
    """Pads by a step of its own before each convolution: behind the image where it strides."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2))
        self.pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
        self.deep = nn.Sequential(
            *(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(8, 8, 5, 2, groups=8), nn.Hardswish()),
            *(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3)),
        )
        self.even = nn.Conv2d(8, 8, 3, padding="same")

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        height, width = image.shape[-2:]
        x = functional.pad(self.normalised(image), (0, -width % 8, 0, -height % 8))
        x = self.pool(torch.relu(self.stem(x)))
        deep = functional.interpolate(self.deep(x), scale_factor=2, mode="bilinear")
        features: Tensor = self.even(x) + deep
        return features[..., : -(-height // 4), : -(-width // 4)]


class Averaging(Network):
    """ResNet-D's way down, by means of two by two pixels, and a pyramid that repeats pixels."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, stride=2), nn.AvgPool2d(3, 2, 1))
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Sequential(pool, conv(8, 8, 1), conv(8, 8))

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        x = self.stem(self.normalised(image))
        deep = functional.interpolate(self.down(x), scale_factor=2.0)
        x = x + deep[..., : x.shape[-2], : x.shape[-1]]
        return torch.relu(x)


class Attentive(Network):
    """Squeeze and excitation, and a pooled context that is convolved once it is enlarged."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 8, stride=2))
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.context, self.end = conv(8, 8), conv(16, 8)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        x = self.stem(self.normalised(image))
        pooled = torch.mean(x, (2, 3), keepdim=True)
        assert pooled.dim() == x.ndim
        x = torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled)))) * x
        whole = functional.adaptive_avg_pool2d(x, (2, 3))
        whole = functional.interpolate(whole, size=x.shape[-2:], mode="bilinear")
        features: Tensor = self.end(torch.cat((self.context(torch.relu(whole)), x), 1))
        return features


class Divided(Network):
    """Halves of the channels that go different ways, as ghost and cross-stage blocks have them."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 12, stride=2))
        self.left, self.right, self.end = conv(6, 6), conv(4, 4), conv(16, 8)

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to features."""
        x = self.stem(self.normalised(image))
        a, b = x.contiguous().chunk(2, 1)
        c, d, _ = torch.split(x, [4, 4, 4], dim=1)
        e = self.right(c) + d + x[:, 8:] - x[:, 2:6, :, :]
        features: Tensor = self.end(torch.cat((self.left(a) * 2, b, e), 1))
        return features


NETWORKS: list[Callable[[], Network]] = [
    PaddedUnet,
    SameAsTensorflow,
    Averaging,
    Attentive,
    Divided,
]
SIZES = [(128, 192), (141, 187), (64, 97)]


def drawn(kind: Callable[[], Network]) -> Network:
    torch.manual_seed(2)
    return kind().double().eval().requires_grad_(requires_grad=False)


def picture(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)


def layout_of(size: tuple[int, int], *actions: Action, seed: int = 0) -> BlockLayout:
    shape = (1, *grid_shape(*size, SIDE))
    grid = np.random.default_rng(seed).choice(np.array(actions, np.uint8), shape)
    grid.flat[0] = actions[0]
    return BlockLayout(grid, SIDE, size)


def blocks_of(image: Tensor, layout: BlockLayout, shown: Recording | None, *, fused: bool) -> Any:
    if fused:
        return on_kernels(image, layout, shown, TorchKernels())
    return split(image, layout, shown)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_over_their_own_frame_are_the_whole_frame(
    kind: Callable[[], Network], size: tuple[int, int], *, fused: bool
) -> None:
    net, image, recording = drawn(kind), picture(size), Recording()
    with torch.inference_mode():
        with Recorder(recording):
            expected = net(image)
        for actions in ((HIGH,), (HIGH, REUSE)):
            layout = layout_of(size, *actions)
            shown = recording if REUSE in actions else None
            found: Any = net(blocks_of(image, layout, shown, fused=fused))
            torch.testing.assert_close(
                found.combined(base=expected), expected, rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_of_half_resolution_are_the_half_frame(kind: Callable[[], Network]) -> None:
    """Where the frame at half resolution needs no other padding than the whole one."""
    net, size = drawn(kind), (128, 192)
    image = picture(size)
    with torch.inference_mode():
        found: Any = net(blocks_of(image, layout_of(size, LOW), None, fused=False))
        expected = net(halved(image))
    torch.testing.assert_close(found.low, cut_as(expected, found), rtol=1e-9, atol=1e-9)


def cut_as(plane: Tensor, blocks: Any) -> Tensor:
    """Return a plane [1, C, h, w] as blocks like others."""
    b = blocks.low.shape[-1]
    tiles = plane.unfold(2, b, b).unfold(3, b, b)[0]
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("mode", ["adaptive", "segblocks"])
def test_modes_on_blocks_run_them(kind: Callable[[], Network], mode: str) -> None:
    """A still picture stays what it was, to the last of many frames."""
    torch.manual_seed(2)
    policies = {**UNTRAINED, "adaptive": Budgeted(), "segblocks": Ranked(Middle())}
    config = Config(mode=mode, device="cpu", precision="fp32")
    config = config.updated({"block_size": SIDE, "budget.compute": 0.4, "max_age_ms": 500.0})
    steps = Segmenter(kind().eval(), policies, config)
    (sample,) = Street(3, 190, 142).frames(1)
    stamps_ns = range(0, 12 * 66_000_000, 66_000_000)
    results = [steps.step(replace(sample.frame, stamp_ns=stamp_ns)) for stamp_ns in stamps_ns]
    assert all((a.labels == results[0].labels).mean() > 0.99 for a in results)
    assert all(r.report.macs < r.report.dense_macs for r in results[1:])
    if mode == "adaptive":
        assert any((r.plan.grid == HIGH).any() for r in results[1:])


@pytest.mark.parametrize(
    ("reading", "margin", "expected"),
    [
        (Reading((3, 3), (1, 1), (1, 1)), Margin(), (1, 1)),
        (Reading((3, 3), (2, 2), (1, 1)), Margin(), (1, 1)),
        (Reading((3, 3), (2, 2)), Margin(0, 1, 0, 1), (0, 1)),
        (Reading((5, 5), (2, 2)), Margin(1, 2, 1, 2), (1, 2)),
        (Reading((3, 3), (1, 1), (0, 0)), Margin(2, 0, 2, 0), (2, 0)),
        (Reading((3, 3), (1, 1), (2, 2), (2, 2)), Margin(), (2, 2)),
        (Reading((2, 2), (2, 2)), Margin(), (0, 0)),
        (Reading((3, 3), (2, 2), ceil=True), Margin(), (0, 1)),
        (Reading((3, 3), (1, 1)), Margin(), None),
        (Reading((3, 3), (2, 2)), Margin(1, 1, 0, 1), None),
        (Reading((3, 5), (1, 1), (1, 2)), Margin(), None),
        (Reading((3, 3), (2, 2), (1, 1)), Margin(0, 16, 0, 16), None),
    ],
)
def test_what_operations_read(
    reading: Reading, margin: Margin, expected: tuple[int, int] | None
) -> None:
    assert reading.around((8, 10), margin) == expected


@pytest.mark.parametrize(
    ("what", "operation"),
    [
        ("relu after pad", lambda x: torch.relu(functional.pad(x, (1, 1, 1, 1)))),
        ("pad by", lambda x: functional.pad(x, (1, 1))),
        ("pad by", lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect")),
        ("pad by", lambda x: functional.pad(x, (1, 1, 1, 1), value=2.0)),
        ("avg_pool2d", lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ("max_pool2d", lambda x: functional.max_pool2d(functional.pad(x, (1,) * 4), 3, 1, 1)),
        ("interpolate", lambda x: functional.interpolate(x, size=(50, 70), mode="bilinear")),
    ],
)
def test_what_cannot_be_is_refused_by_name(what: str, operation: Callable[[Any], Any]) -> None:
    x: Any = split(picture((128, 192)), layout_of((128, 192), HIGH))
    x = functional.conv2d(x.to(torch.float64), torch.ones(2, 3, 3, 3).double(), None, 4, 1)
    with pytest.raises(ModelError, match=what):
        operation(x)


def test_a_maximum_may_stick_out_of_the_plane() -> None:
    """As torch has it with ceil_mode: what is outside is no maximum."""
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    image = picture((128, 192)).double()

    def pooled(x: Any) -> Any:
        made = functional.conv2d(x, weight, None, 2, 1) - 1000.0
        return functional.max_pool2d(made, 3, 2, ceil_mode=True)

    found = pooled(split(image, layout_of((128, 192), HIGH))).combined()
    torch.testing.assert_close(found, pooled(image), rtol=1e-9, atol=1e-9)


def test_an_image_may_not_be_padded_beyond_its_blocks() -> None:
    x: Any = split(picture((128, 192)), layout_of((128, 192), HIGH))
    with pytest.raises(ModelError, match="inside its last blocks"):
        torch.relu(functional.pad(x, (0, 1, 0, 0)))
