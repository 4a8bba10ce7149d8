"""Looks up the pixels around blocks; see `core.blocks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.loops.compiling import compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@compiled
def around(
    actions: NDArray[np.int64],
    slots: NDArray[np.int64],
    ring: tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
    ],
    side: int,
    kinds: tuple[int, int, int],
    own: NDArray[np.int64],
    others: NDArray[np.int64],
    planes: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Look up the pixels of windows around blocks: which of the blocks around has each.

    Args:
        actions: of the blocks around each block, [K, n].
        slots: their numbers within their sets, likewise.
        ring: of the pixels that belong to other blocks, their positions in the window, the
            number of the block among those around, row and column in it; and, for each position
            of the window, the row of its pixel within the block itself.
        side: of a block, in pixels.
        kinds: action of the blocks, of the other set, and of what the background shows.
        own: row of each pixel in the set itself, to be written, [K, span * span].
        others: block and place in the ring of pixels of the other set, to be written, [2, .].
        planes: likewise of those that the background shows.
        counts: how many of these two there are, to be written, [2].

    """
    at, neighbour, y, x, inner = ring
    same, other, plane = kinds
    counts[:] = 0
    for block in range(len(actions)):
        for position in range(len(inner)):
            own[block, position] = inner[position] + block * side * side
        for index in range(len(at)):
            kind = actions[block, neighbour[index]]
            row = 0
            if kind == same:
                slot = slots[block, neighbour[index]]
                row = slot * side * side + y[index] * side + x[index]
            elif kind == other:
                others[0, counts[0]], others[1, counts[0]] = block, index
                counts[0] += 1
            elif kind == plane:
                planes[0, counts[1]], planes[1, counts[1]] = block, index
                counts[1] += 1
            own[block, at[index]] = row


@compiled
def outside(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    span: int,
    at: NDArray[np.int64],
    nearest: NDArray[np.int64],
) -> None:
    """Write which pixels of windows lie outside the image, and the nearest inside.

    Args:
        first: row and column where the image begins in each window, [K, 2].
        last: those where it ends, likewise.
        span: pixels of a window on each side.
        at: to be written, counted through all windows; so is `nearest`.
        nearest: see above.

    """
    count = 0
    for block in range(len(first)):
        base = block * span * span
        top, left, bottom, right = first[block, 0], first[block, 1], last[block, 0], last[block, 1]
        if top == 0 and left == 0 and bottom == span - 1 and right == span - 1:
            continue
        for y in range(span):
            for x in range(span):
                row, column = (
                    min(max(y, top), max(top, bottom)),
                    min(max(x, left), max(left, right)),
                )
                if row != y or column != x:
                    at[count] = base + y * span + x
                    nearest[count] = base + row * span + column
                    count += 1
