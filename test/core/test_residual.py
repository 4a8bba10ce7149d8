"""Residual blocks are found by what they do, and their branches told from their skips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core.costs import MacCounter
from seg_node.core.gated_modules import branch, computed, in_place_of, joined, plain
from seg_node.core.residual import find_gated_modules, find_residual_blocks
from seg_node.nets.build import build_network, fold_batchnorm
from seg_node.nets.resnet import BasicBlock, conv_bn

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.gated_modules import GatedModule


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


class Torchvision(nn.Module):
    """Adds its skip connection in place, as torchvision's blocks do."""

    def __init__(self) -> None:
        """Build a block that halves, for 8 channels."""
        super().__init__()
        self.conv1, self.conv2 = conv_bn(8, 12, 3, 2), conv_bn(12, 12, 3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_bn(8, 12, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Add in place, activate in place."""
        out: Tensor = self.conv2(self.relu(self.conv1(x)))
        out += self.downsample(x)
        return functional.leaky_relu(self.relu(out))


class Twice(Bottleneck):
    """Adds within its branch, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Add inside, then add the input."""
        inner = self.layers[1](self.layers[0](x))
        total: Tensor = x + self.layers[2](functional.silu(inner + self.layers[0](x)))
        return functional.leaky_relu(total)


class Functional(Deep):
    """Its skip connection is no module."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve by function."""
        skip = functional.conv2d(x, self.skip.weight, stride=2)
        total: Tensor = skip + self.others[0](self.first(x))
        return total


class Blurred(Deep):
    """Its skip connection looks around."""

    def __init__(self) -> None:
        """Blur, instead of picking pixels."""
        super().__init__()
        self.skip = nn.Conv2d(8, 8, 3, 2, 1)


class Parametric(Bottleneck):
    """What it does to the sum has weights."""

    def __init__(self) -> None:
        """Build it with a weight."""
        super().__init__()
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Activate the sum."""
        total: Tensor = self.act(super().forward(x))
        return total


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
        assert block.passes_input == module.is_identity
        assert block.join is not None
        assert block.join.skip == (() if module.is_identity else (*module.shortcut.children(),))
        assert block.channels == module.conv2[0].out_channels
    strides = [block.stride for block in found]
    assert strides == ([4, 4] + [8] * 6 if name == "pspnet18" else [4, 4, 8, 8, 16, 16, 32, 32])
    assert [block.stride_in for block in found] == [4, *strides[:-1]]


@pytest.mark.parametrize(
    ("block", "passes_input"),
    [(Bottleneck, True), (lambda: Bottleneck(4), True), (Deep, False), (Torchvision, False)],
)
def test_blocks_of_other_kinds_are_found(
    block: Callable[[], nn.Module], *, passes_input: bool
) -> None:
    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(block()).eval())
    assert (found.name, found.passes_input) == ("block", passes_input)
    assert (found.stride_in, found.stride) == (2, 2 if passes_input else 4)
    assert found.join is not None


@pytest.mark.parametrize("name", ["swiftnet18-half", "bisenet18", "pspnet18"])
def test_branch_and_skip_of_the_shipped_networks_are_the_block_bit_for_bit(name: str) -> None:
    """What is remembered and the skip connection give the block's result; folded or not."""
    net = awake(build_network(name, 3))
    for model in (net, fold_batchnorm(net)):
        for block in find_residual_blocks(model)[::3]:
            assert_joins(block, torch.randn(1, channels_in(block), 5, 8))


@pytest.mark.parametrize(
    "block",
    [Bottleneck, Deep, lambda: BasicBlock(8, 12, 2), Torchvision, Twice],
    ids=["in place", "skip first", "basic", "torchvision", "twice"],
)
def test_branch_and_skip_are_the_block(block: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(awake(block())).eval())
    assert found.join is not None
    # One pixel high: what a feature map is must not be told by its size.
    for size in ((9, 14), (1, 3)):
        assert_joins(found, torch.randn(1, 8, *size))


def channels_in(block: GatedModule) -> int:
    return next(m.in_channels for m in block.module.modules() if isinstance(m, nn.Conv2d))


def assert_joins(block: GatedModule, x: Tensor) -> None:
    with torch.inference_mode():
        expected = plain(block)(x.clone())
        out, made = computed(block, x.clone())
        assert made.shape == expected.shape
        assert not torch.equal(made, expected)
        assert torch.equal(out, expected)
        assert torch.equal(joined(block, x, made), expected)
        changed = joined(block, x + 1, made)
        assert not torch.equal(changed, expected)
        # Linear in what the branch made: nothing of it has gone through an activation.
        twice = joined(block, x, made + 100)
        torch.testing.assert_close(twice[expected > 0], expected[expected > 0] + 100)


@pytest.mark.parametrize("block", [Functional, Blurred, Parametric])
def test_a_skip_that_cannot_be_told_is_not_guessed(block: Callable[[], nn.Module]) -> None:
    """Then the result is remembered as it is."""
    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(awake(block())).eval())
    assert found.join is None
    x = torch.randn(1, 8, 9, 14)
    with torch.inference_mode():
        out, made = computed(found, x)
        assert torch.equal(made, out)
        assert torch.equal(joined(found, x, made), out)


def test_a_branch_ends_where_it_is_added() -> None:
    """Nothing after the sum runs where the branch alone is of use."""
    sums = []

    class Loud(Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            total = super().forward(x)
            sums.append(total)
            return total

    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(awake(Loud())).eval())
    x = torch.randn(1, 8, 9, 14)
    with torch.inference_mode():
        _, made = computed(found, x)
        sums.clear()
        assert torch.equal(branch(found)(x), made)
    assert not sums


def test_running_the_skip_costs_what_its_convolution_does() -> None:
    torch.manual_seed(0)
    (found,) = find_residual_blocks(Chain(awake(BasicBlock(8, 12, 2))).eval())
    x = torch.randn(1, 8, 9, 14)
    with torch.inference_mode():
        _, made = computed(found, x)
        with MacCounter() as counter:
            joined(found, x, made)
    assert counter.macs == 5 * 7 * 8 * 12


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
    ("name", "decoder", "strides", "ends"),
    [
        ("swiftnet18-half", [f"decoder.{i}.blend.0" for i in range(3)], [16, 8, 4], True),
        ("pspnet18", [f"decoder.{i}.0" for i in range(3)], [4, 2, 1], True),
        (
            "bisenet18",
            [
                *("context.refine32.blend.0", "context.refine16.blend.0"),
                *("context.blend32.0", "context.blend16.0", "output.0"),
            ],
            [32, 16, 16, 8, 8],
            True,
        ),
    ],
)
def test_convolutions_of_the_shipped_decoders_are_found(
    name: str, decoder: list[str], strides: list[int], *, ends: bool
) -> None:
    """In the order in which they run, and none of 1x1 pixels."""
    net = build_network(name, 3).eval()
    found = find_gated_modules(net)
    blocks = find_residual_blocks(net)
    assert [module.name for module in found[: len(blocks)]] == [block.name for block in blocks]
    rest = found[len(blocks) :]
    assert [(module.name, module.stride) for module in rest] == [
        *zip(decoder, strides, strict=True)
    ]
    assert all(module.stride_in == module.stride and module.join is None for module in rest)
    assert [module.ends for module in found] == [*(False for _ in found[1:]), ends]


