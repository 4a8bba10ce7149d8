"""Looks for the cells of an image in the earlier one: a launch a level, nothing in between stored.

See `core.matching` for what is computed, and for the plain torch form that this equals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
from triton import language as tl

from seg_node.core.matching import CELL, check_images, FLATNESS, grid_of, REACH
from seg_node.kernels.tuning import form, number_of, on, tuned

if TYPE_CHECKING:
    from torch import Tensor

MATCH_FORMS = (form(4, CELLS=16), form(4, CELLS=4), form(4, CELLS=8), form(8, CELLS=32))
SPREAD_FORMS = (form(4, PIXELS=128), form(4, PIXELS=256), form(8, PIXELS=512))


@triton.jit
def read_pixels(
    plane: tl.tensor, y: tl.tensor, x: tl.tensor, height: tl.tensor, width: tl.tensor
) -> tl.tensor:
    """Read a plane bilinearly, float32; its border is repeated outside."""
    y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
    x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
    above, left = y.to(tl.int32), x.to(tl.int32)
    lower, right = y - above, x - left
    below, beside = tl.minimum(above + 1, height - 1), tl.minimum(left + 1, width - 1)
    over = (1 - right) * tl.load(plane + above * width + left).to(tl.float32)
    over += right * tl.load(plane + above * width + beside).to(tl.float32)
    under = (1 - right) * tl.load(plane + below * width + left).to(tl.float32)
    under += right * tl.load(plane + below * width + beside).to(tl.float32)
    return (1 - lower) * over + lower * under


@triton.jit
def pixels_of(
    plane: tl.tensor, y: tl.tensor, x: tl.tensor, height: tl.tensor, width: tl.tensor
) -> tl.tensor:
    """Read whole pixels of a plane, float32; its border is repeated outside."""
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return tl.load(plane + y * width + x).to(tl.float32)


@tuned(("height", "width", "STEPS"), MATCH_FORMS)
@triton.jit
def match_kernel(
    before: tl.tensor,
    image: tl.tensor,
    guesses: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    columns: tl.tensor,
    count: tl.tensor,
    tried: tl.tensor,
    margin: tl.tensor,
    FLAT: tl.constexpr,
    STEPS: tl.constexpr,
    CELL: tl.constexpr,
    REACH: tl.constexpr,
    SPAN: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """Look for CELLS cells."""
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    within = cell < count
    pixel = tl.arange(0, SPAN * SPAN)
    row = (cell // columns * CELL - REACH)[:, None] + (pixel // SPAN)[None, :]
    column = (cell % columns * CELL - REACH)[:, None] + (pixel % SPAN)[None, :]
    present = pixels_of(image, row, column, height, width)
    best_x = tl.load(guesses + 2 * cell, mask=within, other=0.0)
    best_y = tl.load(guesses + 2 * cell + 1, mask=within, other=0.0)
    found = read_pixels(before, row + best_y[:, None], column + best_x[:, None], height, width)
    error = tl.sum(tl.abs(found - present), 1) / (SPAN * SPAN)
    for guess in range(1, tried):
        at = guesses + 2 * (guess * count + cell)
        x = tl.load(at, mask=within, other=0.0)
        y = tl.load(at + 1, mask=within, other=0.0)
        found = read_pixels(before, row + y[:, None], column + x[:, None], height, width)
        other = tl.sum(tl.abs(found - present), 1) / (SPAN * SPAN)
        better = other < error - margin
        best_x, best_y = tl.where(better, x, best_x), tl.where(better, y, best_y)
        error = tl.where(better, other, error)
    if STEPS > 0:
        down = pixels_of(image, row + 1, column, height, width)
        down = (down - pixels_of(image, row - 1, column, height, width)) / 2
        along = pixels_of(image, row, column + 1, height, width)
        along = (along - pixels_of(image, row, column - 1, height, width)) / 2
        flat = FLAT * SPAN * SPAN
        xx, yy = tl.sum(along * along, 1) + flat, tl.sum(down * down, 1) + flat
        xy = tl.sum(along * down, 1)
        determinant = xx * yy - xy * xy
        x, y = best_x, best_y
        for _ in range(STEPS):
            found = read_pixels(before, row + y[:, None], column + x[:, None], height, width)
            slope_x = tl.sum(along * (found - present), 1)
            slope_y = tl.sum(down * (found - present), 1)
            x -= (yy * slope_x - xy * slope_y) / determinant
            y -= (xx * slope_y - xy * slope_x) / determinant
        found = read_pixels(before, row + y[:, None], column + x[:, None], height, width)
        other = tl.sum(tl.abs(found - present), 1) / (SPAN * SPAN)
        near = (tl.abs(x - best_x) <= CELL) & (tl.abs(y - best_y) <= CELL)
        better = near & (other < error)
        best_x, best_y = tl.where(better, x, best_x), tl.where(better, y, best_y)
    tl.store(out + 2 * cell, best_x, mask=within)
    tl.store(out + 2 * cell + 1, best_y, mask=within)


def match(before: Tensor, image: Tensor, guesses: Tensor, margin: float, steps: int) -> Tensor:
    """Return the best motion of each cell; see `core.matching.match`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.
        DataError: the images are not two planes of one size.

    """
    check_images(before, image)
    number_of(image)
    height, width = image.shape
    rows, columns = grid_of(image.shape)
    count = rows * columns
    out = guesses.new_empty((rows, columns, 2))
    with on(image):
        match_kernel[lambda chosen: (triton.cdiv(count, chosen["CELLS"]),)](
            before.contiguous(),
            image.contiguous(),
            guesses.contiguous(),
            out,
            height,
            width,
            columns,
            count,
            len(guesses),
            margin,
            FLAT=FLATNESS,
            STEPS=steps,
            CELL=CELL,
            REACH=REACH,
            SPAN=CELL + 2 * REACH,
        )
    return out


@tuned(("height", "width"), SPREAD_FORMS)
@triton.jit
def spread_kernel(
    before: tl.tensor,
    image: tl.tensor,
    cells: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    CELL: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Give PIXELS pixels the motions of the cells that reach them."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    y, x = pixel // width, pixel % width
    within = y < height
    present = tl.load(image + pixel, mask=within, other=0.0).to(tl.float32)
    row, column = tl.minimum(y // CELL, rows - 1), x // CELL
    own = cells + 2 * (row * columns + column)
    own_x, own_y = tl.load(own), tl.load(own + 1)
    moved_x = tl.zeros((PIXELS,), tl.float32)
    moved_y = tl.zeros((PIXELS,), tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    for corner in tl.static_range(4):
        above, beside = row, column
        if corner // 2:
            above += tl.where(y % CELL >= CELL // 2, 1, -1)
            above = tl.minimum(tl.maximum(above, 0), rows - 1)
        if corner % 2:
            beside += tl.where(x % CELL >= CELL // 2, 1, -1)
            beside = tl.minimum(tl.maximum(beside, 0), columns - 1)
        at = cells + 2 * (above * columns + beside)
        flow_x, flow_y = tl.load(at), tl.load(at + 1)
        found = read_pixels(before, y + flow_y, x + flow_x, height, width)
        weight = 1 / tl.maximum(tl.abs(found - present), 1.0)
        moved_x += weight * (flow_x - own_x)
        moved_y += weight * (flow_y - own_y)
        total += weight
    tl.store(out + 2 * pixel, own_x + moved_x / total, mask=within)
    tl.store(out + 2 * pixel + 1, own_y + moved_y / total, mask=within)


def spread(before: Tensor, image: Tensor, cells: Tensor) -> Tensor:
    """Return the motion of each pixel; see `core.matching.spread`.

    Raises:
        ConfigError: the tensors lie on a CPU, or are of a number format that kernels do not take.
        DataError: the images are not two planes of one size.

    """
    check_images(before, image)
    number_of(image)
    height, width = image.shape
    out = cells.new_empty((height, width, 2))
    with on(image):
        spread_kernel[lambda chosen: (triton.cdiv(height * width, chosen["PIXELS"]),)](
            before.contiguous(),
            image.contiguous(),
            cells.contiguous(),
            out,
            height,
            width,
            *grid_of(image.shape),
            CELL=CELL,
        )
    return out


class TritonMatcher:
    """The inner loops of `core.matching` as kernels."""

    def match(
        self, before: Tensor, image: Tensor, guesses: Tensor, margin: float, steps: int
    ) -> Tensor:
        """Return the motion of every cell."""
        return match(before, image, guesses, margin, steps)

    def spread(self, before: Tensor, image: Tensor, cells: Tensor) -> Tensor:
        """Return the motion of every pixel."""
        return spread(before, image, cells)
