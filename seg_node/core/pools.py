"""Tiles of planes: what computed blocks left, to be read where their content is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.tiles import as_rows
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.background import Plane
    from seg_node.core.blocks import Window
    from seg_node.core.origins import Origins, Places

MARGIN = 1
"""Pixels around a tile of results that are kept with it: bilinear reading needs one."""

SPARE = 0.5
"""Tiles of features that are kept beyond one for each block, relative to the blocks."""

NO_TILE = -1


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

    def restart(self, plane: Tensor, stamp_ns: int) -> None:
        """Forget all tiles and keep a plane as tiles, numbered row by row.

        Args:
            plane: [1, C, h, w].
            stamp_ns: stamp of its frame.

        """
        tiles = self._windows(plane).flatten(0, 1)
        self._table = tiles.contiguous()
        self.stamps_ns = np.full(len(tiles), stamp_ns, np.int64)
        self._free = []

    def add(self, plane: Tensor, blocks: NDArray[np.int64], stamp_ns: int) -> NDArray[np.int64]:
        """Keep blocks of a plane.

        Args:
            plane: [1, C, h, w].
            blocks: rows and columns of the blocks, [K, 2].
            stamp_ns: stamp of their frame.

        Returns:
            their numbers, int64 [K].

        """
        assert self._table is not None
        if len(self._free) < len(blocks):
            self._grow(len(blocks))
        slots = np.array([self._free.pop() for _ in range(len(blocks))], np.int64)
        row, column = (torch.from_numpy(x).to(plane.device) for x in blocks.T)
        self._table[torch.from_numpy(slots).to(plane.device)] = self._windows(plane)[row, column]
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
        """Return a view of all blocks with the pixels around, [gh, gw, span * span, C]."""
        side, span = self.side, self._span
        h, w = plane.shape[-2:]
        beyond = (MARGIN, -w % side + MARGIN, MARGIN, -h % side + MARGIN)
        wide = functional.pad(plane, beyond, mode="replicate")
        cut = wide[0].unfold(1, span, side).unfold(2, span, side)  # [C, gh, gw, span, span]
        return cut.permute(1, 2, 3, 4, 0).flatten(2, 3)

    def free_all_but(self, used: NDArray[np.int64]) -> None:
        """Forget the tiles that no pixel stems from.

        Args:
            used: pixels that stem from each tile, [slots or fewer].

        """
        idle = np.ones(len(self.stamps_ns), np.bool_)
        idle[: len(used)] = used == 0
        self._free = np.flatnonzero(idle)[::-1].tolist()

    def read(self, places: Places, size: tuple[int, int]) -> Tensor:
        """Return a plane [1, C, h, w] read bilinearly; content beyond a tile is its edge."""
        assert self._table is not None
        span = self._span
        first_y, rest_y = _split(places.y + MARGIN, span)
        first_x, rest_x = _split(places.x + MARGIN, span)
        start = (places.slot * span + first_y) * span + first_x
        rows = np.stack((start, start + 1, start + span, start + span + 1), 1)
        shares = np.stack(
            (
                (1 - rest_y) * (1 - rest_x),
                (1 - rest_y) * rest_x,
                rest_y * (1 - rest_x),
                rest_y * rest_x,
            ),
            1,
        )
        table = self._table.flatten(0, 1)
        read = functional.embedding_bag(
            torch.from_numpy(rows).to(table.device),
            table,
            mode="sum",
            per_sample_weights=torch.from_numpy(shares).to(table.device, table.dtype),
        )
        return read.view(1, *size, -1).permute(0, 3, 1, 2)


def _split(at: NDArray[np.float32], span: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the pixel before a place on one axis, and the rest of the way to the next one."""
    inside = np.clip(at, 0, span - 1)
    first = np.minimum(np.floor(inside), span - 2)
    return first.astype(np.int64), (inside - first).astype(np.float32)


