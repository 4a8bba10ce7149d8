"""Tiles of planes: what computed blocks left, to be read where their content is now."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.tiles import as_rows
from seg_node.core.transfers import to_device
from seg_node.core.types import ModelError
from seg_node.loops import compiling, pointing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.background import Found, Plane
    from seg_node.core.blocks import Window
    from seg_node.core.origins import Origins, Places

Number = TypeVar("Number", np.int64, np.float32)

MARGIN = 1
"""Pixels around a tile that are kept with it: bilinear reading needs one."""

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
            pointing.read(table.numpy(), self._span, MARGIN, slot, place, corners, rows.numpy())
        else:
            rows = self.take(self.reads(origins.places()))
        return rows.view(1, *origins.size, -1).permute(0, 3, 1, 2)

    def reads(self, places: Places) -> Reads:
        """Return what to read at places, for all pools of this side."""
        row, column = (_between(at + MARGIN, 0, self._span - 1) for at in (places.y, places.x))
        return _reads(places.slot, row, column, self._span)

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
        pointing.find_within(pixels, size, scale, form, *where, rows, shares)
        return Reads(torch.from_numpy(rows), torch.from_numpy(shares))

    def take(self, reads: Reads) -> Tensor:
        """Return what is read, [n, C]; content beyond a tile is its edge."""
        return _read(self.table, reads)


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


class _Between(NamedTuple):
    """Where places lie between pixels of a tile, on one axis.

    Attributes:
        first: the pixel before, int64 [n].
        second: the pixel after, likewise; the same at an end.
        rest: the rest of the way from the first to the second, 0..1, float32 [n].

    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    rest: NDArray[np.float32]


class Reads(NamedTuple):
    """What to read of tables whose tiles have the same side, bilinearly.

    Attributes:
        rows: four rows each, int64 [n, 4].
        shares: their weights, float32 [n, 4].

    """

    rows: Tensor
    shares: Tensor


def _between(
    at: NDArray[np.floating], low: NDArray[np.integer] | int, high: NDArray[np.integer] | int
) -> _Between:
    """Return between which pixels places lie; beyond those from low to high they are clamped."""
    inside = np.clip(at, low, high)
    first = np.floor(inside)
    second = np.minimum(first + 1, high)
    return _Between(
        first.astype(np.int64), second.astype(np.int64), (inside - first).astype(np.float32)
    )


def _reads(tile: NDArray[np.int64], y: _Between, x: _Between, span: int) -> Reads:
    """Return the rows of a table of tiles, span pixels a side, that lie around places."""
    above, below = ((tile * span + row) * span for row in (y.first, y.second))
    rows = (above + x.first, above + x.second, below + x.first, below + x.second)
    shares = (
        (1 - y.rest) * (1 - x.rest),
        (1 - y.rest) * x.rest,
        y.rest * (1 - x.rest),
        y.rest * x.rest,
    )
    return Reads(*(torch.from_numpy(_side_by_side(parts)) for parts in (rows, shares)))


def _side_by_side(parts: tuple[NDArray[Number], ...]) -> NDArray[Number]:
    """Return arrays that can be broadcast together as columns, [n, parts]."""
    return np.stack(np.broadcast_arrays(*parts), -1).reshape(-1, len(parts))


def _read(table: Tensor, reads: Reads) -> Tensor:
    """Return values of a table [rows, C] read bilinearly, [n, C]."""
    return functional.embedding_bag(
        to_device(reads.rows, table.device),
        table,
        mode="sum",
        per_sample_weights=to_device(reads.shares, table.device).to(table.dtype),
    )


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
            axes.append(_between(inside + MARGIN, low + MARGIN, high + MARGIN))
        row, column = axes
        return _reads(tile, row, column, b + 2 * MARGIN)

    def _find_by_loops(self, pixels: NDArray[np.int64], window: Window) -> Reads:
        origins, b = self._origins, self.side // window.stride
        rows, shares = np.empty((len(pixels), 4), np.int64), np.empty((len(pixels), 4), np.float32)
        pointing.find(
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
        return _read(self._cut(window), Reads(*found))

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
