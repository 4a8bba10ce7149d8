"""Random operands of kernels, and how near a result has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.backend import Source

if TYPE_CHECKING:
    from torch import Tensor

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {HALF: 1e-2, BRAIN: 4e-2, SINGLE: 1e-5}
"""Relative and absolute: sums are float32 in all, only operands and results are rounded."""


def plane(seed: int, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return normal noise, [1, C, h, w], channels_last."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((1, channels, *size), generator=generator)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def scattered_source(
    seed: int, channels: int, span: int, dtype: torch.dtype, device: torch.device
) -> Source:
    """Return three blocks whose pixels lie anywhere in two tables, some outside the image."""
    generator = torch.Generator().manual_seed(seed)
    tables = (torch.randn((count, channels), generator=generator) for count in (40, 9))
    table, more = (values.to(device, dtype) for values in tables)
    rows = torch.randint(-5, 49, (3, span, span), generator=generator, dtype=torch.int32)
    return Source(table, rows.to(device), more)


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare, by the tolerance of a number format."""
    assert found.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        found.float().cpu(), expected.float().cpu(), rtol=tolerance, atol=tolerance
    )
