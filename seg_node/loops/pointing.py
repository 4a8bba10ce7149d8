"""Follows where content was computed, and reads it there.

See `core.origins`, `core.result_pool` and `core.feature_pool`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.loops.compiling import compiled
from seg_node.loops.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pointers = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
NO_TILE = -1


@compiled
def inside(place: np.float32, last: np.float32) -> np.float32:
    """Clamp a place to 0..last; what is no number is 0."""
    return min(place, last) if place > ZERO else ZERO


@compiled
def move(
    threads: int,
    flow: NDArray[np.float32],
    half: np.float32,
    before: Pointers,
    after: Pointers,
) -> None:
    """Move pointers along with the content, as `Origins.move` says.

    Args:
        threads: on which it runs.
        flow: (x, y) back to the frame before, [h, w, 2].
        half: about half a pixel; beyond it the next pixel's pointer may be nearer.
        before: of each pixel of the frame before its tile, [h, w], row and column in the frame of
            that tile, [2, h, w], and how far these are off from those of the pixel whose tile it
            has, [2, h, w].
        after: likewise of the next frame, to be written.

    """
    share(move_rows, threads, len(flow), (flow, half, before, after))


@compiled
def move_rows(
    first: int,
    last: int,
    flow: NDArray[np.float32],
    half: np.float32,
    before: Pointers,
    after: Pointers,
) -> None:
    """Do it for some rows."""
    (slot, place, drift), (new_slot, new_place, new_drift) = before, after
    h, w = slot.shape
    last_row, last_column = np.float32(h - 1), np.float32(w - 1)
    for y in range(first, last):
        for x in range(w):
            from_y = inside(np.float32(y) + flow[y, x, 1], last_row)
            from_x = inside(np.float32(x) + flow[y, x, 0], last_column)
            row = np.floor(from_y + half)
            column = np.floor(from_x + half)
            at, beside = int(row), int(column)
            off_y = drift[0, at, beside] + (from_y - row)
            off_x = drift[1, at, beside] + (from_x - column)
            if abs(off_y) > half or abs(off_x) > half:
                other_row = inside(row + (np.sign(off_y) if abs(off_y) > half else ZERO), last_row)
                other_column = inside(
                    column + (np.sign(off_x) if abs(off_x) > half else ZERO), last_column
                )
                other, aside = int(other_row), int(other_column)
                other_y = drift[0, other, aside] + (from_y - other_row)
                other_x = drift[1, other, aside] + (from_x - other_column)
                if max(abs(other_y), abs(other_x)) < max(abs(off_y), abs(off_x)):
                    row, column, at, beside = other_row, other_column, other, aside
            new_slot[y, x] = slot[at, beside]
            new_place[0, y, x] = place[0, at, beside] + (from_y - row)
            new_place[1, y, x] = place[1, at, beside] + (from_x - column)
            new_drift[0, y, x] = drift[0, at, beside] + (from_y - row)
            new_drift[1, y, x] = drift[1, at, beside] + (from_x - column)


@compiled
def read(
    threads: int,
    table: NDArray[np.float32],
    span: int,
    margin: int,
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Read tiles where the content of each pixel lies in them, bilinearly.

    Args:
        threads: on which it runs.
        table: pixels of all tiles, [tiles * span * span, C].
        span: pixels of a tile on each side, with those around it; beyond them is its edge.
        margin: pixels around a tile.
        slot: tile of each pixel, [h, w].
        place: row and column in the frame of its tile, [2, h, w].
        corners: row and column of each tile there, [tiles or more, 2].
        out: to be written, [h * w, C].

    """
    share(read_rows, threads, len(slot), (table, span, margin, slot, place, corners, out))