class Ended(nn.Module):
    """A residual block, a convolution, and what follows it."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        """Take what follows."""
        super().__init__()
        self.before, self.convolution = Chain(Bottleneck()), nn.Conv2d(8, 8, 3, padding=1)
        self.end = end

    def forward(self, image: Tensor) -> Tensor:
        """Run all."""
        return self.end(self.convolution(self.before(image)))


@pytest.mark.parametrize(
    ("end", "ends"),
    [
        (lambda x: x, True),
        (lambda x: functional.relu(functional.max_pool2d(x, 3, 1, 1) + 1), True),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), False),
        (lambda x: x - x.mean((2, 3), keepdim=True), False),
        (lambda x: x.mean((2, 3)), False),
    ],
    ids=["nothing", "around", "finer", "averages", "no plane"],
)
def test_what_follows_the_last_convolution_is_told(
    end: Callable[[Tensor], Tensor], *, ends: bool
) -> None:
    """Whether it can be computed in areas, at the same stride."""
    torch.manual_seed(0)
    found = find_gated_modules(Ended(end).eval())
    assert [(module.name, module.ends) for module in found] == [
        ("before.block", False),
        ("convolution", ends),
    ]


class Decoded(Chain):
    """A residual block between convolutions, not all of which can be gated."""

    def __init__(self) -> None:
        """Build all of them, for 8 channels."""
        super().__init__(Bottleneck())
        self.alone, self.again, self.pooled = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.large = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 8, 3, padding=(1, 4))

    def forward(self, image: Tensor) -> Tensor:
        """Run them after the block: one alone, one twice, one that widens, two on other planes."""
        x = self.again(self.again(self.alone(super().forward(image))))
        context = self.pooled(functional.adaptive_avg_pool2d(x, 4))
        context += self.large(functional.interpolate(image.float(), scale_factor=2)).mean()
        total: Tensor = self.wide(self.point(x)).mean() + x + context.mean((2, 3), keepdim=True)
        return total


def test_convolutions_are_gated_that_run_once_on_whole_planes_after_the_blocks() -> None:
    torch.manual_seed(0)
    found = find_gated_modules(Decoded().eval())
    assert [module.name for module in found] == ["block", "alone"]


def test_without_residual_blocks_nothing_is_gated() -> None:
    assert find_gated_modules(Chain(nn.Conv2d(8, 8, 3, padding=1)).eval()) == ()


def test_a_network_that_ends_with_a_residual_block_keeps_its_skip() -> None:
    """Its branch is remembered, not the network's results: what skips brings what is new."""
    torch.manual_seed(0)
    (found,) = find_gated_modules(Chain(Bottleneck()).eval())
    assert found.join is not None
    assert not found.ends
