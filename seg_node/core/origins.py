"""Where the content of every pixel was computed, however far it has moved since."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from seg_node.loops import compiling, pointing
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray


HALF = np.float32(0.5123)
"""About half a pixel. Motion adds up to just a half too often: then the noise of rounding would
decide, and neighbours would follow pixels far from each other."""


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

    Each pointer is taken from the pixel nearest to where the content was one frame ago, and the
    fraction of a pixel between the two is added to it. Fractions add up over frames: pointers
    would leave their tiles, and go on with the motion of a place, not of content. So where they
    add up to more than half a pixel, the next pixel's pointer is taken, if that has drifted less.
    Moving costs the same however many frames tiles are spread over.

    Args:
        size: of the plane of features (h, w).
        side: pixels of a tile on each side, in this plane.

    Attributes:
        slot: number of the tile, int32 [h, w].
        place: row and column in the whole plane of the tile's frame, float32 [2, h, w].

    """

    def __init__(self, size: tuple[int, int], side: int) -> None:
        """Point every pixel to itself, in tiles that are numbered row by row."""
        self.size, self.side = size, side
        self.grid = (-(-size[0] // side), -(-size[1] // side))
        self.corners = np.zeros((0, 2), np.float32)
        self.slot = np.zeros(size, np.int32)
        self._pixels = np.indices(size, np.float32)
        self.place = np.zeros_like(self._pixels)
        self._drift = np.zeros_like(self._pixels)  # of `place` from the pixel whose tile it has
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
            here = ..., slice(row, row + side), slice(column, column + side)
            self.slot[here], self.place[here], self._drift[here] = slot, self._pixels[here], 0

    def move(self, flow: NDArray[np.float32]) -> None:
        """Follow the content to the next frame.

        Args:
            flow: from the next frame back to this one, in pixels of this plane, [h, w, 2].

        """
        if compiling.AVAILABLE:
            before = self.slot, self.place, self._drift
            moved = np.empty_like(before[0]), np.empty_like(before[1]), np.empty_like(before[2])
            pointing.move(threads(), np.ascontiguousarray(flow), HALF, before, moved)
            self.slot, self.place, self._drift = moved
            return
        content = self._inside(_flat(self._pixels) + flow.reshape(-1, 2).T[::-1])
        pixel = np.floor(content + HALF)
        drift = self._drift_of(pixel, content)
        # Beyond half a pixel the next one may be nearer; at the edge of an object it may not.
        other = self._inside(pixel + np.sign(drift) * (np.abs(drift) > HALF))
        nearer = _longer(self._drift_of(other, content)) < _longer(drift)
        pixel = np.where(nearer, other, pixel)
        at = self._index(pixel)
        self.slot[:] = self.slot.ravel()[at].reshape(self.size)
        for plane in (self.place, self._drift):
            _flat(plane)[:] = np.take(_flat(plane), at, 1) + (content - pixel)

    def _drift_of(
        self, pixel: NDArray[np.float32], content: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the drift of content [2, n] that takes the pointers of whole pixels [2, n]."""
        return np.take(_flat(self._drift), self._index(pixel), 1) + (content - pixel)

    def _inside(self, place: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clamp places [2, n] to the plane."""
        return np.clip(place, 0, np.array(self.size, np.float32)[:, None] - 1)

    def _index(self, pixel: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return where whole pixels [2, n] are, counted row by row."""
        row, column = pixel.astype(np.intp)
        at: NDArray[np.intp] = row * self.size[1] + column
        return at

    def places(self) -> Places:
        """Return where to read every pixel of the plane, row by row."""
        slot = self.slot.ravel().astype(np.int64)
        return Places(slot, *(_flat(self.place) - self.corners[slot].T))

    def pointers(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Return tile, and row and column in it, of every pixel whose content lies elsewhere.

        Returns:
            int32 [h, w], negative where content lies where it was computed; float32 [h, w] each.

        """
        row, column = self.place - np.moveaxis(self.corners[self.slot], -1, 0)
        return np.where(self.moved(), self.slot, np.int32(-1)), row, column

    def moved(self) -> NDArray[np.bool_]:
        """Return the pixels whose content lies beside where it was computed, [h, w]."""
        beside: NDArray[np.bool_] = (self.place != self._pixels).any(0)
        return beside

    def places_within(self, at: tuple[NDArray[np.intp], ...], finer: int) -> Places:
        """Return where to read the parts of some pixels.

        Args:
            at: rows and columns of the pixels, [n] each.
            finer: parts of a pixel on each axis.

        Returns:
            slots [n, 1, 1], rows [n, finer, 1] and columns [n, 1, finer].

        """
        slot = self.slot[at].astype(np.int64)
        inner = ((np.arange(finer) + 0.5) / finer - 0.5).astype(np.float32)
        y, x = (
            (place[at] - corner)[:, None] + inner
            for place, corner in zip(self.place, self.corners[slot].T, strict=True)
        )
        return Places(slot[:, None, None], y[:, :, None], x[:, None, :])

    def places_at(
        self,
        y: NDArray[np.int64],
        x: NDArray[np.int64],
        size: tuple[int, int],
        scale: float,
    ) -> Places:
        """Return where to read pixels of a coarser or finer plane.

        They have moved as the pixel of this plane has that lies in their middle, or around them.

        Args:
            y: rows in that plane, [n].
            x: columns in that plane, [n].
            size: rows and columns of that plane; places beyond them are clamped.
            scale: pixels of this plane per pixel of that one; a power of two.

        """
        row, column = (
            _middle(*axis) for axis in ((y, scale, self.size[0]), (x, scale, self.size[1]))
        )
        at = row * self.size[1] + column
        slot = self.slot.ravel()[at].astype(np.int64)
        way = np.take(_flat(self.place), at, 1) - np.stack((row, column))
        limits = np.array(size, np.float32)[:, None] - 1
        place = np.clip(np.stack((y, x)) + way / np.float32(scale), 0, limits)
        return Places(slot, *(place - self.corners[slot].T / np.float32(scale)))


def _flat(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return planes [2, h, w] as [2, h * w]."""
    return planes.reshape(2, -1)


def _longer(drift: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the longer of the two parts of each drift [2, n]."""
    longer: NDArray[np.float32] = np.abs(drift).max(0)
    return longer


def _middle(at: NDArray[np.int64], scale: float, length: int) -> NDArray[np.int64]:
    """Return the pixels of this plane in the middle of those of another, or around them."""
    if scale < 1:
        return np.minimum(at // round(1 / scale), length - 1)
    step = int(scale)
    return np.minimum(at * step + step // 2, length - 1)
