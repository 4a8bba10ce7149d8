"""Compares what is remembered with the present picture; see `core.comparing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.loops.compiling import compiled
from seg_node.loops.deciding import add_up
from seg_node.loops.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO = np.float32(0)


@compiled
def compare(
    threads: int,
    known: NDArray[np.float32],
    picture: NDArray[np.float32],
    valid: NDArray[np.bool_],
    unknown: np.float32,
    ages_ms: NDArray[np.float64],
    slot: NDArray[np.int32],
    side: int,
    difference: NDArray[np.float32],
    means: NDArray[np.float64],
    oldest_ms: NDArray[np.float64],
) -> None:
    """Compare pixel by pixel, and sum up block by block.

    Args:
        threads: on which it runs.
        known: logits and, as the last channels, the picture that they were made of, where they
            are now, [h * w, classes + 3].
        picture: the present one, [3, h, w].
        valid: where that is known, [h, w].
        unknown: the difference where it is not.
        ages_ms: of each tile, [tiles or more].
        slot: tile that each pixel stems from, [h, w].
        side: of a block, in pixels.
        difference: of the colour that differs most, to be written, [h, w].
        means: of each block, to be written, [4, gh, gw]: the difference, how uncertain the class
            is, 0..1, the product of both, and the age in milliseconds.
        oldest_ms: the largest age in each block, to be written, [gh, gw].

    """
    means[:] = 0
    oldest_ms[:] = -np.inf
    found = difference, means, oldest_ms
    given = (known, picture, valid, unknown, ages_ms, slot, side, found)
    share(compare_blocks, threads, len(oldest_ms), given)


@compiled
def compare_blocks(
    first: int,
    last: int,
    known: NDArray[np.float32],
    picture: NDArray[np.float32],
    valid: NDArray[np.bool_],
    unknown: np.float32,
    ages_ms: NDArray[np.float64],
    slot: NDArray[np.int32],
    side: int,
    found: tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Do it for some rows of blocks."""
    difference, means, oldest_ms = found
    colours, h, w = picture.shape
    classes = known.shape[1] - colours
    value = np.empty((classes, w), np.float32)
    best, total = np.empty(w, np.float32), np.empty(w, np.float32)
    for y in range(first * side, min(last * side, h)):
        for x in range(w):
            here = known[y * w + x]
            far = ZERO
            for colour in range(colours):
                far = max(far, abs(here[classes + colour] - picture[colour, y, x]))
            difference[y, x] = far if valid[y, x] else unknown
            best[x] = here[0]
            for c in range(classes):
                best[x] = max(best[x], here[c])
                value[c, x] = here[c]
        add_up(value, best, total)
        for x in range(w):
            row, column, age_ms = y // side, x // side, ages_ms[slot[y, x]]
            doubt = 1 - 1 / total[x]
            means[0, row, column] += difference[y, x]
            means[1, row, column] += doubt
            means[2, row, column] += difference[y, x] * doubt
            means[3, row, column] += age_ms
            oldest_ms[row, column] = max(oldest_ms[row, column], age_ms)
    for row in range(first, last):
        for column in range(means.shape[2]):
            down, across = min(side, h - row * side), min(side, w - column * side)
            for part in range(means.shape[0]):
                means[part, row, column] /= down * across
