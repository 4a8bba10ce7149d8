"""Plain tensor operations on batches of blocks, [K, C, b, b], as `sparse.py` needs them."""

from __future__ import annotations

from typing import cast, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.blocks import Beyond


def halved(plane: Tensor) -> Tensor:
    """Average pixels two by two, [N, C, h, w]; an odd last row or column stands alone."""
    wide = plane if plane.is_floating_point() else plane.float()
    if wide.shape[-2] % 2 or wide.shape[-1] % 2:
        return functional.avg_pool2d(wide, 2, ceil_mode=True, count_include_pad=False)
    # Many times faster than pooling where the memory is in channels_last, as images are.
    rows = wide[..., ::2, :], wide[..., 1::2, :]
    corners = [row[..., start::2] for row in rows for start in (0, 1)]
    return (corners[0] + corners[1] + corners[2] + corners[3]) * 0.25


def as_rows(x: Tensor) -> Tensor:
    """Return [K, C, h, w] as a matrix [K * h * w, C]; free of copies in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def bounded(tiles: Tensor, beyond: Beyond | None, outside: float | None) -> Tensor:
    """Give the pixels outside the image their value, in place.

    Args:
        tiles: blocks with the pixels around them, [K, C, span, span], channels_last.
        beyond: which pixels are outside.
        outside: the value; None for that of the nearest pixel inside.

    """
    if beyond is None:
        return tiles
    rows = tiles.permute(0, 2, 3, 1).view(-1, tiles.shape[1])
    if outside is None:
        rows.index_copy_(0, beyond.at, rows.index_select(0, beyond.nearest))
    else:
        rows.index_fill_(0, beyond.at, outside)
    return tiles


def filled(values: Tensor, length: int) -> Tensor:
    """Return a list [n, ...] with zeros behind it, [length, ...]."""
    wide = values.new_zeros((length, *values.shape[1:]))
    wide[: len(values)] = values
    return wide


def none_like(x: Tensor) -> Tensor:
    """Return no blocks of as many channels, [0, C, 1, 1]."""
    return x.new_empty((0, x.shape[1], 1, 1))


def enlarged(around: Tensor, factor: int) -> Tensor:
    """Upsample blocks that have one pixel around them bilinearly, and cut that pixel off."""
    wide = functional.interpolate(around, scale_factor=factor, mode="bilinear")
    return wide[..., factor:-factor, factor:-factor]


def convolved_as_matrix(
    tiles: Tensor, weight: Tensor, bias: Tensor | None, form: tuple[int, int, int]
) -> Tensor:
    """Convolve small blocks as one product of all their neighbourhoods with the weights."""
    step, dilation, side = form
    span = dilation * (weight.shape[-1] - 1) + 1
    taps = tiles.unfold(2, span, step).unfold(3, span, step)[..., ::dilation, ::dilation]
    matrix = taps.permute(0, 2, 3, 4, 5, 1).reshape(tiles.shape[0] * side * side, -1)
    product = _product(matrix, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return product.view(tiles.shape[0], side, side, -1).permute(0, 3, 1, 2)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows [n, k] times weights [m, k], plus a bias [m].

    For float32 torch leaves this to its BLAS, which was slower than oneDNN, which convolves, on
    an EPYC with AVX-512. What oneDNN's takes beside tiles: benchmarks/sparse_layer.py.
    """
    plain = rows.device.type == "cpu" and rows.dtype == weight.dtype == torch.float32
    learns = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    if not plain or learns or not ONEDNN:
        return functional.linear(rows, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")  # noqa: SLF001 - no public function runs it on plain tensors
    return product


ONEDNN: bool = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own has no types
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether this torch has oneDNN's product of matrices."""


@torch.no_grad()
def follow(batches: Sequence[Tensor], mean: Tensor, var: Tensor, momentum: float) -> None:
    """Move running statistics, in place, towards those of several batches of blocks.

    Args:
        batches: [K, C, b, b] each, any of them without blocks.
        mean: running mean, [C].
        var: running variance, [C].
        momentum: weight of the new statistics, 0..1.

    """
    sets = [tiles for tiles in batches if len(tiles)]
    counts = [tiles.numel() // tiles.shape[1] for tiles in sets]
    total = sum(counts)
    shares = [(count / total, tiles) for count, tiles in zip(counts, sets, strict=True)]
    new_mean = sum(share * tiles.mean((0, 2, 3)) for share, tiles in shares)
    new_var = sum(share * tiles.var((0, 2, 3), correction=0) for share, tiles in shares)
    mean.lerp_(cast("Tensor", new_mean).to(mean.dtype), momentum)
    unbiased = cast("Tensor", new_var) * (total / max(1, total - 1))
    var.lerp_(unbiased.to(var.dtype), momentum)
