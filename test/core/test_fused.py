"""Networks through a backend equal the reference on blocks, and fuse what can be fused."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.backend import TorchKernels
from seg_node.core.background import Recorder, Recording, Shown
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.costs import MacCounter
from seg_node.core.fused import Deferred, KernelBlocks, on_kernels
from seg_node.core.sparse import split
from seg_node.core.types import Action, ModelError
from seg_node.nets.build import build_network, fold_batchnorm, NETWORKS
from seg_node.nets.resnet import BasicBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from seg_node.core.background import Found, Plane
    from seg_node.core.blocks import Window

HIGH, LOW, REUSE = Action.HIGH, Action.LOW, Action.REUSE
SIDE = 64
SIZE = (71, 69)
"""Two rows of two blocks; the last of each sticks out of the image."""

GRIDS = {
    "high": (HIGH,),
    "low": (LOW,),
    "mixed": (HIGH, LOW, LOW, HIGH),
    "over a background": (REUSE, HIGH, REUSE, HIGH),
    "one": (REUSE, REUSE, HIGH, REUSE),
    "all three": (HIGH, LOW, REUSE, LOW),
}


class Noting:
    """A background that notes what it is to keep."""

    def __init__(self, tensors: list[Tensor]) -> None:
        """Take the planes to show."""
        self._tensors = tensors
        self.kept: list[Tensor] = []

    def planes(self) -> Iterator[Plane]:
        """Return the planes from the first on."""
        return (Noted(tensor, self.kept) for tensor in self._tensors)


class Noted(Shown):
    """A plane that notes what it is to keep."""

    def __init__(self, tensor: Tensor, kept: list[Tensor]) -> None:
        """Take the plane, and where notes go."""
        super().__init__(tensor)
        self._kept = kept

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:  # noqa: ARG002 - of no interest
        """Note the blocks."""
        self._kept.append(tiles.clone())


CASES = [
    *(("swiftnet18-half", grid) for grid in GRIDS),
    *((name, grid) for name in ("pspnet18", "bisenet18") for grid in ("mixed", "one")),
]


class Recorded(TorchKernels):
    """Counts convolutions, with whether they add and whether they end in a ReLU."""

    def __init__(self) -> None:
        """Start without any."""
        self.calls: list[tuple[bool, bool]] = []

    def convolve(self, *args: Any, **kwargs: Any) -> Tensor:
        """Note a call and do it."""
        self.calls.append((kwargs["residual"] is not None, kwargs["relu"]))
        return super().convolve(*args, **kwargs)


def layout_of(actions: tuple[Action, ...], size: tuple[int, int] = SIZE) -> BlockLayout:
    shape = (1, *grid_shape(*size, SIDE))
    return BlockLayout(np.resize(np.array(actions, np.uint8), shape), SIDE, size)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, *size), generator=generator).double()


def background(net: nn.Module, size: tuple[int, int] = SIZE) -> Recording:
    """Return what the network read of another image."""
    recording = Recording()
    with Recorder(recording):
        net(picture(1, size))
    return recording


def lively(name: str) -> nn.Module:
    torch.manual_seed(3)
    return fold_batchnorm(build_network(name, 5).eval()).double().requires_grad_(False)


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_networks_equal_the_reference(name: str, grid: str) -> None:
    """In float64, over backgrounds that are read and that take note in the same order."""
    net, layout = lively(name), layout_of(GRIDS[grid])
    shown = background(net)
    expected = net(split(picture(0), layout, shown)).combined()
    blocks = net(on_kernels(picture(0), layout, shown, TorchKernels()))
    assert isinstance(blocks, Deferred)  # to the end, and not only its name
    found = blocks.combined()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_every_network_is_known_here() -> None:
    """A new kind of network belongs into the test above."""
    assert {name.partition("-")[0] for name in NETWORKS} == {"swiftnet18", "pspnet18", "bisenet18"}


def test_what_follows_a_convolution_is_fused() -> None:
    """A residual block is two kernels: one with a ReLU, one with a sum and a ReLU."""
    kernels, net = Recorded(), BasicBlock(16, 16, 1).eval()
    wide = BasicBlock(16, 32, 2).eval()
    x = torch.randn(1, 16, *SIZE)
    layout = layout_of(GRIDS["mixed"])
    held = on_kernels(x, layout, None, kernels).cut()
    with torch.no_grad():
        found = fold_batchnorm(net)(held)
        assert isinstance(found, KernelBlocks)
        assert kernels.calls == [(False, True)] * 2 + [(True, True)] * 2
        kernels.calls.clear()
        fold_batchnorm(wide)(found)
    assert kernels.calls == [(False, True)] * 2 + [(False, False)] * 2 + [(True, True)] * 2


def test_what_reads_a_waiting_convolution_makes_it() -> None:
    """Arithmetic in any order, on blocks, numbers and tensors, equals that of the reference."""
    torch.manual_seed(0)
    conv, other = (nn.Conv2d(4, 4, 3, padding=1).double() for _ in range(2))
    layout = layout_of(GRIDS["mixed"])
    x = torch.randn(1, 4, *SIZE, dtype=torch.float64)
    scale = torch.rand(1, 4, 1, 1, dtype=torch.float64)

    def compute(blocks: Any) -> Any:
        y = conv(blocks)
        total = (y + other(blocks) + 1.0 - y) * scale * y / (2.0 + torch.sigmoid(y))
        total = total / (other(blocks) + 100.0) * 1e3 + y - other(blocks)
        first = torch.cat((total, y), 1)[..., :70, :60]
        mixed = torch.relu(0.5 * first + scale.repeat(1, 2, 1, 1) * first)
        return mixed + first.mean((2, 3), keepdim=True)

    with torch.no_grad():
        reference: Any = split(x, layout).cut()
        expected = compute_plain(compute, reference)
        found = compute_plain(compute, on_kernels(x, layout, None, TorchKernels()).cut())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def compute_plain(compute: Any, blocks: Any) -> Tensor:
    combined: Tensor = compute(blocks).combined()
    return combined


def test_what_a_background_is_to_keep_is_what_the_reference_has_it_keep() -> None:
    """The pixels of every operation that looks around, in order; no block leaves the image."""
    size, kept = (64, 128), []
    net, layout = lively("swiftnet18-half"), layout_of((REUSE, HIGH), size)
    for fused in (False, True):
        shown = Noting(background(net, size).tensors)
        image = picture(0, size)
        kernels = TorchKernels()
        net(on_kernels(image, layout, shown, kernels) if fused else split(image, layout, shown))
        kept.append(shown.kept)
    assert len(kept[0]) == len(kept[1]) > 20
    for expected, found in zip(*kept, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_relu_in_place_spares_what_still_waits() -> None:
    conv = nn.Conv2d(3, 3, 1)
    layout = layout_of((HIGH,))
    held = on_kernels(torch.randn(1, 3, *SIZE), layout, None, TorchKernels()).cut()
    with torch.no_grad():
        expected = conv(held).combined()
        waiting = conv(held)
        torch.nn.functional.relu(held, inplace=True)  # type: ignore[arg-type]  # stands for a tensor
        assert waiting.combined().equal(expected)


def test_shapes_are_known_before_anything_is_computed() -> None:
    kernels = Recorded()
    conv = nn.Conv2d(3, 7, 3, 2, 1)
    held = on_kernels(torch.randn(1, 3, *SIZE), layout_of((HIGH,)), None, kernels).cut()
    waiting: Any = conv(held)
    assert isinstance(waiting, Deferred)
    assert waiting.shape == (1, 7, 36, 35)
    assert kernels.calls == []
    assert waiting.high.shape == (4, 7, 32, 32)
    assert len(kernels.calls) == 1
    assert waiting.done() is waiting.done()


def test_multiply_accumulates_are_those_of_the_reference() -> None:
    net, layout = lively("swiftnet18-half"), layout_of(GRIDS["mixed"])
    counts = []
    for blocks in (
        split(picture(0), layout),
        on_kernels(picture(0), layout, None, TorchKernels()),
    ):
        with MacCounter() as counter:
            net(blocks)
        counts.append(counter.macs)
    assert counts[0] == counts[1] > 0


def test_a_missing_background_is_refused() -> None:
    net = lively("swiftnet18-half")
    with pytest.raises(ModelError, match="no background"):
        net(on_kernels(picture(0), layout_of(GRIDS["one"]), None, TorchKernels()))
