"""Has each pixel look at the pixels around it; see `core.attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.loops.compiling import compiled, compiled_freely
from seg_node.loops.deciding import BIAS, C0, C1, C2, C3, C4, C5, LOG2_E, MANTISSA, ZERO
from seg_node.loops.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 7
"""Of the windows, in pixels: the products of a row of them are added up side by side."""

FLOOR = np.float32(-64)
"""Power of two below which a share is no longer told apart: 5e-20 of the largest. Numbers near the
smallest that there are take a hundred times as long to multiply."""


@compiled
def attend(
    threads: int,
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    penalty: NDArray[np.float32],
    fused: NDArray[np.float32],
) -> None:
    """Add to each pixel the values around it, weighted by the softmax of query times key.

    Args:
        threads: on which it runs.
        queries: [h, w, C].
        keys: with as many pixels around them as windows reach, [h + 6, w + 6, C].
        values: likewise.
        penalty: what is added to the products with each key, [h + 6, w + 6].
        fused: what the values are added to, in place, [h, w, C].

    """
    share(attend_rows, threads, len(fused), (queries, keys, values, penalty, fused))


@compiled_freely
def attend_rows(
    first: int,
    last: int,
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    penalty: NDArray[np.float32],
    fused: NDArray[np.float32],
) -> None:
    """Do it for some rows."""
    w, channels = fused.shape[1:]
    share = np.empty(SIDE * SIDE, np.float32)
    part, bits = np.empty(SIDE * SIDE, np.float32), np.empty(SIDE * SIDE, np.int32)
    power = bits.view(np.float32)
    for y in range(first, last):
        for x in range(w):
            for row in range(SIDE):
                at, below = row * SIDE, y + row
                p0 = p1 = p2 = p3 = p4 = p5 = p6 = ZERO
                for c in range(channels):
                    query = queries[y, x, c]
                    p0 += query * keys[below, x, c]
                    p1 += query * keys[below, x + 1, c]
                    p2 += query * keys[below, x + 2, c]
                    p3 += query * keys[below, x + 3, c]
                    p4 += query * keys[below, x + 4, c]
                    p5 += query * keys[below, x + 5, c]
                    p6 += query * keys[below, x + 6, c]
                share[at], share[at + 1], share[at + 2] = p0, p1, p2
                share[at + 3], share[at + 4], share[at + 5], share[at + 6] = p3, p4, p5, p6
                for column in range(SIDE):
                    share[at + column] += penalty[below, x + column]
            best, total = share[0], ZERO
            for at in range(SIDE * SIDE):
                best = max(best, share[at])
            for at in range(SIDE * SIDE):
                t = max((share[at] - best) * LOG2_E, FLOOR)
                whole = np.floor(t)
                r = t - whole
                part[at] = C0 + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * C5))))
                bits[at] = (np.int32(whole) + BIAS) * MANTISSA
            for at in range(SIDE * SIDE):
                share[at] = part[at] * power[at]
                total += share[at]
            for at in range(SIDE * SIDE):
                share[at] /= total
            for row in range(SIDE):
                at, below = row * SIDE, y + row
                s0, s1, s2 = share[at], share[at + 1], share[at + 2]
                s3, s4, s5, s6 = share[at + 3], share[at + 4], share[at + 5], share[at + 6]
                for c in range(channels):
                    fused[y, x, c] += (
                        s0 * values[below, x, c]
                        + s1 * values[below, x + 1, c]
                        + s2 * values[below, x + 2, c]
                        + s3 * values[below, x + 3, c]
                        + s4 * values[below, x + 4, c]
                        + s5 * values[below, x + 5, c]
                        + s6 * values[below, x + 6, c]
                    )
