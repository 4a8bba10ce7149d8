"""What comes before and after a network, one kernel each: only bytes cross the bus.

`prepare` makes the normalised planes of both resolutions from the bytes of an image;
`decide_planes` makes bytes of classes and confidence from logits, without planes of pixels per
class in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from triton import language as tl

from seg_node.core.masks import CONFIDENCE_MAX
from seg_node.core.types import DataError
from seg_node.kernels.tuning import form, number_of, on, power, tuned

if TYPE_CHECKING:
    from torch import Tensor

RGB = 3
PREPARE_FORMS = (form(4, PIXELS=128), form(4, PIXELS=64), form(4, PIXELS=256), form(8, PIXELS=512))
DECIDE_FORMS = (form(4, PIXELS=64), form(4, PIXELS=32), form(4, PIXELS=128), form(8, PIXELS=128))


@tuned(("width",), PREPARE_FORMS)
@triton.jit
def prepare_kernel(
    image: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    full: tl.tensor,
    half: tl.tensor,
    step: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    REVERSED: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Compute PIXELS pixels of a row at half resolution, and the four below each at full."""
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y = tl.program_id(1)
    half_width = (width + 1) // 2
    for channel in tl.static_range(3):
        factor, offset = tl.load(scale + channel), tl.load(shift + channel)
        read = 2 - channel if REVERSED else channel
        total = tl.zeros((PIXELS,), tl.float32)
        number = tl.zeros((PIXELS,), tl.float32)
        for corner in tl.static_range(4):
            row, column = 2 * y + corner // 2, 2 * x + corner % 2
            inside = (column < width) & (row < height)
            at = image + row.to(tl.int64) * step + column * 3 + read
            value = tl.load(at, mask=inside, other=0).to(tl.float32)
            total += value
            number += inside.to(tl.float32)
            to = full + (row.to(tl.int64) * width + column) * 3 + channel
            tl.store(to, (value * factor + offset).to(full.dtype.element_ty), mask=inside)
        mean = total / tl.maximum(number, 1.0) * factor + offset
        to = half + (y.to(tl.int64) * half_width + x) * 3 + channel
        tl.store(to, mean.to(half.dtype.element_ty), mask=x < half_width)


def prepare(
    image: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, *, bgr: bool = False
) -> tuple[Tensor, Tensor]:
    """Normalise an image at full and at half resolution.

    Args:
        image: uint8 [H, W, 3]; its rows may lie any number of bytes apart.
        mean: of each RGB channel, in 0..255, float32 [3].
        std: standard deviation of each RGB channel, in 0..255, float32 [3].
        dtype: number format of the planes.
        bgr: whether the image's channels are blue, green, red; those of the planes are always
            red, green, blue.

    Returns:
        [1, 3, H, W], and its average of two by two pixels (`core.tiles.halved`) [1, 3, H/2, W/2],
        rounded up, both `channels_last`.

    Raises:
        ConfigError: the tensors lie on a CPU, or kernels do not take the number format.
        DataError: the image is no such image.

    """
    if image.dtype != torch.uint8 or image.shape[2:] != (RGB,) or image.stride()[1:] != (RGB, 1):
        msg = (
            f"image is {image.dtype} {list(image.shape)} with strides {image.stride()}; it has to "
            "be torch.uint8 [H, W, 3], the bytes of each row without gaps"
        )
        raise DataError(msg)
    height, width = image.shape[:2]
    planes = [
        torch.empty((1, h, w, RGB), dtype=dtype, device=image.device)
        for h, w in ((height, width), (-(-height // 2), -(-width // 2)))
    ]
    number_of(planes[0])
    scale = 1 / std.to(image.device, torch.float32)
    shift = -mean.to(image.device, torch.float32) * scale
    with on(image):
        prepare_kernel[
            lambda chosen: (triton.cdiv((width + 1) // 2, chosen["PIXELS"]), (height + 1) // 2)
        ](image, scale, shift, *planes, image.stride(0), height, width, REVERSED=bgr)
    full, half = (plane.permute(0, 3, 1, 2) for plane in planes)
    return full, half


@triton.jit
def store_decision(
    logits: tl.tensor,
    labels: tl.tensor,
    confidence: tl.tensor,
    mask: tl.tensor,
    MOST: tl.constexpr,
) -> None:
    """Store the class of most probability of each row of logits, and its probability."""
    best = tl.max(logits, 1)
    total = tl.sum(tl.exp(logits - best[:, None]), 1)
    tl.store(labels, tl.argmax(logits, 1).to(tl.uint8), mask=mask)
    tl.store(confidence, (MOST / total + 0.5).to(tl.uint8), mask=mask)


@tuned(("classes", "STRIDE"), DECIDE_FORMS)
@triton.jit
def decide_kernel(
    logits: tl.tensor,
    labels: tl.tensor,
    confidence: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    classes: tl.tensor,
    STRIDE: tl.constexpr,
    CLASSES: tl.constexpr,
    MOST: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Decide PIXELS pixels of a row."""
    x = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y = tl.program_id(1)
    kind = tl.arange(0, CLASSES)
    within = x < width
    # Centres of pixels, not corners, lie on each other; the border is repeated.
    at_y = tl.maximum((y + 0.5) / STRIDE - 0.5, 0.0)
    at_x = tl.maximum((x + 0.5) / STRIDE - 0.5, 0.0)
    above, left = at_y.to(tl.int32), at_x.to(tl.int32)
    below, right = tl.minimum(above + 1, rows - 1), tl.minimum(left + 1, columns - 1)
    down, along = at_y - above, (at_x - left)[:, None]
    mask = within[:, None] & (kind < classes)[None, :]
    first, last = left[:, None] * classes + kind[None, :], right[:, None] * classes + kind[None, :]
    upper, lower = logits + above * columns * classes, logits + below * columns * classes
    low = float("-inf")
    over = (1 - along) * tl.load(upper + first, mask=mask, other=0.0).to(tl.float32)
    over += along * tl.load(upper + last, mask=mask, other=0.0).to(tl.float32)
    under = (1 - along) * tl.load(lower + first, mask=mask, other=0.0).to(tl.float32)
    under += along * tl.load(lower + last, mask=mask, other=0.0).to(tl.float32)
    full = tl.where((kind < classes)[None, :], (1 - down) * over + down * under, low)
    to = y.to(tl.int64) * width + x
    store_decision(full, labels + to, confidence + to, within, MOST)


def decide_planes(logits: Tensor, stride: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Upsample logits to pixels and choose the class of most probability.

    Args:
        logits: [1, classes, h, w]; quick in `channels_last`.
        stride: image pixels per logit, on each axis.
        size: image size (H, W), at most stride times (h, w).

    Returns:
        class id, and its probability times 255, uint8 [H, W] each, on the device.

    Raises:
        ConfigError: the logits lie on a CPU, or are of a number format that kernels do not take.

    """
    number_of(logits)
    rows = logits[0].permute(1, 2, 0).contiguous()
    labels, confidence = (
        torch.empty(size, dtype=torch.uint8, device=logits.device) for _ in range(2)
    )
    h, w, classes = rows.shape
    with on(rows):
        decide_kernel[lambda chosen: (triton.cdiv(size[1], chosen["PIXELS"]), size[0])](
            rows,
            labels,
            confidence,
            h,
            w,
            size[1],
            classes,
            STRIDE=stride,
            CLASSES=power(classes),
            MOST=CONFIDENCE_MAX,
        )
    return labels, confidence
