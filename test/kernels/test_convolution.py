"""Convolution kernels equal torch: the dense layer in planes, the reference elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.backend import Layer, plane_rows, Source, Target, TorchKernels
from seg_node.core.tiles import as_rows
from seg_node.core.types import ConfigError, ModelError
from seg_node.kernels import tuning
from seg_node.kernels.convolution import convolve
from test.kernels.operands import BRAIN, HALF, near, plane, scattered_source, SINGLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

GW = 3
GRIDS = {"full": (0, 1, 2, 3, 4, 5), "empty": (), "one": (4,), "some": (5, 0, 3)}
"""Active blocks of a plane of 2 x 3 blocks; the last row and column stick out of the image."""

FORMS = [(1, 1), (1, 2), (3, 1), (3, 2)]
CASES = [
    *((kernel, step, "some", dtype) for kernel, step in FORMS for dtype in (HALF, BRAIN, SINGLE)),
    *((kernel, 1, grid, HALF) for kernel in (1, 3) for grid in ("full", "empty", "one")),
]


def layer(outputs: int, channels: int, kernel: int, dtype: torch.dtype, step: int = 1) -> Layer:
    generator = torch.Generator().manual_seed(outputs + kernel)
    shape = (outputs, channels, kernel, kernel)
    weight = torch.randn(shape, generator=generator) / (channels * kernel * kernel) ** 0.5
    return Layer(weight.to(dtype), torch.randn(outputs, generator=generator).to(dtype), step)


def moved(like: Layer, device: torch.device) -> Layer:
    """Return a layer on a device, its weights in the memory format of networks."""
    weight = like.weight.to(device, memory_format=torch.channels_last)
    return Layer(weight, None if like.bias is None else like.bias.to(device), like.step)


def places(blocks: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.tensor(blocks, dtype=torch.int64, device=device)
    return torch.zeros_like(at), at // GW, at % GW


@pytest.mark.parametrize(("kernel", "step", "grid", "dtype"), CASES)
def test_a_layer_in_place_equals_the_dense_one(
    kernel: int, step: int, grid: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Active blocks hold what the dense layer gives there, all others what they held before."""
    side, outputs, channels = 4, 36, 20
    height, width = 7 * step, 11 * step - step + 1
    x = plane(1, channels, (height, width), dtype)
    conv = layer(outputs, channels, kernel, dtype, step)
    assert conv.bias is not None
    dense = functional.conv2d(x.float(), conv.weight.float(), conv.bias.float(), step, kernel // 2)
    size = (dense.shape[-2], dense.shape[-1])
    before, added = plane(2, outputs, size, dtype), plane(3, outputs, size, dtype)
    where = places(GRIDS[grid], device)
    rows = plane_rows(where, side * step, (height, width), kernel // 2)
    assert conv.side(rows.shape[1]) == side
    out = before.to(device, copy=True)
    convolve(
        Source(as_rows(x.to(device)), rows),
        moved(conv, device),
        residual=as_rows(added.to(device)),
        relu=True,
        target=Target(as_rows(out), plane_rows(where, side, size)),
    )
    fresh, expected = (dense + added.float()).relu(), before.float()
    for block in GRIDS[grid]:
        part = (..., slice_of(block // GW, side), slice_of(block % GW, side))
        expected[part] = fresh[part]
    near(out, expected, dtype)


def slice_of(place: int, side: int) -> slice:
    return slice(place * side, (place + 1) * side)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_may_lie_anywhere(seed: int, kernel: int, device: torch.device) -> None:
    """Rows of two tables in any order, and outside: as the reference, with nothing but weights."""
    channels, outputs = 17 + seed, 70 - 30 * seed
    source = scattered_source(seed, channels, 6, HALF, device)
    conv = moved(layer(outputs, channels, kernel, HALF), device)
    bare = Layer(conv.weight)
    near(convolve(source, bare), TorchKernels().convolve(source, bare), HALF)
    found = convolve(source, conv, relu=True)
    near(found, TorchKernels().convolve(source, conv, relu=True), HALF)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_dilation_reaches_further(device: torch.device) -> None:
    source = scattered_source(4, 16, 9, SINGLE, device)
    conv = layer(16, 16, 3, SINGLE)
    wide = Layer(conv.weight.to(device), None, 1, 2)
    near(convolve(source, wide), TorchKernels().convolve(source, wide), SINGLE)


def test_half_precision_adds_up_in_single(device: torch.device) -> None:
    """4096 ones and a last 1: a sum in fp16 would stop counting at 2048."""
    ones = torch.ones((1, 4097), dtype=HALF, device=device)
    weight = torch.ones((1, 4097, 1, 1), dtype=HALF, device=device)
    rows = torch.zeros((1, 1, 1), dtype=torch.int32, device=device)
    weight[:, ::2] = 0.5
    assert convolve(Source(ones, rows), Layer(weight)).item() == 3072.0


def test_not_a_number_stays_one(device: torch.device) -> None:
    table = torch.full((1, 16), float("nan"), dtype=HALF, device=device)
    rows = torch.zeros((1, 1, 1), dtype=torch.int32, device=device)
    weight = torch.ones((16, 16, 1, 1), dtype=HALF, device=device)
    assert convolve(Source(table, rows), Layer(weight), relu=True).isnan().all()


def test_what_does_not_fit_is_refused(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scattered_source(0, 16, 4, HALF, device)
    with pytest.raises(ModelError, match="do not fit pixels of 16 channels"):
        convolve(source, layer(8, 12, 1, HALF))
    double = scattered_source(0, 16, 4, torch.float64, device)
    with pytest.raises(ConfigError, match=r"not torch\.float64; set kernels to torch"):
        convolve(double, layer(8, 16, 1, torch.float64))
    monkeypatch.setattr(tuning, "INTERPRETED", False)
    on_cpu = scattered_source(0, 16, 4, HALF, torch.device("cpu"))
    with pytest.raises(ConfigError, match="run on a CUDA device, not on cpu"):
        convolve(on_cpu, layer(8, 16, 1, HALF))
