"""Gather, pooling and upsampling kernels equal torch, wherever the pixels lie."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.backend import plane_rows, Source, TorchKernels
from seg_node.core.tiles import as_rows
from seg_node.kernels.pooling import enlarge, gather, max_pool
from test.kernels.operands import BRAIN, HALF, near, plane, scattered_source, SINGLE

TORCH = TorchKernels()
DTYPES = [HALF, BRAIN, SINGLE]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gather_copies_every_bit(dtype: torch.dtype, device: torch.device) -> None:
    source = scattered_source(0, 19, 5, dtype, device)
    for fill in (0.0, float("-inf"), 2.5):
        assert gather(source, fill).equal(TORCH.gather(source, fill))
    empty = Source(source.table, source.rows[:0], source.more)
    assert gather(empty).shape == (0, 19, 5, 5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel", "step", "span"), [(3, 2, 6), (3, 1, 5), (5, 1, 8)])
def test_max_pool_equals_torch(
    kernel: int, step: int, span: int, dtype: torch.dtype, device: torch.device
) -> None:
    """All numbers are negative: a border that counted as 0 would win."""
    source = scattered_source(1, 21, span, dtype, device)
    assert source.more is not None
    below = Source(-source.table.abs() - 1, source.rows, -source.more.abs() - 1)
    assert max_pool(below, kernel, step).equal(TORCH.max_pool(below, kernel, step))
    empty = Source(source.table, source.rows[:0])
    assert max_pool(empty, kernel, step).shape[0] == 0


def test_max_pool_of_a_plane_is_the_dense_one(device: torch.device) -> None:
    """And what is not a number stays so."""
    x = plane(2, 16, (7, 8), HALF)
    x[0, 3, 2, 2] = float("nan")
    expected = functional.max_pool2d(x, 3, 2, 1)
    at = torch.arange(4, device=device)
    rows = plane_rows((at * 0, at // 2, at % 2), 4, (7, 8), 1)
    found = max_pool(Source(as_rows(x.to(device)), rows), 3, 2).cpu()
    whole = found.view(2, 2, 16, 2, 2).permute(2, 0, 3, 1, 4).reshape(1, 16, 4, 4)
    torch.testing.assert_close(whole, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarge_equals_torch(factor: int, dtype: torch.dtype, device: torch.device) -> None:
    source = scattered_source(3, 18, 5, dtype, device)
    near(enlarge(source, factor), TORCH.enlarge(source, factor), dtype)


def test_enlarging_the_blocks_of_a_plane_is_the_dense_upsampling(device: torch.device) -> None:
    """Across the borders of blocks and up to those of the image."""
    x = plane(5, 16, (4, 8), SINGLE)
    expected = functional.interpolate(x, scale_factor=2, mode="bilinear")
    at = torch.arange(2, device=device)
    rows = plane_rows((at * 0, at * 0, at), 4, (4, 8), 1, clamp=True)
    found = enlarge(Source(as_rows(x.to(device)), rows), 2)
    near(torch.cat(list(found), 2)[None], expected, SINGLE)
