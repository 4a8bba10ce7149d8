"""Local attention: each pixel looks at the pixels in a square window around it.

A plane in `channels_last` is one line of pixels, row after row, so the 7 keys of one row of a
window are neighbours in memory, and a view that starts one pixel later for each pixel is
[pixels, 7, C]: the operand of a batched product of matrices, without any copy. Seven such products
give the logits, seven more the sum of values, some rows at a time, so that forward no more than 49
numbers per pixel of those rows exist at once instead of 49 * C of the plane. Where a window leaves
the image at the left or right, the line goes on in the row above or below: those products are
overwritten.

On the CPU and without gradients a loop does the same for one pixel after the other, where Numba is
installed.

Tiles of several pixels with the keys around them, the usual way, multiply two to four times as
often for nothing and take 1.0 to 1.6 times as long on a CPU (`benchmarks/results/fusion.json`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from seg_node.core.costs import PRICED
from seg_node.loops import attending, compiling
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PIXELS = 4096
"""Pixels computed at once: what they need stays in a core's share of the cache."""


def local_attention(
    base: Tensor, operands: tuple[Tensor, Tensor, Tensor], valid: Tensor | None, window: int
) -> Tensor:
    """Add to each pixel the values around it, weighted by the softmax of query times key.

    Outside the image, as in AR-Seg's kernels, keys and values are zero: those positions take
    part in the softmax with logit 0 and add nothing. Half precisions are computed in float32:
    logits are not scaled, and rounding them to 8 bits would change the weights.

    Gradients flow into `base`, queries, keys and values, once; the backward pass computes the
    weights again rather than keeping them.

    Args:
        base: what to add to, [N, C, h, w].
        operands: queries, keys and values, [N, C, h, w] each; quick in `channels_last`.
        valid: which keys may be looked at, bool [N, 1, h, w]; None for all.
        window: side of the window, odd.

    Returns:
        [N, C, h, w] of the type of `base`, `channels_last`.

    """
    number = torch.promote_types(base.dtype, torch.float32)
    queries, keys, values = operands
    penalty = None
    if valid is not None:
        # Finite, so that pixels that see no valid one have weights too; their values are zero.
        lowest = torch.finfo(number).min / 2
        penalty = ((~valid).to(number) * lowest).permute(0, 2, 3, 1).contiguous()
        values = values * valid
    onto, queries, keys, values = (
        plane.to(number).permute(0, 2, 3, 1).contiguous()
        for plane in (base, queries, keys, values)
    )
    fused: Tensor
    if window == attending.SIDE and compiling.usable(onto, queries, keys, values):
        fused = _by_loops(onto, queries, keys, values, penalty)
    else:
        fused = _LocalAttention.apply(onto, queries, keys, values, penalty, window)  # type: ignore[no-untyped-call]  # torch's stub
    return fused.permute(0, 3, 1, 2).to(base.dtype)


def _by_loops(
    base: Tensor, queries: Tensor, keys: Tensor, values: Tensor, penalty: Tensor | None
) -> Tensor:
    """Do it pixel by pixel, [N, h, w, C]: zeros lie around the image."""
    given = base, queries, keys, values
    if has_torch_function(given):  # such as that of who counts
        called: Tensor = handle_torch_function(_by_loops, given, *given, penalty)
        return called
    if penalty is None:
        penalty = base.new_zeros((*base.shape[:3], 1))
    reach = attending.SIDE // 2
    around = (0, 0, reach, reach, reach, reach)
    fused = base.clone()
    for n, plane in enumerate(fused):
        of_keys, of_values, added = (
            functional.pad(each[n], around).numpy() for each in (keys, values, penalty)
        )
        seen = of_keys, of_values, np.ascontiguousarray(added[..., 0])
        attending.attend(threads(), queries[n].numpy(), *seen, plane.numpy())
    return fused


def _macs(base: Tensor, *_: Tensor | None) -> int:
    """Return what a loop costs: a product with each key and one with each value."""
    return 2 * attending.SIDE**2 * base.numel()


