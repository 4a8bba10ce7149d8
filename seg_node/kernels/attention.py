"""Warp and local attention in one kernel: no copy of the 49 pixels around a pixel ever exists.

Keys and values are read where they are, or, with a flow, bilinearly where it says they were; the
softmax is kept up to date from position to position. See `core.attention` for what is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.overrides import handle_torch_function, has_torch_function
import triton
from triton import language as tl

from seg_node.core.costs import PRICED
from seg_node.core.types import DataError
from seg_node.kernels.tuning import form, number_of, on, power, tuned

if TYPE_CHECKING:
    from torch import Tensor

FORMS = (form(4, PIXELS=32), form(4, PIXELS=16), form(8, PIXELS=32), form(8, PIXELS=64))


@tuned(("channels", "WINDOW", "HAS_FLOW"), FORMS)
@triton.jit
def attend_kernel(
    base: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    valid: tl.tensor,
    flow: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    WINDOW: tl.constexpr,
    HAS_VALID: tl.constexpr,
    HAS_FLOW: tl.constexpr,
    LOWEST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Compute PIXELS pixels of an image."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y, x = pixel // width, pixel % width
    first = tl.program_id(1) * height * width
    channel = tl.arange(0, CHANNELS)
    filled = (channel < channels)[None, :]
    within = y < height
    own = (first + pixel).to(tl.int64)[:, None] * channels + channel[None, :]
    mask = within[:, None] & filled
    query = tl.load(queries + own, mask=mask, other=0.0).to(tl.float32)
    most = tl.full((PIXELS,), float("-inf"), tl.float32)
    sum_of_weights = tl.zeros((PIXELS,), tl.float32)
    found = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for position in range(WINDOW * WINDOW):
        down = y + position // WINDOW - WINDOW // 2
        along = x + position % WINDOW - WINDOW // 2
        # Outside the image keys and values are zero, and take part with logit 0.
        seen = within & (along >= 0) & (along < width) & (down >= 0) & (down < height)
        at = first + down * width + along
        used = seen
        if HAS_VALID:
            used = seen & (tl.load(valid + at, mask=seen, other=0) != 0)
        if HAS_FLOW:
            moved = flow + 2 * at
            was_x = along + tl.load(moved, mask=seen, other=0.0)
            was_y = down + tl.load(moved + 1, mask=seen, other=0.0)
            was_x = tl.minimum(tl.maximum(was_x, 0.0), width - 1.0)
            was_y = tl.minimum(tl.maximum(was_y, 0.0), height - 1.0)
            left, above = was_x.to(tl.int32), was_y.to(tl.int32)
            right_share, lower_share = was_x - left, was_y - above
        key = tl.zeros((PIXELS, CHANNELS), tl.float32)
        value = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for corner in tl.static_range(4 if HAS_FLOW else 1):
            if HAS_FLOW:
                column = tl.minimum(left + corner % 2, width - 1)
                row = tl.minimum(above + corner // 2, height - 1)
                share = right_share if corner % 2 else 1 - right_share
                share *= lower_share if corner // 2 else 1 - lower_share
                at = first + row * width + column
            place = at.to(tl.int64)[:, None] * channels + channel[None, :]
            key_part = tl.load(keys + place, mask=seen[:, None] & filled, other=0.0)
            value_part = tl.load(values + place, mask=used[:, None] & filled, other=0.0)
            if HAS_FLOW:
                key += share[:, None] * key_part.to(tl.float32)
                value += share[:, None] * value_part.to(tl.float32)
            else:
                key, value = key_part.to(tl.float32), value_part.to(tl.float32)
        logit = tl.sum(query * key, 1)
        if HAS_VALID:
            logit = tl.where(used | ~seen, logit, LOWEST)
        highest = tl.maximum(most, logit)
        fade, weight = tl.exp(most - highest), tl.exp(logit - highest)
        sum_of_weights = sum_of_weights * fade + weight
        found = found * fade[:, None] + weight[:, None] * value
        most = highest
    total = tl.load(base + own, mask=mask, other=0.0).to(tl.float32)
    total += found / sum_of_weights[:, None]
    tl.store(out + own, total.to(out.dtype.element_ty), mask=mask)


def attend(
    base: Tensor,
    operands: tuple[Tensor, Tensor, Tensor],
    valid: Tensor | None,
    window: int,
    flow: Tensor | None = None,
) -> Tensor:
    """Add to each pixel the values around it, as `core.attention.local_attention` does.

    Args:
        base: what to add to, [N, C, h, w].
        operands: queries, keys and values, [N, C, h, w] each, of the type of `base`.
        valid: which keys may be looked at, bool [N, 1, h, w]; None for all.
        window: side of the window, odd.
        flow: backward flow (x, y) by which keys and values are moved first, as `core.warp.warp`
            moves them, in pixels, float32 [N, h, w, 2]; None where they lie as they should.

    Returns:
        [N, C, h, w] of the type of `base`, `channels_last`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.
        DataError: the flow does not fit the features.

    """
    tensors = (base, *operands)
    if has_torch_function(tensors):  # somebody counts what is computed
        fused: Tensor = handle_torch_function(attend, tensors, base, operands, valid, window, flow)
        return fused
    number_of(base)
    n, c, h, w = base.shape
    if flow is not None and flow.shape != (n, h, w, 2):
        msg = f"flow {list(flow.shape)} does not fit features {list(base.shape)}: rescale it first"
        raise DataError(msg)
    planes = [plane.permute(0, 2, 3, 1).contiguous() for plane in (base, *operands)]
    out = torch.empty_like(planes[0])
    with on(base):
        attend_kernel[lambda chosen: (triton.cdiv(h * w, chosen["PIXELS"]), n)](
            *planes,
            planes[0] if valid is None else valid.contiguous().view(torch.uint8),
            planes[0] if flow is None else flow.contiguous(),
            out,
            h,
            w,
            c,
            WINDOW=window,
            HAS_VALID=valid is not None,
            HAS_FLOW=flow is not None,
            LOWEST=torch.finfo(torch.float32).min / 2,
            CHANNELS=power(c),
        )
    return out.permute(0, 3, 1, 2)


def _macs(base: Tensor, _operands: object, _valid: object, window: int, _flow: object) -> int:
    """Count two products per pixel of a window, also where it leaves the image."""
    return 2 * window * window * base.numel()


PRICED[attend] = _macs
