"""Gather, maximum and bilinear upsampling of blocks, one kernel each: no copy of their halos."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import triton
from triton import language as tl

from seg_node.kernels.convolution import tiles
from seg_node.kernels.tuning import form, number_of, on, power, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.backend import Source

FORMS = (form(4, PIXELS=64), form(4, PIXELS=16), form(4, PIXELS=32), form(8, PIXELS=64))


@triton.jit
def pixels_at(
    table: tl.tensor,
    more: tl.tensor,
    row: tl.tensor,
    held: tl.tensor,
    channels: tl.tensor,
    CHANNELS: tl.constexpr,
    FILL: tl.tensor,
) -> tl.tensor:
    """Return pixels by their rows, float32 [PIXELS, CHANNELS]; FILL where rows are negative."""
    channel = tl.arange(0, CHANNELS)
    place = row.to(tl.int64)
    start = tl.where(row < held, table + place * channels, more + (place - held) * channels)
    seen = (row >= 0)[:, None] & (channel < channels)[None, :]
    return tl.load(start[:, None] + channel[None, :], mask=seen, other=FILL).to(tl.float32)


@triton.jit
def put_pixels(
    out: tl.tensor,
    pixel: tl.tensor,
    values: tl.tensor,
    within: tl.tensor,
    channels: tl.tensor,
    CHANNELS: tl.constexpr,
) -> None:
    """Write pixels one after the other."""
    channel = tl.arange(0, CHANNELS)
    to = out + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    written = within[:, None] & (channel < channels)[None, :]
    tl.store(to, values.to(out.dtype.element_ty), mask=written)


@tuned(("channels",), FORMS)
@triton.jit(do_not_specialize=["count", "held"])
def gather_kernel(
    table: tl.tensor,
    more: tl.tensor,
    rows: tl.tensor,
    out: tl.tensor,
    held: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    fill: tl.tensor,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Copy PIXELS pixels."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    within = pixel < count
    row = tl.load(rows + pixel, mask=within, other=-1)
    values = pixels_at(table, more, row, held, channels, CHANNELS, fill)
    put_pixels(out, pixel, values, within, channels, CHANNELS)


@tuned(("channels",), FORMS)
@triton.jit(do_not_specialize=["count", "held"])
def max_pool_kernel(
    table: tl.tensor,
    more: tl.tensor,
    rows: tl.tensor,
    out: tl.tensor,
    held: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    SIDE: tl.constexpr,
    SPAN: tl.constexpr,
    STEP: tl.constexpr,
    KERNEL: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Find PIXELS maxima in each channel."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    within = pixel < count
    at = pixel % (SIDE * SIDE)
    corner = (pixel // (SIDE * SIDE) * SPAN + at // SIDE * STEP) * SPAN + at % SIDE * STEP
    lowest = float("-inf")
    best = tl.full((PIXELS, CHANNELS), lowest, tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        beside = corner + tap // KERNEL * SPAN + tap % KERNEL
        row = tl.load(rows + beside, mask=within, other=-1)
        values = pixels_at(table, more, row, held, channels, CHANNELS, lowest)
        best = tl.maximum(best, values, propagate_nan=tl.PropagateNan.ALL)
    put_pixels(out, pixel, best, within, channels, CHANNELS)


@tuned(("channels", "FACTOR"), FORMS)
@triton.jit(do_not_specialize=["count", "held"])
def enlarge_kernel(
    table: tl.tensor,
    more: tl.tensor,
    rows: tl.tensor,
    out: tl.tensor,
    held: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    SIDE: tl.constexpr,
    SPAN: tl.constexpr,
    FACTOR: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Mix PIXELS pixels of four each."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    within = pixel < count
    at = pixel % (SIDE * SIDE)
    # In pixels of the window, which begins one pixel before the block: never negative.
    y = (at // SIDE + 0.5) / FACTOR + 0.5
    x = (at % SIDE + 0.5) / FACTOR + 0.5
    above, left = y.to(tl.int32), x.to(tl.int32)
    down, right = (y - above)[:, None], (x - left)[:, None]
    corner = (pixel // (SIDE * SIDE) * SPAN + above) * SPAN + left
    mixed = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(4):
        row = tl.load(rows + corner + tap // 2 * SPAN + tap % 2, mask=within, other=-1)
        values = pixels_at(table, more, row, held, channels, CHANNELS, 0.0)
        share = (down if tap // 2 else 1 - down) * (right if tap % 2 else 1 - right)
        mixed += share * values
    put_pixels(out, pixel, mixed, within, channels, CHANNELS)


def _launch(kernel: Any, source: Source, side: int, **more: Any) -> Tensor:
    """Run a kernel that makes blocks of so many pixels a side, [K, C, side, side]."""
    number_of(source.table)
    table = source.table.contiguous()
    blocks, channels = len(source.rows), table.shape[1]
    count = blocks * side * side
    out = table.new_empty((count, channels))
    if count:
        with on(table):
            kernel[lambda chosen: (triton.cdiv(count, chosen["PIXELS"]),)](
                table,
                table if source.more is None else source.more.contiguous(),
                source.rows.contiguous(),
                out,
                len(table),
                count,
                channels,
                CHANNELS=power(channels),
                **more,
            )
    return tiles(out, blocks, side)


def gather(source: Source, fill: float = 0.0) -> Tensor:
    """Copy blocks with what is around them; see `core.backend.BlockKernels.gather`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.

    """
    return _launch(gather_kernel, source, source.rows.shape[1], fill=fill)


def max_pool(source: Source, kernel: int, step: int) -> Tensor:
    """Return the maximum around each pixel; see `core.backend.BlockKernels.max_pool`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.

    """
    span = source.rows.shape[1]
    side = (span - kernel) // step + 1
    return _launch(max_pool_kernel, source, side, SIDE=side, SPAN=span, STEP=step, KERNEL=kernel)


def enlarge(source: Source, factor: int) -> Tensor:
    """Upsample blocks bilinearly; see `core.backend.BlockKernels.enlarge`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.

    """
    span = source.rows.shape[1]
    side = (span - 2) * factor
    return _launch(enlarge_kernel, source, side, SIDE=side, SPAN=span, FACTOR=factor)
