"""The kernel of warp and local attention equals the references, one after the other."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.attention import local_attention
from seg_node.core.types import DataError
from seg_node.core.warp import warp
from seg_node.kernels.attention import attend
from test.kernels.operands import BRAIN, HALF, near, plane, SINGLE

SIZES = [(1, 1), (5, 2), (5, 13)]
"""Smaller than a window, narrower than its radius, more than one program takes."""


def planes(size: tuple[int, int], channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return base, queries, keys and values of two images."""
    pairs = [[plane(10 * i + n, channels, size, dtype) for n in range(2)] for i in range(4)]
    return [torch.cat(pair) for pair in pairs]


def holes(size: tuple[int, int]) -> torch.Tensor:
    """Return where keys count: nowhere in the first image, at most places in the second."""
    generator = torch.Generator().manual_seed(1)
    known = torch.rand((2, 1, *size), generator=generator) < 0.7
    known[0] = False
    return known


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_equals_the_reference(
    size: tuple[int, int], device: torch.device, *, masked: bool
) -> None:
    base, *others = planes(size, 20, SINGLE)
    operands = (others[0], others[1], others[2])
    valid = holes(size) if masked else None
    moved = (others[0].to(device), others[1].to(device), others[2].to(device))
    known = None if valid is None else valid.to(device)
    found = attend(base.to(device), moved, known, 7)
    near(found, local_attention(base, operands, valid, 7), SINGLE)
    if masked:  # a pixel that sees nothing valid keeps what it had
        assert found[0].cpu().equal(base[0])


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
def test_attention_in_half_precision(dtype: torch.dtype, device: torch.device) -> None:
    base, *others = planes((4, 9), 16, dtype)
    moved = (others[0].to(device), others[1].to(device), others[2].to(device))
    found = attend(base.to(device), moved, None, 3)
    near(found, local_attention(base, (others[0], others[1], others[2]), None, 3), dtype)


def test_large_logits_do_not_overflow(device: torch.device) -> None:
    base, query, key, value = planes((3, 5), 16, SINGLE)
    big = (query * 100, key * 100, value)
    moved = (big[0].to(device), big[1].to(device), value.to(device))
    found = attend(base.to(device), moved, None, 3)
    near(found, local_attention(base, big, None, 3), SINGLE)


@pytest.mark.parametrize("masked", [False, True])
def test_a_flow_moves_keys_and_values_first(device: torch.device, *, masked: bool) -> None:
    """Also from outside the image, where the border is repeated."""
    size = (5, 6)
    base, query, key, value = planes(size, 16, SINGLE)
    generator = torch.Generator().manual_seed(3)
    flow = torch.randn((2, *size, 2), generator=generator) * 3
    flow[:, 0] = 0.0
    valid = holes(size) if masked else None
    expected = local_attention(base, (query, warp(key, flow), warp(value, flow)), valid, 3)
    known = None if valid is None else valid.to(device)
    operands = (query.to(device), key.to(device), value.to(device))
    near(attend(base.to(device), operands, known, 3, flow.to(device)), expected, SINGLE)
    with pytest.raises(DataError, match="rescale it first"):
        attend(base.to(device), operands, known, 3, flow[:, 1:].to(device))
