"""Moves planes by backward flow; see `core.warp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.loops.compiling import compiled
from seg_node.loops.pointing import inside, ONE
from seg_node.loops.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def warp(
    threads: int,
    rows: NDArray[np.float32],
    flow: NDArray[np.float32],
    moved: NDArray[np.float32],
) -> None:
    """Read a plane at p + flow(p) for every pixel p, bilinearly.

    Args:
        threads: on which it runs.
        rows: the plane's pixels, [h * w, C].
        flow: (x, y) in pixels, [h, w, 2].
        moved: to be written, [h * w, C].

    """
    share(warp_rows, threads, len(flow), (rows, flow, moved))


@compiled
def warp_rows(
    first_row: int,
    end_row: int,
    rows: NDArray[np.float32],
    flow: NDArray[np.float32],
    moved: NDArray[np.float32],
) -> None:
    """Do it for some rows."""
    h, w = flow.shape[:2]
    channels = rows.shape[1]
    last_row, last_column = np.float32(h - 1), np.float32(w - 1)
    for y in range(first_row, end_row):
        for x in range(w):
            row = inside(np.float32(y) + flow[y, x, 1], last_row)
            column = inside(np.float32(x) + flow[y, x, 0], last_column)
            above, left = int(row), int(column)
            down, across = row - np.float32(above), column - np.float32(left)
            first = above * w + left
            below = first + w * (above + 1 < h)
            beside = int(left + 1 < w)
            a, b = (ONE - down) * (ONE - across), (ONE - down) * across
            c, d = down * (ONE - across), down * across
            at = y * w + x
            for channel in range(channels):
                moved[at, channel] = (
                    a * rows[first, channel]
                    + b * rows[first + beside, channel]
                    + c * rows[below, channel]
                    + d * rows[below + beside, channel]
                )
