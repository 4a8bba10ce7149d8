"""Local attention, slow and plain, with 49 copies of keys and values: what `core.attention` is.

Written from papers.md, section 2, step 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def windows(plane: Tensor, side: int) -> Tensor:
    """Copy what is around each pixel of [N, C, h, w]: [N, C, side * side, h * w]; 0 outside."""
    n, c = plane.shape[:2]
    return functional.unfold(plane, side, padding=side // 2).view(n, c, side * side, -1)


def slow_attention(
    base: Tensor, operands: tuple[Tensor, Tensor, Tensor], valid: Tensor | None, side: int
) -> Tensor:
    """Return what `core.attention.local_attention` has to equal."""
    queries, keys, values = operands
    logits = (queries.flatten(2)[:, :, None] * windows(keys, side)).sum(1)
    weights = torch.softmax(logits, 1)
    if valid is not None:
        # Zeros outside the image are no hidden pixels: they take part.
        unseen = windows((~valid).to(base.dtype), side)[:, 0] > 0
        # A softmax over nothing is nan.
        weights = torch.softmax(logits.masked_fill(unseen, -torch.inf), 1).nan_to_num(0.0)
    return base + (weights[:, None] * windows(values, side)).sum(2).view_as(base)


def holes(n: int, h: int, w: int) -> Tensor:
    """Return valid pixels at random, with a corner in which no window of 3 sees one."""
    valid = torch.rand(n, 1, h, w, generator=torch.Generator().manual_seed(1)) > 0.4
    valid[0, :, : h // 2 + 1, : w // 2 + 1] = False
    return valid
