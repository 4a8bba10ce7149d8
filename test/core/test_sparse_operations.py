"""Each operation on blocks equals its slow form: all HIGH, all LOW, mixed, and around REUSE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout, grid_shape, scaled
from seg_node.core.sparse import BlockTensor, split
from seg_node.core.types import Action
from test.core.slow_blocks import averaged, half, SlowBlocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from test.core.slow_blocks import Operation

HIGH, LOW, REUSE = Action.HIGH, Action.LOW, Action.REUSE
CHANNELS = 4
STRIDE = 4
"""Stride at which the operations run: a block of 16 pixels is 4 x 4 features, or 2 x 2 LOW."""

PLACES = [((48, 64), 16), ((27, 41), 16), ((13, 9), 16), ((70, 90), 64)]
"""Sizes of images and sides of blocks: exact, odd, less than one block, larger blocks."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conv(kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> Operation:
    """Return a convolution from and to `CHANNELS` channels, with half padding."""
    weight = random(CHANNELS, CHANNELS // groups, kernel, kernel, seed=kernel)
    bias = random(CHANNELS, seed=1)
    padding = dilation * (kernel // 2)
    return lambda x, _: nn.functional.conv2d(
        x, weight, bias, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups
    )


def pool(kernel: int, stride: int, padding: int) -> Operation:
    return lambda x, _: functional.max_pool2d(x, kernel, stride, padding)


def up(factor: int) -> Operation:
    """Return upsampling by a factor, cut to the size of the plane that it could join."""

    def enlarge(x: Tensor, plane: Tensor) -> Tensor:
        wide = functional.interpolate(x, scale_factor=factor, mode="bilinear")
        return wide[..., : plane.shape[-2], : plane.shape[-1]]

    return enlarge


PER_IMAGE = random(2, CHANNELS, 1, 1, seed=2)
PER_CHANNEL = random(1, CHANNELS, 1, 1, seed=3)

# What each operation does, and the stride of its result.
OPERATIONS: dict[str, tuple[Operation, int]] = {
    **{f"conv{k}": (conv(k), STRIDE) for k in (1, 3, 5, 7)},
    **{f"conv{k} stride 2": (conv(k, 2), 2 * STRIDE) for k in (1, 3, 5, 7)},
    **{f"conv3 dilated by {d}": (conv(3, 1, d), STRIDE) for d in (2, 4)},
    "conv3 dilated by 2, stride 2": (conv(3, 2, 2), 2 * STRIDE),
    "conv3 depthwise": (conv(3, groups=CHANNELS), STRIDE),
    "conv5 depthwise, stride 2": (conv(5, 2, groups=CHANNELS), 2 * STRIDE),
    "conv3 in 2 groups": (conv(3, groups=2), STRIDE),
    "pool 3, stride 2": (pool(3, 2, 1), 2 * STRIDE),
    "pool 3": (pool(3, 1, 1), STRIDE),
    "pool 5, stride 2": (pool(5, 2, 2), 2 * STRIDE),
    "upsampling by 2": (up(2), STRIDE // 2),
    "upsampling by 4": (up(4), STRIDE // 4),
    "plus plane": (lambda x, plane: x + plane, STRIDE),
    "plane plus": (lambda x, plane: plane + x, STRIDE),
    "plane times": (lambda x, plane: plane * x, STRIDE),
    "plane minus": (lambda x, plane: plane - x, STRIDE),
    "over plane": (lambda x, plane: x / plane, STRIDE),
    "plane over": (lambda x, plane: plane / (x * x + 1.0), STRIDE),
    "minus number": (lambda x, _: x - 0.5, STRIDE),
    "over channels": (lambda x, _: x / PER_CHANNEL, STRIDE),
    "times images": (lambda x, _: x * PER_IMAGE, STRIDE),
    "images times": (lambda x, _: PER_IMAGE * x, STRIDE),
    "images plus": (lambda x, _: PER_IMAGE + x, STRIDE),
    "plus itself": (lambda x, _: x + torch.relu(x), STRIDE),
    "joined": (lambda x, _: torch.cat((x, torch.relu(x)), 1), STRIDE),
    "joined to a plane": (lambda x, plane: torch.cat((plane, x), dim=-3), STRIDE),
}

MIXES: list[tuple[tuple[Action, ...], int]] = [
    ((HIGH,), 1),
    ((LOW,), 1),
    ((HIGH, LOW), 1),
    ((HIGH, REUSE), 1),
    ((HIGH, REUSE), 2),
    ((LOW, REUSE), 1),
    ((LOW, REUSE), 2),
    ((HIGH, LOW, REUSE), 1),
    ((HIGH, LOW, REUSE), 2),
]
"""Actions that occur, and image pixels per pixel of what REUSE blocks show."""

each_operation = pytest.mark.parametrize("name", OPERATIONS)
each_mix = pytest.mark.parametrize(
    ("actions", "background"),
    MIXES,
    ids=["+".join(a.name for a in actions) + f" over {scale}" for actions, scale in MIXES],
)


def mixed_grids(
    actions: tuple[Action, ...], size: tuple[int, int], side: int
) -> NDArray[np.uint8]:
    """Return random grids of two images; every action occurs, if there are enough blocks."""
    shape = (2, *grid_shape(*size, side))
    values = np.resize(np.array(actions, np.uint8), shape)
    flat = np.random.default_rng(len(actions)).permutation(values.ravel())
    return flat.reshape(shape)


def bent(image: Tensor) -> Tensor:
    """Return features at `STRIDE` that are not the same averaged before or after."""
    weight = random(CHANNELS, 3, 1, 1)
    return functional.conv2d(torch.tanh(2 * image), weight, stride=(STRIDE, STRIDE))


class Case:
    """The same features as a `BlockTensor` and as `SlowBlocks`."""

    def __init__(
        self, actions: tuple[Action, ...], background: int, size: tuple[int, int], side: int
    ) -> None:
        """Make them from a random image."""
        self.size = size
        self.image = random(2, 3, *size, seed=9)
        self.layout = BlockLayout(mixed_grids(actions, size, side), side, size, background)
        self.has_reuse = self.layout.count(REUSE) > 0
        self.shown = averaged(self.image) if background == 2 else self.image
        back = bent(self.shown) if self.has_reuse else None
        planes = bent(self.image), bent(averaged(self.image))
        self.slow = SlowBlocks(self.layout.grids, side, STRIDE, *planes, back)

    def plane(self, stride: int) -> Tensor:
        """Return a plane that the result of an operation may join."""
        return random(2, CHANNELS, *scaled(self.size, stride), seed=5)

    def run(self, operation: Operation, plane: Tensor) -> Any:
        """Run an operation on blocks, on a background recorded from the same operation."""
        background = Recording()
        if self.has_reuse:
            fits = plane if self.layout.background == 1 else averaged(plane)
            with Recorder(background):
                operation(bent(self.shown), fits)
        x: Any = split(self.image, self.layout, background if self.has_reuse else None)
        return operation(bent(x), plane if self.layout.finest == 1 else averaged(plane))


@each_operation
@pytest.mark.parametrize("is_low", [False, True])
def test_blocks_of_one_kind_are_plain_torch(name: str, is_low: bool) -> None:  # noqa: FBT001
    operation, stride = OPERATIONS[name]
    for size, side in PLACES:
        case = Case((LOW if is_low else HIGH,), 1, size, side)
        plane = case.plane(stride)
        image, plane = (averaged(case.image), averaged(plane)) if is_low else (case.image, plane)
        expected = operation(bent(image), plane)
        x = case.run(operation, case.plane(stride))
        found = x.combined()
        assert x.shape == found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each_operation
@each_mix
def test_blocks_of_many_kinds_see_each_other(
    name: str, actions: tuple[Action, ...], background: int
) -> None:
    operation, stride = OPERATIONS[name]
    for size, side in PLACES:
        case = Case(actions, background, size, side)
        plane = case.plane(stride)
        found = case.run(operation, plane)
        case.slow.after(operation, stride, plane).check(found)


@each_mix
@pytest.mark.parametrize(
    "operation",
    [
        lambda x, _: functional.adaptive_avg_pool2d(x, (2, 1)),
        lambda x, _: functional.adaptive_avg_pool2d(x, 1),
        lambda x, _: x.mean((2, 3), keepdim=True),
        lambda x, _: x.mean((-2, -1), keepdim=True),
    ],
)
def test_context_is_that_of_the_whole_at_the_finest_resolution(
    operation: Operation, actions: tuple[Action, ...], background: int
) -> None:
    for size, side in PLACES:
        case = Case(actions, background, size, side)
        slow = case.slow
        whole = slow.seen_by_high() if case.layout.finest == 1 else slow.seen_by_low()
        plane = case.plane(STRIDE)
        found = case.run(operation, plane)
        torch.testing.assert_close(found, operation(whole, plane), rtol=1e-9, atol=1e-9)


def test_low_blocks_are_enlarged_smoothly_across_their_borders_or_repeated() -> None:
    for size, side in PLACES:
        case = Case((HIGH, LOW), 1, size, side)
        x = bent(split(case.image, case.layout))  # type: ignore[arg-type]  # acts as a Tensor
        assert isinstance(x, BlockTensor)
        near = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
        near(x.combined(), case.slow.combined())
        near(x.combined(smooth=False), case.slow.seen_by_high())


@pytest.mark.parametrize("background", [1, 2])
@pytest.mark.parametrize("is_black", [False, True])
def test_reuse_blocks_show_the_base_and_low_blocks_blend_into_it(
    background: int,
    is_black: bool,  # noqa: FBT001 - a case
) -> None:
    for size, side in PLACES:
        case = Case((HIGH, LOW, REUSE), background, size, side)
        base = torch.zeros_like(case.slow.high) if is_black else case.plane(STRIDE)
        plain = replace(case.slow, back=base)
        x: Any = case.run(lambda x, _: x, base)
        found = x.combined(base=None if is_black else base)
        torch.testing.assert_close(found, plain.combined(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["conv3", "upsampling by 2"])
def test_what_is_cut_off_is_outside(name: str) -> None:
    operation, stride = OPERATIONS[name]
    for size, side in PLACES:
        case = Case((HIGH, LOW), 1, size, side)
        h, w = (length - 1 for length in case.slow.full)
        low = half((h, w))
        high_plane, low_plane = case.slow.high[..., :h, :w], case.slow.low[..., : low[0], : low[1]]
        cut = SlowBlocks(case.layout.grids, side, STRIDE, high_plane, low_plane)
        plane = random(2, CHANNELS, h * STRIDE // stride, w * STRIDE // stride)
        x: Any = case.run(lambda x, _: x, plane)
        found: Any = operation(x[..., :h, :w], plane)
        cut.after(operation, stride, plane).check(found)


POINTWISE: list[Callable[[Tensor], Tensor]] = [
    functional.relu,
    functional.relu6,
    functional.hardtanh,
    partial(functional.leaky_relu, negative_slope=0.3),
    functional.silu,
    functional.hardswish,
    functional.hardsigmoid,
    functional.gelu,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    partial(torch.clamp, min=-0.1, max=0.2),
    nn.ReLU(inplace=True),
    nn.PReLU(init=0.3, dtype=torch.float64),
    nn.Hardswish(inplace=True),
]


def spelled(function: Callable[[Any], Any]) -> str:
    """Return the name of a function; its address would be another one in each process."""
    if isinstance(function, nn.Module):
        return str(function)
    return str(getattr(function, "func", function).__name__)


@pytest.mark.parametrize("function", POINTWISE, ids=spelled)
def test_functions_of_single_pixels_act_on_all_blocks(
    function: Callable[[Tensor], Tensor],
) -> None:
    case = Case((HIGH, LOW), 1, (27, 41), 16)
    plane = case.plane(STRIDE)
    with torch.no_grad():
        found = case.run(lambda x, _: function(x), plane)
        case.slow.after(lambda x, _: function(x.clone()), STRIDE, plane).check(found)


@pytest.mark.parametrize("name", ["conv3", "conv7 stride 2", "pool 3, stride 2", "conv1"])
@pytest.mark.parametrize(
    "before",
    [torch.tanh, nn.PReLU(init=0.3, dtype=torch.float64), lambda x: PER_CHANNEL + x * 0.5],
    ids=["tanh", "PReLU", "arithmetic"],
)
def test_blocks_of_an_image_see_the_image_around_them(
    name: str, before: Callable[[Tensor], Tensor]
) -> None:
    operation, factor = OPERATIONS[name]
    stride = factor // STRIDE
    for size, side in PLACES:
        case = Case((HIGH, LOW), 1, size, side)
        image = random(2, CHANNELS, *size, seed=8)
        plane = case.plane(stride)
        x: Any = split(image, case.layout)
        with torch.no_grad():
            found: Any = operation(before(x), plane)
            high = operation(before(image), plane)
            low = operation(before(averaged(image)), averaged(plane))
        SlowBlocks(case.layout.grids, side, stride, high, low).check(found)
