"""Sharpens LOW features with remembered full-resolution ones: AR-Seg's CReFF (arXiv 2303.07224).

`Fusion` lets each pixel of the LOW features look at the 7x7 memory pixels around it and add what
it finds there: local attention, a softmax over 49 products <query(p), key(p + o)> without a scale,
one head (papers.md, section 2, step 7).

How the attention runs. A plane in `channels_last` is one line of pixels, row after row, so the 7
keys of one row of a window are neighbours in memory, and a view that starts one pixel later for
each pixel is [pixels, 7, C]: the operand of a batched product of matrices, without any copy. Seven
such products give the logits, seven more the sum of values, some rows at a time, so that no more
than 49 numbers per pixel exist at once instead of 49 * C. Where a window leaves the image at the
left or right, the line goes on in the row above or below: those products are overwritten. Tiles of
several pixels with the keys around them, the usual way, multiply two to four times as often for
nothing and are no faster (`benchmarks/fusion.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WINDOW = 7
"""Side of the window in the paper."""

PIXELS = 4096
"""Pixels computed at once: what they need stays in a core's share of the cache."""


class Fusion(nn.Module):
    """Adds to LOW features what they find around them in the warped memory.

    A new fusion returns its LOW features as they are: values start at zero, so that training
    begins at the network without fusion (the paper starts them at random). Queries and keys start
    as the features themselves, scaled so that the first logits are <low, memory> / sqrt(C).

    Args:
        channels: C of the features.
        window: side of the window, odd.

    Raises:
        ModelError: the window has no centre.

    """

    def __init__(self, channels: int, window: int = WINDOW) -> None:
        """Build the three depthwise convolutions."""
        super().__init__()
        if window < 1 or window % 2 == 0:
            msg = f"window of fusion is {window}; it needs a centre: use an odd number"
            raise ModelError(msg)
        self.window = window
        self.query, self.key, self.value = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(3)
        )
        for conv, centre in ((self.query, 1.0), (self.key, 1.0), (self.value, 0.0)):
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.weight[:, :, 1, 1], centre * channels**-0.25)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, low: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse LOW features with remembered ones.

        Args:
            low: features of the present image at half resolution, enlarged to the size of
                `memory` (`enlarge`), [N, C, h, w].
            memory: features of an earlier image at full resolution, warped, [N, C, h, w].
            valid: where `memory` shows something, bool [N, 1, h, w]; elsewhere it is not looked
                at. A pixel that sees no valid one keeps its LOW features. None: all of it, as in
                the paper.

        Returns:
            fused features, [N, C, h, w].

        Raises:
            ModelError: the shapes do not fit each other.

        """
        _check(low, memory, valid)
        if valid is not None:
            memory = memory * valid
        keys, values = self.key(memory), self.value(memory)
        return local_attention(low, (self.query(low), keys, values), valid, self.window)


def enlarge(low: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample features of the image at half resolution, exactly as all-LOW plans do (law 3).

    Args:
        low: [N, C, h2, w2], half of `size`, rounded up.
        size: (h, w) at full resolution.

    Returns:
        [N, C, h, w]. Centres of pixels lie as `tiles.halved` puts them, two by two; corners are
        not aligned.

    Raises:
        ModelError: `low` is not half of that size.

    """
    if tuple(low.shape[-2:]) != tuple(-(-length // 2) for length in size):
        msg = f"features {list(low.shape)} are not half of {list(size)}; halve the image first"
        raise ModelError(msg)
    full = functional.interpolate(low, scale_factor=2, mode="bilinear")
    return full[..., : size[0], : size[1]]


def macs(size: tuple[int, int], channels: int, window: int = WINDOW) -> int:
    """Count the MACs of `Fusion` on one image, which are those of the papers' count.

    Three depthwise 3x3 convolutions and two products per pixel of the window, also where the
    window leaves the image.

    Args:
        size: (h, w) of the features at full resolution.
        channels: C of the features.
        window: side of the window.

    """
    return size[0] * size[1] * channels * (3 * 9 + 2 * window * window)


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
    planes = [
        plane.to(number).permute(0, 2, 3, 1).contiguous()
        for plane in (base, queries, keys, values)
    ]
    fused: Tensor = _LocalAttention.apply(*planes, penalty, window)  # type: ignore[no-untyped-call]  # torch's stub
    return fused.permute(0, 3, 1, 2).to(base.dtype)


def _check(low: Tensor, memory: Tensor, valid: Tensor | None) -> None:
    """Refuse features and masks of different sizes.

    Raises:
        ModelError: the shapes do not fit each other.

    """
    if low.shape != memory.shape:
        msg = (
            f"LOW features {list(low.shape)} do not fit memory {list(memory.shape)}: enlarge them "
            "to its size first"
        )
        raise ModelError(msg)
    expected = (len(low), 1, *low.shape[-2:])
    if valid is not None and (valid.dtype != torch.bool or valid.shape != expected):
        msg = (
            f"valid of fusion is {valid.dtype} {list(valid.shape)}; it has to be torch.bool "
            f"{list(expected)}"
        )
        raise ModelError(msg)


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
