"""Local attention in operations that every run time has: gathers, products and a softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gathered_attention(
    base: Tensor, operands: tuple[Tensor, Tensor, Tensor], valid: Tensor | None, window: int
) -> Tensor:
    """Do what `core.attention.local_attention` does, without its views on raw memory.

    One row of the window after the other is gathered: `window` copies of a plane exist at once
    instead of `window` * `window`.

    Args:
        base: what to add to, [N, C, h, w].
        operands: queries, keys and values, [N, C, h, w] each.
        valid: which keys may be looked at, bool [N, 1, h, w]; None for all.
        window: side of the window, odd.

    Returns:
        [N, C, h, w] of the type of `base`; computed in float32 at least.

    """
    number = torch.promote_types(base.dtype, torch.float32)
    queries, keys, values = (plane.to(number) for plane in operands)
    if valid is not None:
        # As one more channel that every query multiplies by one, for a single product.
        hidden = (~valid).to(number) * (torch.finfo(number).min / 2)
        queries = torch.cat((queries, torch.ones_like(hidden)), 1)
        keys = torch.cat((keys, hidden), 1)
        values = values * valid
    logits = [(queries[..., None, :] * around).sum(1) for around in _rows(keys, window)]
    weights = torch.split(torch.softmax(torch.cat(logits, 2), 2), window, 2)
    fused = base.to(number)
    for share, around in zip(weights, _rows(values, window), strict=True):
        fused = fused + (share[:, None] * around).sum(3)
    return fused.to(base.dtype)


def _rows(plane: Tensor, window: int) -> list[Tensor]:
    """Return, for each row of a window, what is in it around each pixel; zeros come in.

    Args:
        plane: [N, C, h, w].
        window: side of the window, odd.

    Returns:
        `window` times [N, C, h, window, w].

    """
    h, w = plane.shape[-2:]
    wide = functional.pad(plane, (window // 2,) * 4)
    columns = torch.arange(window)[:, None] + torch.arange(w)
    return [wide[..., y : y + h, :][..., columns] for y in range(window)]