PRICED[_by_loops] = _macs


@dataclass(frozen=True)
class _Windows:
    """Square windows around the pixels of a plane [h, w, C], computed some rows at a time.

    Attributes:
        side: side of a window, odd.
        height: rows of the plane.
        width: pixels in a row.

    """

    side: int
    height: int
    width: int

    @property
    def radius(self) -> int:
        """Pixels that a window reaches from its centre."""
        return self.side // 2

    @property
    def margin(self) -> int:
        """Rows around some rows that hold all of their windows, which run on along the line."""
        return self.radius + -(-self.radius // self.width)

    def chunks(self) -> Iterator[slice]:
        """Yield the rows to compute at once."""
        step = max(1, PIXELS // self.width)
        for start in range(0, self.height, step):
            yield slice(start, min(start + step, self.height))

    def strip(self, plane: Tensor, rows: slice) -> Tensor:
        """Return some rows with their margin, zero outside the plane; a view where it can be."""
        first, end = rows.start - self.margin, rows.stop + self.margin
        inside = plane[max(0, first) : end]
        if first >= 0 and end <= self.height:
            return inside
        return functional.pad(inside, (0, 0, 0, 0, max(0, -first), max(0, end - self.height)))

    def pixels(self, strip: Tensor) -> int:
        """Return how many pixels a strip has without its margin."""
        return (len(strip) - 2 * self.margin) * self.width

    def start(self, strip: Tensor) -> int:
        """Return where in its storage a strip has the first pixel of the first window."""
        skipped = (self.margin - self.radius) * self.width - self.radius
        return int(strip.storage_offset()) + skipped * strip.shape[-1]

    def segments(self, strip: Tensor) -> Iterator[Tensor]:
        """Yield, for each row of the windows, its pixels: a view [pixels, side, C]."""
        c = strip.shape[-1]
        shape, strides = (self.pixels(strip), self.side, c), (c, c, 1)
        for row in range(self.side):
            yield strip.as_strided(shape, strides, self.start(strip) + row * self.width * c)

    def turned(self, strip: Tensor) -> Tensor:
        """Return by key what a strip [.., w, side * side] holds by query.

        Entry o of pixel p is entry -o of pixel p + o.

        Returns:
            [pixels, side * side].

        """
        all_ = self.side * self.side
        shape = (self.pixels(strip), self.side, self.side)
        strides = (all_, all_ * self.width - self.side, all_ - 1)
        return strip.as_strided(shape, strides, self.start(strip) + all_ - 1).reshape(-1, all_)

    def clear_outside(self, entries: Tensor) -> None:
        """Set to zero, in place, what lies left or right of the image, in [pixels, side * side].

        Rows above and below the image need none of it: they are zeros of the strip.
        """
        grid = entries.view(-1, self.width, self.side, self.side)
        for reach in range(1, self.radius + 1):
            grid[:, :reach, :, self.radius - reach] = 0.0
            grid[:, max(0, self.width - reach) :, :, self.radius + reach] = 0.0


def _products(
    windows: _Windows, queries: Tensor, strip: Tensor, penalty: Tensor | None = None
) -> Tensor:
    """Multiply each query with the pixels of its window.

    Args:
        windows: where the windows lie.
        queries: [pixels, 1, C].
        strip: the rows that the windows reach, [rows, w, C].
        penalty: what to add to the products with each pixel of `strip`, [rows, w, 1].

    Returns:
        [pixels, side * side].

    """
    # One row of the windows after the other: products are slow where their results have gaps.
    # With `out`, products stay in float32 under autocast too.
    found = queries.new_empty((windows.side, len(queries), 1, windows.side))
    if penalty is None:
        for out, segment in zip(found, windows.segments(strip), strict=True):
            torch.bmm(queries, segment.mT, out=out)
    else:
        added = windows.segments(penalty)
        for out, segment, more in zip(found, windows.segments(strip), added, strict=True):
            torch.baddbmm(more.mT, queries, segment.mT, out=out)
    return found.permute(1, 2, 0, 3).reshape(len(queries), -1)


def _add_weighted(windows: _Windows, base: Tensor, weights: Tensor, strip: Tensor) -> None:
    """Add the pixels of the windows, weighted, to `base` [pixels, 1, C] in place.

    Args:
        windows: where the windows lie.
        base: what to add to.
        weights: [pixels, side * side].
        strip: the rows that the windows reach, [rows, w, C].

    """
    rows = weights.view(-1, windows.side, 1, windows.side).unbind(1)
    for row, segment in zip(rows, windows.segments(strip), strict=True):
        torch.baddbmm(base, row, segment, out=base)


def _weights(windows: _Windows, queries: Tensor, keys: Tensor, penalty: Tensor | None) -> Tensor:
    """Return the softmax of queries times keys, [pixels, side * side]; zero beside the image."""
    logits = _products(windows, queries, keys, penalty)
    windows.clear_outside(logits)
    weights = torch.softmax(logits, -1)
    windows.clear_outside(weights)
    return weights


def _rows(plane: Tensor, rows: slice) -> Tensor:
    """View some rows of a plane [h, w, C] as [pixels, 1, C]."""
    return plane[rows].view(-1, 1, plane.shape[-1])


class _LocalAttention(torch.autograd.Function):
    """Local attention on planes [N, h, w, C], as `local_attention` says."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, *operands: Any) -> Tensor:
        """Add the weighted values to a copy of `base`.

        Args:
            ctx: torch's record for the backward pass.
            base: what to add to.
            operands: queries, keys, values, penalty of the keys or None, side of the windows.

        """
        queries, keys, values, penalty, side = operands
        ctx.save_for_backward(queries, keys, values, penalty)
        ctx.windows = windows = _Windows(side, base.shape[1], base.shape[2])
        fused = base.clone()
        for n, plane in enumerate(fused):
            for rows in windows.chunks():
                added = None if penalty is None else windows.strip(penalty[n], rows)
                around = windows.strip(keys[n], rows)
                weights = _weights(windows, _rows(queries[n], rows), around, added)
                around = windows.strip(values[n], rows)
                _add_weighted(windows, _rows(plane, rows), weights, around)
        return fused

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, with 2 * side * side numbers per pixel of one image at a time."""
        *planes, penalty = ctx.saved_tensors
        slope = slope.contiguous()
        found = [torch.zeros_like(plane) for plane in planes]
        for n, of_fused in enumerate(slope):
            added = None if penalty is None else penalty[n]
            of_planes = [plane[n] for plane in found]
            _slopes(ctx.windows, [plane[n] for plane in planes], added, of_fused, of_planes)
        return slope, *found, None, None


def _slopes(
    windows: _Windows,
    planes: list[Tensor],
    penalty: Tensor | None,
    of_fused: Tensor,
    of_planes: list[Tensor],
) -> None:
    """Add to `of_planes`, in place, the gradients of queries, keys and values of one image."""
    queries, keys, values = planes
    of_queries, of_keys, of_values = of_planes
    size = (windows.height, windows.width, windows.side * windows.side)
    weights, of_logits = queries.new_empty(size), queries.new_empty(size)
    for rows in windows.chunks():
        added = None if penalty is None else windows.strip(penalty, rows)
        around = windows.strip(keys, rows)
        share = _weights(windows, _rows(queries, rows), around, added)
        of_share = _products(windows, _rows(of_fused, rows), windows.strip(values, rows))
        of_logit = share * (of_share - (share * of_share).sum(-1, keepdim=True))
        _add_weighted(windows, _rows(of_queries, rows), of_logit, around)
        weights[rows] = share.view_as(weights[rows])
        of_logits[rows] = of_logit.view_as(of_logits[rows])
    for by_query, seen, of_plane in (
        (of_logits, queries, of_keys),
        (weights, of_fused, of_values),
    ):
        for rows in windows.chunks():
            by_key = windows.turned(windows.strip(by_query, rows))
            _add_weighted(windows, _rows(of_plane, rows), by_key, windows.strip(seen, rows))