@compiled
def read_rows(
    first_row: int,
    last_row: int,
    table: NDArray[np.float32],
    span: int,
    margin: int,
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Do it for some rows."""
    w = slot.shape[1]
    channels = table.shape[1]
    last = np.float32(span - 1)
    for y in range(first_row, last_row):
        for x in range(w):
            tile = slot[y, x]
            row = inside(place[0, y, x] - corners[tile, 0] + np.float32(margin), last)
            column = inside(place[1, y, x] - corners[tile, 1] + np.float32(margin), last)
            above, left = int(row), int(column)
            down, across = row - np.float32(above), column - np.float32(left)
            first = (tile * span + above) * span + left
            below = first + span * (above + 1 < span)
            beside = int(left + 1 < span)
            a, b = (ONE - down) * (ONE - across), (ONE - down) * across
            c, d = down * (ONE - across), down * across
            at = y * w + x
            for channel in range(channels):
                out[at, channel] = (
                    a * table[first, channel]
                    + b * table[first + beside, channel]
                    + c * table[below, channel]
                    + d * table[below + beside, channel]
                )


@compiled
def picture_maps(
    threads: int,
    finer: int,
    layout: tuple[int, int, int, int],
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
) -> None:
    """Write where in an atlas of tiles' pictures the content of each pixel lies.

    Args:
        threads: on which it runs.
        finer: pixels of the pictures per pixel of the pointers, on each axis.
        layout: tiles beside each other in the atlas, pixels of a picture on each side with those
            around, without them, and those on one side.
        slot: tile of each pixel, [h, w].
        place: row and column in the frame of its tile, [2, h, w].
        corners: row and column of each tile there, [tiles or more, 2].
        rows: to be written, [h * finer, w * finer]; so is `columns`.
        columns: see above.

    """
    share(
        picture_map_rows, threads, len(slot), (finer, layout, slot, place, corners, rows, columns)
    )


@compiled
def picture_map_rows(
    first: int,
    last: int,
    finer: int,
    layout: tuple[int, int, int, int],
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
) -> None:
    """Do it for some rows."""
    beside, span, side, pad = layout
    w = slot.shape[1]
    middle = np.float32(finer - 1) / np.float32(2)
    scale = np.float32(finer)
    for y in range(first, last):
        for x in range(w):
            tile = slot[y, x]
            down = (place[0, y, x] - corners[tile, 0] + HALF) * scale - HALF
            across = (place[1, y, x] - corners[tile, 1] + HALF) * scale - HALF
            down = min(max(down, -ONE), np.float32(side))
            across = min(max(across, -ONE), np.float32(side))
            row = np.float32(tile // beside * span + pad) + down
            column = np.float32(tile % beside * span + pad) + across
            for inner in range(finer):
                for within in range(finer):
                    at, there = y * finer + inner, x * finer + within
                    rows[at, there] = row + (np.float32(inner) - middle)
                    columns[at, there] = column + (np.float32(within) - middle)


@compiled
def middle(at: int, scale: float, length: int) -> int:
    """Return the pixel of the pointers in the middle of a pixel of another plane, or around it."""
    if scale < 1:
        return min(at // round(1 / scale), length - 1)
    step = int(scale)
    return min(at * step + step // 2, length - 1)


@compiled
def write_reads(
    top: int,
    span: int,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    rest: NDArray[np.float32],
    rows: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Write the four rows of a table that lie around a place in a tile, and their shares.

    Args:
        top: first row of pixels of the tile, counted through all tiles.
        span: pixels of a tile on each side.
        first: row and column of the pixel before the place, [2].
        second: those of the pixel after, likewise.
        rest: how far the place is on the way from the one to the other, 0..1, likewise.
        rows: to be written, [4]; so is `shares`.
        shares: see above.

    """
    above, below = (top + first[0]) * span, (top + second[0]) * span
    rows[0], rows[1] = above + first[1], above + second[1]
    rows[2], rows[3] = below + first[1], below + second[1]
    down, across = rest[0], rest[1]
    shares[0], shares[1] = (ONE - down) * (ONE - across), (ONE - down) * across
    shares[2], shares[3] = down * (ONE - across), down * across


@compiled
def find(
    threads: int,
    pixels: NDArray[np.int64],
    size: tuple[int, int],
    scale: float,
    side: int,
    margin: int,
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    tile_of: NDArray[np.int64],
    newest: NDArray[np.int64],
    columns: int,
    rows: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Write what to read of a table of tiles for pixels of a plane, bilinearly.

    Args:
        threads: on which it runs.
        pixels: their numbers, row by row, [n].
        size: height and width of the plane.
        scale: pixels of the pointers per pixel of the plane; a power of two.
        side: of a tile, in pixels of the plane.
        margin: pixels around a tile.
        slot: result that each pixel of the pointers stems from, [h, w].
        place: row and column in the frame of that result, [2, h, w].
        corners: row and column of each result there, [results or more, 2].
        tile_of: tile of each result; `NO_TILE` where it is gone.
        newest: tile of each block.
        columns: blocks beside each other.
        rows: four rows of the table for each pixel, to be written, [n, 4].
        shares: their weights, likewise.

    """
    origins, tiles = (slot, place, corners), (tile_of, newest, columns)
    given = (pixels, size, scale, side, margin, origins, tiles, rows, shares)
    share(find_part, threads, len(pixels), given)


@compiled
def find_part(
    start_at: int,
    end_at: int,
    pixels: NDArray[np.int64],
    size: tuple[int, int],
    scale: float,
    side: int,
    margin: int,
    origins: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]],
    tiles: tuple[NDArray[np.int64], NDArray[np.int64], int],
    rows: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Do it for some pixels."""
    (slot, place, corners), (tile_of, newest, columns) = origins, tiles
    h, w = slot.shape
    span = side + 2 * margin
    start, here, there = np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.float64)
    first, second, rest = np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.float32)
    for n in range(start_at, end_at):
        here[0], here[1] = pixels[n] // size[1], pixels[n] % size[1]
        row, column = middle(here[0], scale, h), middle(here[1], scale, w)
        source = slot[row, column]
        there[0] = here[0] + (place[0, row, column] - row) / scale
        there[1] = here[1] + (place[1, row, column] - column) / scale
        tile = tile_of[source]
        gone = tile == NO_TILE
        if gone:
            tile = newest[here[0] // side * columns + here[1] // side]
        for axis in range(2):
            if gone:
                start[axis] = here[axis] // side * side
                at = float(here[axis] - start[axis])
            else:
                corner = corners[source, axis] / scale
                start[axis] = int(corner)
                at = min(max(there[axis], 0.0), float(size[axis] - 1)) - corner
            # Beyond the image there is what padding puts there: nothing to be mixed in.
            low = max(-margin, -start[axis]) + margin
            high = min(side - 1 + margin, size[axis] - 1 - start[axis]) + margin
            at = min(max(at + margin, float(low)), float(high))
            first[axis] = int(at)
            second[axis] = min(first[axis] + 1, high)
            rest[axis] = np.float32(at - first[axis])
        write_reads(tile * span, span, first, second, rest, rows[n], shares[n])


@compiled
def find_within(
    threads: int,
    pixels: NDArray[np.int64],
    size: tuple[int, int],
    scale: float,
    form: tuple[int, int],
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    rows: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Write what to read of tiles for pixels of a plane; beyond a tile is its edge.

    Args:
        threads: on which it runs.
        pixels: their numbers, row by row, [n].
        size: height and width of the plane.
        scale: pixels of the pointers per pixel of the plane; a power of two.
        form: pixels of a tile on each side with those around it, and pixels around it.
        slot: tile of each pixel of the pointers, [h, w].
        place: row and column in the frame of that tile, [2, h, w].
        corners: row and column of each tile there, [tiles or more, 2].
        rows: four rows of the table for each pixel, to be written, [n, 4].
        shares: their weights, likewise.

    """
    given = (pixels, size, scale, form, slot, place, corners, rows, shares)
    share(find_part_within, threads, len(pixels), given)


@compiled
def find_part_within(
    start_at: int,
    end_at: int,
    pixels: NDArray[np.int64],
    size: tuple[int, int],
    scale: float,
    form: tuple[int, int],
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    rows: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> None:
    """Do it for some pixels."""
    h, w = slot.shape
    span, margin = form
    first, second, rest = np.empty(2, np.int64), np.empty(2, np.int64), np.empty(2, np.float32)
    for n in range(start_at, end_at):
        y, x = pixels[n] // size[1], pixels[n] % size[1]
        row, column = middle(y, scale, h), middle(x, scale, w)
        tile = slot[row, column]
        for axis in range(2):
            here, beside = (y, row) if axis == 0 else (x, column)
            there = here + (place[axis, row, column] - beside) / scale
            there = min(max(there, 0.0), float(size[axis] - 1)) - corners[tile, axis] / scale
            there = min(max(there + margin, 0.0), float(span - 1))
            first[axis] = int(there)
            second[axis] = min(first[axis] + 1, span - 1)
            rest[axis] = np.float32(there - first[axis])
        write_reads(tile * span, span, first, second, rest, rows[n], shares[n])


@compiled
def origin(
    threads: int, flow: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> None:
    """Write x and y of p + flow(p) for every pixel p, [h, w] each."""
    share(origin_rows, threads, len(flow), (flow, x, y))


@compiled
def origin_rows(
    first: int,
    last: int,
    flow: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
) -> None:
    """Do it for some rows."""
    for row in range(first, last):
        for column in range(flow.shape[1]):
            x[row, column] = np.float32(column) + flow[row, column, 0]
            y[row, column] = np.float32(row) + flow[row, column, 1]
