"""Remembered results read once for each pixel of the image, where classes meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from triton import language as tl

from seg_node.core.borders import uncertain
from seg_node.core.masks import CONFIDENCE_MAX
from seg_node.kernels.frames import store_decision
from seg_node.kernels.tuning import form, number_of, on, power, tuned

if TYPE_CHECKING:
    from seg_node.core.borders import Moved
    from seg_node.core.masks import Planes

FORMS = (form(4, PIXELS=64), form(4, PIXELS=32), form(4, PIXELS=128), form(8, PIXELS=128))


@tuned(("classes", "STRIDE"), FORMS)
@triton.jit
def read_kernel(
    table: tl.tensor,
    meets: tl.tensor,
    tiles: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    labels: tl.tensor,
    confidence: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    pitch: tl.tensor,
    span: tl.tensor,
    channels: tl.tensor,
    classes: tl.tensor,
    STRIDE: tl.constexpr,
    CLASSES: tl.constexpr,
    MOST: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Decide those of PIXELS pixels of a row that lie where classes meet."""
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y = tl.program_id(1)
    kind = tl.arange(0, CLASSES)
    place = (y // STRIDE) * columns + x // STRIDE
    tile = tl.load(tiles + place, mask=x < width, other=-1)
    wanted = (tile >= 0) & (tl.load(meets + place, mask=x < width, other=0) > 0)
    # As in torch: the remainder first, then the half pixel between the centres.
    at_y = tl.load(down + place, mask=wanted, other=0.0) + (y % STRIDE + 0.5) / STRIDE - 0.5
    at_x = tl.load(across + place, mask=wanted, other=0.0) + (x % STRIDE + 0.5) / STRIDE - 0.5
    last = (span - 1).to(tl.float32)
    at_y = tl.minimum(tl.maximum(at_y, 0.0), last)
    at_x = tl.minimum(tl.maximum(at_x, 0.0), last)
    above, left = at_y.to(tl.int32), at_x.to(tl.int32)
    below, right = tl.minimum(above + 1, span - 1), tl.minimum(left + 1, span - 1)
    over, along = (at_y - above)[:, None], (at_x - left)[:, None]
    first = tile.to(tl.int64) * span
    mask = wanted[:, None] & (kind < classes)[None, :]
    upper = ((first + above) * span)[:, None]
    lower = ((first + below) * span)[:, None]
    start, end, shift = left[:, None], right[:, None], kind[None, :]
    low = float("-inf")
    high = (1 - along) * tl.load(table + (upper + start) * channels + shift, mask=mask, other=0.0)
    high += along * tl.load(table + (upper + end) * channels + shift, mask=mask, other=0.0)
    deep = (1 - along) * tl.load(table + (lower + start) * channels + shift, mask=mask, other=0.0)
    deep += along * tl.load(table + (lower + end) * channels + shift, mask=mask, other=0.0)
    full = tl.where((kind < classes)[None, :], (1 - over) * high + over * deep, low)
    to = y.to(tl.int64) * pitch + x
    store_decision(full, labels + to, confidence + to, wanted, MOST)


def read_tiles(planes: Planes, moved: Moved, stride: int, classes: int) -> Planes:
    """Decide image pixels anew, in place; see `core.borders.read_tiles`.

    Raises:
        ConfigError: the results lie on a CPU, or are of a number format that kernels do not take.

    """
    number_of(moved.table)
    labels, confidence = planes
    assert labels.stride() == confidence.stride()
    height, width = labels.shape
    meets = uncertain(labels, confidence, stride).to(torch.uint8)
    with on(moved.table):
        read_kernel[lambda chosen: (triton.cdiv(width, chosen["PIXELS"]), height)](
            moved.table.contiguous(),
            meets,
            moved.tile,
            moved.y,
            moved.x,
            labels,
            confidence,
            moved.tile.shape[1],
            width,
            labels.stride(0),
            moved.span,
            moved.table.shape[1],
            classes,
            STRIDE=stride,
            CLASSES=power(classes),
            MOST=CONFIDENCE_MAX,
        )
    return planes
