"""Residual blocks are found by what they do, and computed in some bins exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.costs import MacCounter
from seg_node.core.residual import compute_bins, find_residual_blocks, in_place_of, plain
from seg_node.core.types import Action
from seg_node.nets.build import build_network
from seg_node.nets.resnet import BasicBlock, conv_bn

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 32


class Bottleneck(nn.Module):
    """A wide look around between two 1x1 convolutions, in place where it may be."""

    def __init__(self, groups: int = 1) -> None:
        """Build it for 8 channels."""
        super().__init__()
        self.layers = nn.ModuleList(
            (conv_bn(8, 4, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=groups), conv_bn(4, 8, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the input at the end."""
        out = x
        for layer in self.layers:
            out = functional.silu(layer(out))
        out += x
        return out


class Deep(nn.Module):
    """Three dilated convolutions in a row, the first of which halves."""

    def __init__(self) -> None:
        """Build it for 8 channels."""
        super().__init__()
        self.first = nn.Conv2d(8, 8, 5, 2, 2)
        self.others = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 2, 2) for _ in range(2))
        self.skip = nn.Conv2d(8, 8, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Add a skip connection that halves, too."""
        out = self.first(x)
        for layer in self.others:
            out = functional.leaky_relu(layer(out))
        total: Tensor = self.skip(x) + out
        return total


class Pooled(Bottleneck):
    """Weighs channels by their averages over the image: no bin can do that alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Weigh, then add."""
        out = self.layers[1](self.layers[0](x))
        weights = functional.adaptive_avg_pool2d(out, 1).sigmoid()
        total: Tensor = self.layers[2](out * weights) + x
        return total


class Told(Bottleneck):
    """Is called with more than its input."""

    def forward(self, x: Tensor, share: float = 0.0, *, sign: int = 1) -> Tensor:
        """Scale before adding."""
        total: Tensor = sign * share * self.layers[1](self.layers[0](x)) + x
        return total


class InPlace(Bottleneck):
    """Overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate the input in place."""
        return super().forward(functional.relu(x, inplace=True))


class Chain(nn.Module):
    """An image to 8 channels, then one block."""

    def __init__(self, block: nn.Module) -> None:
        """Take the block."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.block = block

    def forward(self, image: Tensor) -> Tensor:
        """Run the block."""
        found: Tensor = self.block(self.stem(image.to(self.stem.weight.dtype)))
        return found


def awake(module: nn.Module) -> nn.Module:
    """Return a module in eval mode whose BatchNorms do something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
    return module.eval()


@pytest.mark.parametrize(
    ("name", "before"),
    [("swiftnet18-half", "encoder"), ("bisenet18", "context.encoder"), ("pspnet18", "encoder")],
)
def test_the_basic_blocks_of_the_shipped_networks_are_found(name: str, before: str) -> None:
    net = build_network(name, 3).eval()
    found = find_residual_blocks(net)
    places = [f"{before}.stages.{stage}.{i}" for stage in range(4) for i in (0, 1)]
    assert [block.name for block in found] == places
    for block in found:
        module = net.get_submodule(block.name)
        assert block.module is module
        assert isinstance(module, BasicBlock)
        assert block.keeps_shape == module.is_identity
        assert block.rectified
        assert block.channels == module.conv2[0].out_channels
    strides = [block.stride for block in found]
    assert strides == ([4, 4] + [8] * 6 if name == "pspnet18" else [4, 4, 8, 8, 16, 16, 32, 32])
    assert [block.stride_in for block in found] == [4, *strides[:-1]]


@pytest.mark.parametrize(
    ("block", "keeps_shape"), [(Bottleneck, True), (lambda: Bottleneck(4), True), (Deep, False)]
)
def test_blocks_of_other_kinds_are_found(
    block: Callable[[], nn.Module], *, keeps_shape: bool
) -> None:
    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(block()).eval())
    assert (found.name, found.keeps_shape, found.rectified) == ("block", keeps_shape, False)
    assert (found.stride_in, found.stride) == (2, 2 if keeps_shape else 4)


def test_a_block_is_called_with_all_that_it_was_called_with() -> None:
    class Telling(Chain):
        def forward(self, image: Tensor) -> Tensor:
            x = self.stem(image.to(self.stem.weight.dtype))
            found: Tensor = self.block(x, 0.5, sign=-1)
            return found

    torch.manual_seed(0)
    block = Told()
    block.layers[1] = nn.Conv2d(4, 8, 3, 1, 1)
    net = Telling(awake(block)).eval()
    (found,) = find_residual_blocks(net)
    assert (found.more, dict(found.named)) == ((0.5,), {"sign": -1})
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = net(image)
        with in_place_of([found], [plain(found)]):
            torch.testing.assert_close(net(image), expected)
        with in_place_of([found], [lambda x: x]):
            torch.testing.assert_close(net(image), net.stem(image))


@pytest.mark.parametrize("block", [Pooled, InPlace, lambda: conv_bn(8, 8, 3)])
def test_what_bins_cannot_do_or_what_adds_nothing_is_left_out(
    block: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    assert find_residual_blocks(Chain(block()).eval()) == ()


@pytest.mark.parametrize(
    "block",
    [
        lambda: BasicBlock(8, 8, 1),
        lambda: BasicBlock(8, 12, 2),
        lambda: BasicBlock(8, 8, 1, (2, 4)),
        Bottleneck,
        lambda: Bottleneck(4),
        Deep,
    ],
    ids=["identity", "down", "dilated", "bottleneck", "grouped", "deep"],
)
def test_bins_are_those_of_the_whole(block: Callable[[], nn.Module]) -> None:
    """At every border of the image, beside kept bins and beside others; MACs are all counted."""
    torch.manual_seed(0)
    module = awake(block()).double()
    size = (71, 101)
    x = torch.randn(1, 8, 36, 51, dtype=torch.float64)
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        expected = module(x.clone())
        for share in (0.2, 0.6, 1.0):
            kept = rng.random(grid_shape(*size, SIDE)) < share
            kept[1, 1] = True
            grid = np.where(kept, Action.HIGH, Action.REUSE).astype(np.uint8)
            layout = BlockLayout(grid[None], SIDE, size)
            with FlopCounterMode(display=False) as flops, MacCounter() as counter:
                tiles = compute_bins(module, x, layout, 2)
            assert counter.macs == flops.get_total_flops() // 2
            b = tiles.shape[-1]
            assert len(tiles) == kept.sum()
            for tile, (row, column) in zip(tiles, np.argwhere(kept), strict=True):
                want = expected[0, :, row * b : row * b + b, column * b : column * b + b]
                torch.testing.assert_close(
                    tile[:, : want.shape[1], : want.shape[2]], want, rtol=0, atol=1e-9
                )
