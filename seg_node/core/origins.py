"""Where the content of every pixel was computed, however far it has moved since."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Places(NamedTuple):
    """Pixels of tiles.

    Attributes:
        slot: number of the tile, int64 [n].
        y: row within the tile, [n]; beyond it where content crossed the tile's border.
        x: column within the tile, likewise.

    """

    slot: NDArray[np.int64]
    y: NDArray[np.float32]
    x: NDArray[np.float32]


class Origins:
    """For each pixel of the present frame, the tile in which its content was computed.

    A tile is what one block's newest computation left. It stays in the frame where it was
    computed, and only these pointers move, once a frame: so the value of a pixel is read from a
    computed plane once, bilinearly, whatever its age, and does not blur.

    Each pointer is taken from the pixel nearest to where the content was one frame ago, and keeps
    its fraction of a pixel. So moving costs the same however many frames tiles are spread over.

    Args:
        size: of the plane of features (h, w).
        side: pixels of a tile on each side, in this plane.

    Attributes:
        slot: number of the tile, int32 [h, w].
        y: row in the whole plane of the tile's frame, float32 [h, w].
        x: column, likewise.

    """

    def __init__(self, size: tuple[int, int], side: int) -> None:
        """Point every pixel to itself, in tiles that are numbered row by row."""
        self.size, self.side = size, side
        self._rows, self._columns = (np.arange(n, dtype=np.float32) for n in size)
        self.grid = (-(-size[0] // side), -(-size[1] // side))
        self.corners = np.zeros((0, 2), np.float32)
        self.slot = np.zeros(size, np.int32)
        self.y, self.x = (np.zeros(size, np.float32) for _ in range(2))
        self.renew(np.argwhere(np.ones(self.grid, np.bool_)), np.arange(np.prod(self.grid)))

    def renew(self, blocks: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """Point the pixels of blocks to themselves.

        Args:
            blocks: row and column of blocks that were computed in this frame, [K, 2].
            slots: the tiles that hold them, [K].

        """
        side = self.side
        if len(slots) and int(slots.max()) >= len(self.corners):
            more = max(int(slots.max()) + 1, 2 * len(self.corners)) - len(self.corners)
            self.corners = np.concatenate((self.corners, np.zeros((more, 2), np.float32)))
        self.corners[slots] = blocks * side
        for (row, column), slot in zip((blocks * side).tolist(), slots.tolist(), strict=True):
            here = slice(row, row + side), slice(column, column + side)
            self.slot[here] = slot
            self.y[here] = self._rows[here[0], None]
            self.x[here] = self._columns[None, here[1]]

    def move(self, flow: NDArray[np.float32]) -> None:
        """Follow the content to the next frame.

        Args:
            flow: from the next frame back to this one, in pixels of this plane, [h, w, 2].

        """
        h, w = self.size
        x = np.clip(self._columns[None] + flow[..., 0], 0, w - 1)
        y = np.clip(self._rows[:, None] + flow[..., 1], 0, h - 1)
        column, row = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
        at = row * w + column
        self.slot = self.slot.ravel()[at]
        self.y = self.y.ravel()[at] + (y - row)
        self.x = self.x.ravel()[at] + (x - column)

    def places(self) -> Places:
        """Return where to read every pixel of the plane, row by row."""
        slot = self.slot.ravel().astype(np.int64)
        corner = self.corners[slot]
        return Places(slot, self.y.ravel() - corner[:, 0], self.x.ravel() - corner[:, 1])

    def places_at(self, y: NDArray[np.int64], x: NDArray[np.int64], scale: float) -> Places:
        """Return where to read pixels of a coarser or finer plane, by the nearest pixel.

        Args:
            y: rows in that plane, [n].
            x: columns in that plane, [n].
            scale: pixels of this plane per pixel of that one; a power of two.

        """
        slot_y, rest_y = _middle(y, scale, self.size[0])
        slot_x, rest_x = _middle(x, scale, self.size[1])
        slot = self.slot[slot_y, slot_x].astype(np.int64)
        corner = self.corners[slot] / scale
        row = np.floor((self.y[slot_y, slot_x] + 0.5) / scale + rest_y) - corner[:, 0]
        column = np.floor((self.x[slot_y, slot_x] + 0.5) / scale + rest_x) - corner[:, 1]
        return Places(slot, row, column)


def _middle(
    at: NDArray[np.int64], scale: float, length: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the pixels of this plane in the middle of those of another, and what is left over.

    What is left over, in pixels of the other plane, is nothing where that is coarser.
    """
    if scale >= 1:
        step = int(scale)
        middle = np.minimum(at * step + step // 2, length - 1)
        return middle, np.zeros(len(at), np.float32)
    finer = round(1 / scale)
    here = at // finer
    # Half a pixel of this plane is half of `finer` of that one: back to its first, on to `at`.
    return here, (at - here * finer - finer / 2 + 0.5).astype(np.float32)
