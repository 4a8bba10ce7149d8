"""Block-sparse convolution in one kernel: gather, convolve, bias, residual, ReLU, scatter.

A product of matrices whose left factor is never written down: the pixels under a tap are read from
where `Source` says they are while the product is made, and the sums go to where `Target` says. The
weights are read as they lie, quickest in `channels_last`; sums are float32 in every number format.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import triton
from triton import language as tl

from seg_node.core.types import ModelError
from seg_node.kernels.tuning import factor_of, form, on, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.backend import Layer, Source, Target

FORMS = (
    form(4, 3, PIXELS=64, OUTPUTS=64, DEPTH=32),
    form(4, 4, PIXELS=64, OUTPUTS=64, DEPTH=64),
    form(4, 4, PIXELS=32, OUTPUTS=64, DEPTH=64),
    form(4, 4, PIXELS=32, OUTPUTS=32, DEPTH=64),
    form(8, 3, PIXELS=128, OUTPUTS=64, DEPTH=32),
    form(8, 3, PIXELS=128, OUTPUTS=128, DEPTH=32),
)
"""Few: on a new device each is compiled for every shape of layer, which takes seconds."""


@tuned(("channels", "outputs", "SIDE", "STEP", "KERNEL"), FORMS)
@triton.jit(do_not_specialize=["count", "held"])
def convolve_kernel(
    table: tl.tensor,
    more: tl.tensor,
    rows: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    places: tl.tensor,
    held: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    outputs: tl.tensor,
    per_output: tl.tensor,
    per_channel: tl.tensor,
    per_row: tl.tensor,
    per_column: tl.tensor,
    SIDE: tl.constexpr,
    SPAN: tl.constexpr,
    STEP: tl.constexpr,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_MORE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_PLACES: tl.constexpr,
    RELU: tl.constexpr,
    FACTOR: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Compute PIXELS pixels of the blocks in OUTPUTS channels."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    within = pixel < count
    wanted = output < outputs
    at = pixel % (SIDE * SIDE)
    corner = (pixel // (SIDE * SIDE) * SPAN + at // SIDE * STEP) * SPAN + at % SIDE * STEP
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    chunks = tl.cdiv(channels, DEPTH)
    # One loop over taps and channels: it is long enough to read ahead, however few channels.
    for step in range(KERNEL * KERNEL * chunks):
        tap = step // chunks
        down = tap // KERNEL
        right = tap % KERNEL
        row = tl.load(rows + corner + (down * SPAN + right) * DILATION, mask=within, other=-1).to(
            tl.int64
        )
        start = table + row * channels
        if HAS_MORE:
            start = tl.where(row < held, start, more + (row - held) * channels)
        channel = step % chunks * DEPTH + tl.arange(0, DEPTH)
        there = channel < channels
        seen = (row >= 0)[:, None] & there[None, :]
        values = tl.load(start[:, None] + channel[None, :], mask=seen, other=0.0)
        under = weight + down * per_row + right * per_column
        factors = tl.load(
            under + channel[:, None] * per_channel + output[None, :] * per_output,
            mask=there[:, None] & wanted[None, :],
            other=0.0,
        )
        total = tl.dot(values.to(FACTOR), factors.to(FACTOR), total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + output, mask=wanted, other=0.0).to(tl.float32)[None, :]
    place = pixel.to(tl.int64)
    if HAS_PLACES:
        place = tl.load(places + pixel, mask=within, other=-1).to(tl.int64)
        within = place >= 0
    to = place[:, None] * outputs + output[None, :]
    written = within[:, None] & wanted[None, :]
    if HAS_RESIDUAL:
        total += tl.load(residual + to, mask=written, other=0.0).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + to, total.to(out.dtype.element_ty), mask=written)


def convolve(
    source: Source,
    layer: Layer,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    target: Target | None = None,
) -> Tensor:
    """Convolve blocks; see `core.backend.BlockKernels.convolve`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.
        ModelError: the weights do not fit the pixels.

    """
    weight, bias = layer.weight, layer.bias
    outputs, channels, kernel, _ = weight.shape
    if channels != source.table.shape[1]:
        msg = f"weights {list(weight.shape)} do not fit pixels of {source.table.shape[1]} channels"
        raise ModelError(msg)
    blocks, span = source.rows.shape[:2]
    side = layer.side(span)
    count = blocks * side * side
    table = source.table.contiguous()
    out = table.new_empty((count, outputs)) if target is None else target.table
    if count:
        more = table if source.more is None else source.more.contiguous()
        places = source.rows if target is None else target.rows.contiguous()

        def grid(chosen: Any) -> tuple[int, int]:
            return triton.cdiv(count, chosen["PIXELS"]), triton.cdiv(outputs, chosen["OUTPUTS"])

        with on(table):
            convolve_kernel[grid](
                table,
                more,
                source.rows.contiguous(),
                weight,
                weight if bias is None else bias,
                table if residual is None else residual.contiguous(),
                out,
                places,
                len(table),
                count,
                channels,
                outputs,
                *weight.stride(),
                SIDE=side,
                SPAN=span,
                STEP=layer.step,
                KERNEL=kernel,
                DILATION=layer.dilation,
                HAS_MORE=source.more is not None,
                HAS_BIAS=bias is not None,
                HAS_RESIDUAL=residual is not None,
                HAS_PLACES=target is not None,
                RELU=relu,
                FACTOR=factor_of(table),
            )
    return out if target is not None else tiles(out, blocks, side)


def tiles(rows: Tensor, blocks: int, side: int) -> Tensor:
    """View pixels [K * side * side, C], block after block, as [K, C, side, side]."""
    return rows.view(blocks, side, side, rows.shape[1]).permute(0, 3, 1, 2)
