"""Results in tiles: what the network made of blocks, to be read where their content is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.reading import between, MARGIN, read_rows, Reads, reads_around
from seg_node.core.tiles import as_rows
from seg_node.core.transfers import to_device
from seg_node.loops import compiling, pointing
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.origins import Origins, Places


class ResultPool:
    """What the network made of blocks, as tiles with one pixel around them.

    It grows as it must: a tile is kept as long as a pixel of the present frame stems from it.

    Args:
        side: pixels of a tile on each side, without those around it.

    """

    def __init__(self, side: int) -> None:
        """Start without tiles."""
        self.side = side
        self._span = side + 2 * MARGIN
        self._table: Tensor | None = None  # [slots, span * span, C]
        self.stamps_ns = np.zeros(0, np.int64)
        self._free: list[int] = []

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        if self._table is not None:
            yield self._table

    @property
    def table(self) -> Tensor:
        """Return the pixels of all tiles, one after the other, [slots * span * span, C]."""
        assert self._table is not None
        return self._table.flatten(0, 1)

    @property
    def channels(self) -> int:
        """Return the channels of each pixel, 0 without tiles."""
        return 0 if self._table is None else self._table.shape[-1]

    def restart(self, plane: Tensor, stamp_ns: int | NDArray[np.int64]) -> None:
        """Forget all tiles and keep a plane as tiles, numbered row by row.

        Args:
            plane: [1, C, h, w].
            stamp_ns: stamp of its frame, or one for each tile, [K].

        """
        windows = self._windows(plane)  # [gh, gw, span, span, C]
        count = windows.shape[0] * windows.shape[1]
        table = self._room(plane, 2 * count)
        table[:count].view(windows.shape).copy_(windows)
        self._table = table
        self.stamps_ns = np.zeros(len(table), np.int64)
        self.stamps_ns[:count] = stamp_ns
        self._free = [*range(len(table) - 1, count - 1, -1)]

    def _room(self, plane: Tensor, count: int) -> Tensor:
        """Return room for so many tiles of a plane: that of before, if it is enough."""
        room, form = self._table, (self._span**2, plane.shape[1], plane.dtype, plane.device)
        if room is None or (*room.shape[1:], room.dtype, room.device) != form:
            return plane.new_empty((count, *form[:2]))
        return room if len(room) >= count else plane.new_empty((count, *form[:2]))

    def add(
        self,
        planes: tuple[Tensor, ...],
        blocks: NDArray[np.int64],
        stamp_ns: int | NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Keep blocks of planes.

        Args:
            planes: [1, C, h, w] each; their channels are put together in this order.
            blocks: rows and columns of the blocks, [K, 2].
            stamp_ns: stamp of their frame, or one each, [K].

        Returns:
            their numbers, int64 [K].

        """
        size = planes[0].shape[-2], planes[0].shape[-1]
        rows = to_device(tile_pixels(blocks, self.side, size), planes[0].device)
        tiles = torch.cat([as_rows(plane).index_select(0, rows) for plane in planes], 1)
        return self.put(tiles.view(len(blocks), self._span**2, tiles.shape[1]), stamp_ns)

    def put(self, tiles: Tensor, stamp_ns: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep tiles.

        Args:
            tiles: with the pixels around them, row by row, [K, (side + 2 * MARGIN) ** 2, C].
            stamp_ns: stamp of their frame, or one each, [K].

        Returns:
            their numbers, int64 [K].

        """
        assert self._table is not None
        if len(self._free) < len(tiles):
            self._grow(len(tiles))
        slots = np.array([self._free.pop() for _ in range(len(tiles))], np.int64)
        self._table.index_copy_(0, to_device(slots, tiles.device), tiles)
        self.stamps_ns[slots] = stamp_ns
        return slots

    def _grow(self, count: int) -> None:
        assert self._table is not None
        old = len(self._table)
        more = max(count, old // 2)
        spare = self._table.new_empty((more, *self._table.shape[1:]))
        self._table = torch.cat((self._table, spare))
        self.stamps_ns = np.concatenate((self.stamps_ns, np.zeros(more, np.int64)))
        self._free += range(old + more - 1, old - 1, -1)

    def _windows(self, plane: Tensor) -> Tensor:
        """Return a view of all blocks with the pixels around, [gh, gw, span, span, C]."""
        side, span = self.side, self._span
        h, w = plane.shape[-2:]
        beyond = (MARGIN, -w % side + MARGIN, MARGIN, -h % side + MARGIN)
        wide = functional.pad(plane, beyond, mode="replicate")
        cut = wide[0].unfold(1, span, side).unfold(2, span, side)  # [C, gh, gw, span, span]
        return cut.permute(1, 2, 3, 4, 0)

    def free_all_but(self, used: NDArray[np.int64]) -> None:
        """Forget the tiles that no pixel stems from.

        Args:
            used: pixels that stem from each tile, [slots or fewer].

        """
        idle = np.ones(len(self.stamps_ns), np.bool_)
        idle[: len(used)] = used == 0
        self._free = np.flatnonzero(idle)[::-1].tolist()

    def read(self, origins: Origins) -> Tensor:
        """Return the plane [1, C, h, w] of what pointers lead to, read bilinearly.

        Content beyond a tile is its edge.
        """
        table = self.table
        if compiling.usable(table):
            slot, place, corners = origins.slot, origins.place, origins.corners
            rows = table.new_empty((slot.size, table.shape[1]))
            pointing.read(
                threads(), table.numpy(), self._span, MARGIN, slot, place, corners, rows.numpy()
            )
        else:
            rows = self.take(self.reads(origins.places()))
        return rows.view(1, *origins.size, -1).permute(0, 3, 1, 2)

    def reads(self, places: Places) -> Reads:
        """Return what to read at places, for all pools of this side."""
        row, column = (between(at + MARGIN, 0, self._span - 1) for at in (places.y, places.x))
        return reads_around(places.slot, row, column, self._span)

    def reads_at(
        self, pixels: NDArray[np.int64], size: tuple[int, int], scale: float, origins: Origins
    ) -> Reads:
        """Return what to read for pixels of a coarser or finer plane than that of the pointers.

        Args:
            pixels: their numbers in that plane, row by row, [n].
            size: height and width of that plane.
            scale: pixels of the pointers per pixel of that plane; a power of two.
            origins: the pointers.

        """
        if not compiling.AVAILABLE:
            at = np.divmod(pixels, size[1])
            return self.reads(origins.places_at(*at, size, scale))
        rows, shares = np.empty((len(pixels), 4), np.int64), np.empty((len(pixels), 4), np.float32)
        where = origins.slot, origins.place, origins.corners
        form = self._span, MARGIN
        pointing.find_within(threads(), pixels, size, scale, form, *where, rows, shares)
        return Reads(torch.from_numpy(rows), torch.from_numpy(shares))

    def take(self, reads: Reads) -> Tensor:
        """Return what is read, [n, C]; content beyond a tile is its edge."""
        return read_rows(self.table, reads)


def tile_pixels(blocks: NDArray[np.int64], side: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the pixels of blocks and those around, counted row by row, tile after tile.

    Args:
        blocks: their rows and columns, [K, 2].
        side: of a block, in pixels.
        size: of the plane (h, w); beyond it stand its nearest pixels.

    """
    around = np.arange(-MARGIN, side + MARGIN)
    rows, columns = (
        (first[:, None] * side + around).clip(0, length - 1)
        for first, length in zip(blocks.T, size, strict=True)
    )
    pixels: NDArray[np.int64] = rows[:, :, None] * size[1] + columns[:, None]
    return pixels.ravel()
