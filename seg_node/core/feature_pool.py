"""Features in tiles: what the operations of a network read around the blocks they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.reading import between, MARGIN, read_rows, Reads, reads_around
from seg_node.core.tiles import as_rows
from seg_node.core.transfers import to_device
from seg_node.core.types import ModelError
from seg_node.loops import compiling, pointing
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.background import Found, Plane
    from seg_node.core.blocks import Window
    from seg_node.core.origins import Origins

SPARE = 0.5
"""Tiles of features that are kept beyond one for each block, relative to the blocks."""

NO_TILE = -1


class FeaturePool:
    """What the operations of a network read: features in tiles, operation by operation.

    Each tile of features belongs to a tile of results. There is room for a tile of every block
    and `SPARE` more; when it is full, the tile least pixels stem from goes, but never the newest
    of a block. What stems from a tile that is gone reads the newest one where it is now.

    Its tables stay where they are, from one whole frame to the next: what was recorded of a
    network on blocks reads and writes there (`core/block_graphs.py`).

    Args:
        grid: blocks (gh, gw).
        stride: image pixels per pixel of the origins.
        side: side of a block, in image pixels.

    """

    def __init__(self, grid: tuple[int, int], stride: int, side: int) -> None:
        """Start without tiles."""
        count = grid[0] * grid[1]
        self.grid, self.stride, self.side = grid, stride, side
        self.capacity = count + max(1, round(count * SPARE))
        self._tables: list[_Table] = []
        self._device = torch.device("cpu")

    def _number(self, origins: Origins) -> None:
        """Number the tiles of all blocks row by row."""
        count = self.grid[0] * self.grid[1]
        self._origins = origins
        self._tile_of = np.arange(count)  # of each result's slot
        self._slot_of = np.full(self.capacity, NO_TILE)  # result's slot of each tile
        self._slot_of[:count] = np.arange(count)
        self._newest = np.arange(count)  # tile of each block
        self._forget_lists(np.zeros(0, np.int64))

    def _forget_lists(self, claimed: NDArray[np.int64]) -> None:
        """Begin a frame that computes the blocks of some tiles."""
        self._claimed = claimed
        self._room: dict[int, Tensor] = {}
        # By identity of the pixels, which all operations of a window share; they are held, so
        # that no other tensor can be taken for them.
        self._rows: dict[object, tuple[Tensor | None, Reads]] = {}

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        for table in self._tables:
            yield from table.tensors()
        for _, reads in self._rows.values():
            yield from reads

    def restart(self, planes: Sequence[Tensor], origins: Origins) -> None:
        """Keep the planes of another frame in place of all before.

        Args:
            planes: what a dense network's operations have read, in order.
            origins: where the content of every pixel was computed: in this frame.

        """
        self._number(origins)
        if len(planes) != len(self._tables):
            self._tables = [_Table(self) for _ in planes]
        for table, plane in zip(self._tables, planes, strict=True):
            table.restart(plane)
        self._device = planes[0].device if planes else torch.device("cpu")

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
        self._forget_lists(np.argsort(load, kind="stable")[: len(blocks)])
        gone = self._slot_of[self._claimed]
        self._tile_of[gone[gone != NO_TILE]] = NO_TILE
        self._newest[blocks] = self._claimed

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

    def table(self, plane: Tensor, b: int) -> Tensor:
        """Return room for all tiles of a plane, of b pixels a side and those around."""
        span = b + 2 * MARGIN
        return plane.new_zeros((self.capacity * span * span, plane.shape[1]))

    def cut(self, plane: Tensor, b: int, table: Tensor) -> None:
        """Write a plane into a table, as tiles of b pixels a side and those around."""
        (gh, gw), channels = self.grid, plane.shape[1]
        h, w = plane.shape[-2:]
        span = b + 2 * MARGIN
        beyond = (MARGIN, gw * b - w + MARGIN, MARGIN, gh * b - h + MARGIN)
        wide = functional.pad(plane, beyond, mode="replicate")
        tiles = wide[0].unfold(1, span, b).unfold(2, span, b).permute(1, 2, 3, 4, 0)
        held = table.view(self.capacity, span, span, channels)[: gh * gw]
        held.view(gh, gw, span, span, channels).copy_(tiles)

    def room(self, count: int) -> Tensor:
        """Return the tiles of the last claim, int64 [count]; the last may come again."""
        if count not in self._room:
            again = self._claimed[-1:].repeat(count - len(self._claimed))
            self._room[count] = to_device(np.concatenate((self._claimed, again)), self._device)
        return self._room[count]

    def write(self, table: Tensor, tiles: Tensor, room: Tensor) -> None:
        """Write blocks, [K, C, span, span], into tiles of a table, [K]."""
        rows = as_rows(tiles).view(len(tiles), -1, tiles.shape[1])
        table.view(self.capacity, -1, tiles.shape[1]).index_copy_(0, room, rows)

    def reads(self, pixels: Tensor | None, window: Window) -> Reads:
        """Return what to read of a table for pixels of an operation's plane.

        Args:
            pixels: int64 [k], on the host; None for all.
            window: of the operation.

        """
        key = window if pixels is None else id(pixels)
        if key not in self._rows:
            every = np.arange(window.size[0] * window.size[1])
            found = self._find(every if pixels is None else pixels.numpy(), window)
            reads = Reads(*(to_device(part, self._device) for part in found))
            self._rows[key] = pixels, reads
        return self._rows[key][1]

    def _find(self, pixels: NDArray[np.int64], window: Window) -> Reads:
        if compiling.AVAILABLE:
            return self._find_by_loops(pixels, window)
        at = np.divmod(pixels, window.size[1])
        scale = window.stride / self.stride
        places = self._origins.places_at(*at, window.size, scale)
        b = self.side // window.stride
        tile = self._tile_of[places.slot]
        gone = tile == NO_TILE
        blocks = [here // b for here in at]
        tile = np.where(gone, self._newest[blocks[0] * self.grid[1] + blocks[1]], tile)
        corners = self._origins.corners[places.slot].T / scale
        axes = []
        for here, block, there, corner, length in zip(
            at, blocks, places[1:], corners, window.size, strict=True
        ):
            start = np.where(gone, block * b, corner).astype(np.int64)
            inside = np.where(gone, here - start, there)
            # Beyond the image there is what padding puts there: nothing to be mixed in.
            low, high = np.maximum(-MARGIN, -start), np.minimum(b - 1 + MARGIN, length - 1 - start)
            axes.append(between(inside + MARGIN, low + MARGIN, high + MARGIN))
        row, column = axes
        return reads_around(tile, row, column, b + 2 * MARGIN)

    def _find_by_loops(self, pixels: NDArray[np.int64], window: Window) -> Reads:
        origins, b = self._origins, self.side // window.stride
        rows, shares = np.empty((len(pixels), 4), np.int64), np.empty((len(pixels), 4), np.float32)
        pointing.find(
            threads(),
            pixels,
            window.size,
            window.stride / self.stride,
            b,
            MARGIN,
            origins.slot,
            origins.place,
            origins.corners,
            self._tile_of,
            self._newest,
            self.grid[1],
            rows,
            shares,
        )
        return Reads(torch.from_numpy(rows), torch.from_numpy(shares))


class _Table:
    """What one operation reads, as tiles.

    Args:
        pool: where the tiles of all operations are.

    """

    def __init__(self, pool: FeaturePool) -> None:
        """Start without tiles."""
        self._pool = pool
        self._plane: Tensor | None = None
        self._side = 0  # of a block, in pixels of the plane
        self._table: Tensor | None = None  # [capacity * span * span, C]

    def restart(self, plane: Tensor) -> None:
        """Keep a plane, [1, C, h, w], of a whole frame in place of all before.

        It stays whole until an operation on blocks says what stride it has; the next ones have
        the same.
        """
        table = self._table
        if table is None or (table.shape[1], table.dtype) != (plane.shape[1], plane.dtype):
            self._plane, self._table = plane, None
        else:
            self._pool.cut(plane, self._side, table)

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        yield from (x for x in (self._plane, self._table) if x is not None)

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:
        """Look up where pixels are.

        Raises:
            ModelError: pixels of half the resolution were asked for, as LOW blocks do.

        """
        if halve:
            msg = "LOW blocks cannot be computed beside REUSE blocks that stay in tiles"
            raise ModelError(msg)
        return self._pool.reads(pixels, window)

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:  # noqa: ARG002 - `find` refuses it
        """Return some pixels, [k, C]."""
        return read_rows(self._cut(window), Reads(*found))

    def whole(self, found: Found, window: Window) -> Tensor:
        """Return all pixels, [1, C, h, w]."""
        return self.rows(found, window).view(1, *window.size, -1).permute(0, 3, 1, 2)

    def room(self, count: int) -> Found:
        """Return the tiles of the last claim."""
        return (self._pool.room(count),)

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Keep blocks, [K, C, span, span]."""
        missing = MARGIN - window.before, MARGIN - window.after
        first, last = (max(0, -n) for n in missing)
        span = tiles.shape[-1] - last
        tiles = tiles[..., first:span, first:span]
        if max(missing) > 0:
            more = max(0, missing[0]), max(0, missing[1])
            tiles = functional.pad(tiles, (*more, *more), mode="replicate")
        self._pool.write(self._cut(window), tiles, *room)

    def _cut(self, window: Window) -> Tensor:
        """Return the table."""
        if self._table is None:
            assert self._plane is not None
            self._side = self._pool.side // window.stride
            self._table = self._pool.table(self._plane, self._side)
            self._pool.cut(self._plane, self._side, self._table)
            self._plane = None
        return self._table