class FeaturePool:
    """What the operations of a network read: features in tiles, operation by operation.

    Each tile of features belongs to a tile of results. There is room for a tile of every block
    and `SPARE` more; when it is full, the tile least pixels stem from goes, but never the newest
    of a block. What stems from a tile that is gone reads the newest one where it is now.

    Args:
        grid: blocks (gh, gw).
        origins: where the content of every pixel was computed.
        stride: image pixels per pixel of the origins.
        side: side of a block, in image pixels.

    """

    def __init__(self, grid: tuple[int, int], origins: Origins, stride: int, side: int) -> None:
        """Start with tiles for all blocks, numbered row by row."""
        count = grid[0] * grid[1]
        self.grid, self.stride, self.side = grid, stride, side
        self.capacity = count + max(1, round(count * SPARE))
        self._origins = origins
        self._tile_of = np.arange(count)  # of each result's slot
        self._slot_of = np.full(self.capacity, NO_TILE)  # result's slot of each tile
        self._slot_of[:count] = np.arange(count)
        self._newest = np.arange(count)  # tile of each block
        self._tables: list[_Table] = []
        self._claimed = np.zeros(0, np.int64)
        # By identity of the pixels, which all operations of a window share; they are held, so
        # that no other tensor can be taken for them.
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}

    def restart(self, planes: Sequence[Tensor]) -> None:
        """Keep the planes that a dense network's operations have read, in order."""
        self._tables = [_Table(self, plane) for plane in planes]

    def planes(self) -> Iterator[Plane]:
        """Return what each operation finds, from the first on."""
        return iter(self._tables)

    def claim(self, blocks: NDArray[np.int64], used: NDArray[np.int64]) -> None:
        """Find tiles for blocks that are about to be computed.

        Args:
            blocks: their numbers, row by row, [K].
            used: pixels that stem from each result's slot.

        """
        load = np.zeros(self.capacity, np.int64)
        taken = self._slot_of != NO_TILE
        slots = self._slot_of[taken]
        load[taken] = np.where(slots < len(used), used[np.minimum(slots, len(used) - 1)], 0)
        # The newest tile of a block may go only if the block itself is computed anew.
        kept = np.ones(len(self._newest), np.bool_)
        kept[blocks] = False
        load[self._newest[kept]] = np.iinfo(np.int64).max
        self._claimed = np.argsort(load, kind="stable")[: len(blocks)]
        gone = self._slot_of[self._claimed]
        self._tile_of[gone[gone != NO_TILE]] = NO_TILE
        self._newest[blocks] = self._claimed
        self._rows.clear()

    def name(self, slots: NDArray[np.int64]) -> None:
        """Say which results belong to the tiles that were claimed last, [K]."""
        if int(slots.max(initial=-1)) >= len(self._tile_of):
            more = max(int(slots.max()) + 1 - len(self._tile_of), len(self._tile_of))
            self._tile_of = np.concatenate((self._tile_of, np.full(more, NO_TILE)))
        # A slot that was freed and is used again may still have a tile of old.
        old = self._tile_of[slots]
        self._slot_of[old[old != NO_TILE]] = NO_TILE
        self._tile_of[slots] = self._claimed
        self._slot_of[self._claimed] = slots

    def cut(self, plane: Tensor, b: int) -> Tensor:
        """Return a plane as tiles of b pixels a side, row by row, with room for more."""
        (gh, gw), channels = self.grid, plane.shape[1]
        h, w = plane.shape[-2:]
        wide = functional.pad(plane, (0, gw * b - w, 0, gh * b - h))
        tiles = wide[0].view(channels, gh, b, gw, b).permute(1, 3, 2, 4, 0)
        table = plane.new_zeros((self.capacity, b, b, channels))
        table[: gh * gw].view(gh, gw, b, b, channels).copy_(tiles)
        return table.view(-1, channels)

    def write(self, table: Tensor, tiles: Tensor) -> None:
        """Write the features of the blocks of the last claim, [K, C, b, b], into a table."""
        places = torch.from_numpy(self._claimed).to(table.device)
        rows = as_rows(tiles).view(len(places), -1, tiles.shape[1])
        table.view(self.capacity, -1, tiles.shape[1]).index_copy_(0, places, rows)

    def rows(self, pixels: Tensor, window: Window) -> Tensor:
        """Return the rows of a table in which pixels of an operation's plane are, int64 [k]."""
        key = id(pixels)
        if key not in self._rows:
            found = self._find(pixels.cpu().numpy(), window)
            self._rows[key] = pixels, torch.from_numpy(found).to(pixels.device)
        return self._rows[key][1]

    def _find(self, pixels: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
        y, x = np.divmod(pixels, window.size[1])
        places = self._origins.places_at(y, x, window.size, window.stride / self.stride)
        b = self.side // window.stride
        tile = self._tile_of[places.slot]
        gone = tile == NO_TILE
        tile = np.where(gone, self._newest[(y // b) * self.grid[1] + x // b], tile)
        row, column = (
            np.clip(np.where(gone, here % b, place), 0, b - 1).astype(np.int64)
            for here, place in ((y, places.y), (x, places.x))
        )
        found: NDArray[np.int64] = (tile * b + row) * b + column
        return found


class _Table:
    """What one operation reads, as tiles.

    Args:
        pool: where the tiles of all operations are.
        plane: what it read in the whole frame, [1, C, h, w].

    """

    def __init__(self, pool: FeaturePool, plane: Tensor) -> None:
        """Keep the plane whole until an operation on blocks says what stride it has."""
        self._pool = pool
        self._plane: Tensor | None = plane
        self._table: Tensor | None = None  # [capacity * b * b, C]

    def rows(self, pixels: Tensor, window: Window, *, halve: bool) -> Tensor:
        """Return some pixels, [k, C].

        Raises:
            ModelError: pixels of half the resolution were asked for, as LOW blocks do.

        """
        if halve:
            msg = "LOW blocks cannot be computed beside REUSE blocks that stay in tiles"
            raise ModelError(msg)
        return self._cut(window).index_select(0, self._pool.rows(pixels, window))

    def whole(self, window: Window) -> Tensor:
        """Return all pixels, [1, C, h, w]."""
        h, w = window.size
        table = self._cut(window)
        pixels = torch.arange(h * w, device=table.device)
        found = self._pool.rows(pixels, window)
        return table.index_select(0, found).view(1, h, w, -1).permute(0, 3, 1, 2)

    def keep(self, tiles: Tensor, window: Window) -> None:
        """Keep the pixels of the blocks of the last claim, [K, C, b, b]."""
        self._pool.write(self._cut(window), tiles)

    def _cut(self, window: Window) -> Tensor:
        """Return the table."""
        if self._table is None:
            assert self._plane is not None
            self._table = self._pool.cut(self._plane, self._pool.side // window.stride)
            self._plane = None
        return self._table
