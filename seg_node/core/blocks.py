"""Block arithmetic: pixels to blocks and back, and where every feature of a block lies in memory.

A frame is cut into square blocks of B x B pixels, counted from the top left; the last row and
column may stick out of the image. HIGH blocks keep the features of full resolution, LOW blocks
those of half resolution, REUSE blocks keep none. The features of each set lie in memory block
after block, row by row, one row of a matrix [rows, C] for each pixel. So a neighbourhood is a
list of row numbers, whatever sets it spans, and one list serves all layers of a stride.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.transfers import to_device
from seg_node.core.types import Action, ConfigError
from seg_node.loops import compiling, surroundings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

QUANTUM = 16
"""Counts of HIGH blocks are rounded up to a multiple of a sixteenth of all blocks."""

SETS = (Action.HIGH, Action.LOW)
"""The sets of blocks that are computed."""

OUTSIDE = -1
"""In place of an action: the pixel lies outside the image."""


def grid_shape(height: int, width: int, side: int) -> tuple[int, int]:
    """Return blocks (gh, gw) of an image; the last row and column may stick out."""
    return -(-height // side), -(-width // side)


def to_pixels(
    values: NDArray[np.generic], side: int, size: tuple[int, int]
) -> NDArray[np.generic]:
    """Repeat one value per block, [gh, gw], for its pixels, [H, W]."""
    return values.repeat(side, axis=0).repeat(side, axis=1)[: size[0], : size[1]]


def block_mean(pixels: NDArray[np.floating], side: int) -> NDArray[np.float64]:
    """Average values of pixels [H, W] over each block, [gh, gw]; parts outside do not count."""
    starts = [np.arange(0, length, side) for length in pixels.shape]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), starts[0], 0), starts[1], 1)
    rows, columns = (
        np.diff(np.append(at, length)) for at, length in zip(starts, pixels.shape, strict=True)
    )
    mean: NDArray[np.float64] = sums / np.outer(rows, columns)
    return mean


def plane_means(planes: Tensor, side: int) -> Tensor:
    """Average planes [n, h, w] over each block, where they lie, float64 [n, gh, gw].

    As `block_mean` does.
    """
    return functional.avg_pool2d(planes.double(), side, ceil_mode=True, count_include_pad=False)


def dilate(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the eight neighbours of every wanted block, bool [gh, gw]."""
    wide = np.pad(wanted, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    grown: NDArray[np.bool_] = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return grown


def quantised_count(count: int, total: int) -> int:
    """Round a number of blocks up to a multiple of a sixteenth of all, never beyond all."""
    quantum = max(1, total // QUANTUM)
    return min(total, -(-count // quantum) * quantum)


def quantise(wanted: NDArray[np.bool_], score: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Add the best other blocks until their count is quantised, so that few shapes occur.

    Args:
        wanted: blocks that will be kept whatever happens, bool [gh, gw].
        score: which block to add first: the highest, float [gh, gw].

    """
    extra = quantised_count(int(wanted.sum()), wanted.size) - int(wanted.sum())
    others = np.flatnonzero(~wanted)
    best = others[np.argsort(score.flat[others], kind="stable")[::-1]]
    chosen: NDArray[np.bool_] = wanted.copy()
    chosen.flat[best[:extra]] = True
    return chosen


@dataclass(frozen=True)
class Window:
    """Which pixels around the pixels of a set an operation reads.

    Attributes:
        stride: image pixels per feature pixel at full resolution.
        size: height and width of the whole plane, in feature pixels of full resolution.
        before: pixels read above and left of each block.
        after: pixels read below and right of each block.

    """

    stride: int
    size: tuple[int, int]
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Rows:
    """Where the pixels of a window come from, for all blocks of one set, in order.

    Pixels outside the image have no source; `Beyond` says where they are.

    Attributes:
        span: pixels on each side of a block with its window.
        own: row of the same set, int64 [n]; 0 where another source applies.
        other_at: which of the n pixels come from the other set, int64 [m].
        other: their rows in it, int64 [m, 1] (one LOW pixel) or [m, 4] (HIGH pixels to average).
        plane_at: which pixels come from the background, int64 [k].
        plane: their pixels in its plane, counted row by row through all images, int64 [k]; on the
            host, where it is decided what they show.

    """

    span: int
    own: Tensor
    other_at: Tensor
    other: Tensor
    plane_at: Tensor
    plane: Tensor


@dataclass(frozen=True)
class Beyond:
    """Pixels of the windows of a set that lie outside the image.

    Attributes:
        at: which pixels, counted through the windows of all blocks, int64 [m].
        nearest: the pixel inside the image that is nearest to each, likewise.

    """

    at: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class _Ring:
    """The pixels of a window that belong to other blocks: the same for every block.

    Attributes:
        at: their positions in the window, int64 [r].
        inner: row of each position of the window within the block itself, 0 in the ring, int64
            [span * span].
        neighbour: number of the block that each belongs to, among (2 * reach + 1) ** 2, int64 [r].
        y: row within that block, int64 [r].
        x: column within that block, int64 [r].
        reach: how many blocks away the farthest is.

    """

    at: NDArray[np.int64]
    inner: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    reach: int


@lru_cache(maxsize=256)
def _ring(b: int, before: int, after: int) -> _Ring:
    """Return the ring of a window around blocks of b pixels a side."""
    span = np.arange(-before, b + after)
    y, x = np.repeat(span, span.size), np.tile(span, span.size)
    inside = (y >= 0) & (y < b) & (x >= 0) & (x < b)
    at, inner = np.flatnonzero(~inside), np.where(inside, y * b + x, 0)
    reach = -(-max(before, after) // b)
    neighbour = (y // b + reach) * (2 * reach + 1) + x // b + reach
    return _Ring(at, inner, neighbour[at], (y % b)[at], (x % b)[at], reach)


def _looked_up(
    actions: NDArray[np.int64],
    slots: NDArray[np.int64],
    ring: _Ring,
    b: int,
    sets: tuple[Action, Action],
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
    """Return rows of the set itself, [K, span * span], and (block, index) of all others."""
    own = np.empty((len(actions), len(ring.inner)), np.int64)
    others, planes = np.empty((2, 2, len(actions) * len(ring.at)), np.int64)
    counts = np.empty(2, np.int64)
    parts = ring.at, ring.neighbour, ring.y, ring.x, ring.inner
    kinds = int(sets[0]), int(sets[1]), int(Action.REUSE)
    surroundings.around(actions, slots, parts, b, kinds, own, others, planes, counts)
    return own, tuple(others[:, : counts[0]]), tuple(planes[:, : counts[1]])


@dataclass(eq=False)
class BlockLayout:
    """Where the blocks of a batch of grids lie; makes every list of row numbers once.

    Attributes:
        grids: `Action` per block, uint8 [N, gh, gw].
        side: side B of a block in pixels.
        size: height and width of the image, in pixels.
        background: image pixels per pixel of what REUSE blocks show, at stride 1: 1 or 2.
        device: where the lists of row numbers lie.
        buckets: the number of blocks of a set is one of so many, for which the last is repeated:
            so few shapes occur; 0 for any number.

    Raises:
        ConfigError: the grid does not fit the image.

    """

    grids: NDArray[np.uint8]
    side: int
    size: tuple[int, int]
    background: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    buckets: int = 0
    _rows: dict[tuple[Action, Window], Rows] = field(default_factory=dict, repr=False)
    _beyond: dict[tuple[Action, Window], Beyond | None] = field(default_factory=dict, repr=False)
    _pixels: dict[tuple[Action, Window], Tensor] = field(default_factory=dict, repr=False)
    _around: dict[tuple[Action, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        """Check the grid and number the blocks of each set."""
        expected = grid_shape(*self.size, self.side)
        if self.grids.ndim != 3 or self.grids.shape[1:] != expected:  # noqa: PLR2004 - N, gh, gw
            msg = (
                f"the grid is {list(self.grids.shape)}, but an image of {self.size} (height, "
                f"width) in blocks of {self.side} pixels needs [N, {expected[0]}, {expected[1]}]"
            )
            raise ConfigError(msg)
        if not np.isin(self.grids, list(Action)).all():
            msg = f"the grid holds {np.unique(self.grids)}; actions are 0, 1 and 2"
            raise ConfigError(msg)
        # Each set's blocks, [K, 3] as (image, row, column); and back to their number, [N, gh, gw].
        self._places = {action: np.argwhere(self.grids == action) for action in Action}
        self._places |= {action: self._bucket(self._places[action]) for action in SETS}
        self._slots = {
            action: np.cumsum(self.grids == action).reshape(self.grids.shape) - 1
            for action in Action
        }

    def _bucket(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Repeat the last place until there are as many as in one of the buckets."""
        if not self.buckets or not len(places):
            return places
        step = -(-self.grids.size // self.buckets)
        count = min(self.grids.size, -(-len(places) // step) * step)
        return np.concatenate((places, places[-1:].repeat(count - len(places), 0)))

    @property
    def images(self) -> int:
        """Number of images N."""
        return int(self.grids.shape[0])

    def count(self, action: Action) -> int:
        """Return how many blocks have an action; with those that are repeated."""
        return len(self._places[action])

    @property
    def finest(self) -> int:
        """Image pixels per pixel of the finest set: 1, or 2 where no block is HIGH.

        A frame without HIGH blocks is the frame at half resolution, and everything that concerns
        the whole frame, such as pooled context, is then done at that resolution.
        """
        return 1 if self.count(Action.HIGH) or not self.count(Action.LOW) else 2

    def places(self, action: Action) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, row and column of each block of a set, int64 [K] each.

        Repeated ones are at the end.
        """
        image, row, column = (self._indices(part) for part in self._places[action].T)
        return image, row, column

    def where(self, action: Action, stride: int, size: tuple[int, int]) -> Tensor:
        """Return which pixels of a plane [h, w] belong to a set's blocks, bool [N, 1, h, w]."""
        blocks = to_device(self.grids == action, self.device)[:, None]
        b = max(1, self.side // stride)
        return blocks.repeat_interleave(b, 2).repeat_interleave(b, 3)[..., : size[0], : size[1]]

    def inside(self, action: Action, stride: int, size: tuple[int, int]) -> Tensor:
        """Return the pixels of a plane [h, w] that belong to a set's blocks, int64 [n].

        They are counted row by row through all images.
        """
        marks = [
            to_pixels(grid == action, max(1, self.side // stride), size) for grid in self.grids
        ]
        return self._indices(np.flatnonzero(np.stack(marks)))

    def block_side(self, action: Action, stride: int) -> int:
        """Return pixels on each side of a block of a set at a stride.

        Raises:
            ConfigError: the block is not a whole number of feature pixels.

        """
        step = stride * scale_of(action)
        if self.side % step:
            msg = (
                f"block_size is {self.side}, but {action.name} blocks of this network need a "
                f"multiple of {step} pixels"
            )
            raise ConfigError(msg)
        return self.side // step

    def rows(self, action: Action, window: Window) -> Rows:
        """Return where the pixels of a window come from; the same list for every layer."""
        key = (action, window)
        if key not in self._rows:
            self._rows[key] = self._make_rows(action, window)
        return self._rows[key]

    def pixels(self, action: Action, window: Window) -> Tensor:
        """Return which pixels of a whole plane the windows of a set cover, block after block.

        Returns:
            int64 [K * span * span], counted row by row through all images; in place of those
            outside the image the nearest inside.

        """
        key = (action, window)
        if key not in self._pixels:
            b = self.block_side(action, window.stride)
            size = scaled(window.size, scale_of(action))
            image, *start = self._places[action].T * np.array([[1], [b], [b]])
            span = np.arange(-window.before, b + window.after)
            y, x = (
                (at[:, None] + span).clip(0, side - 1)
                for at, side in zip(start, size, strict=True)
            )
            rows = image[:, None] * size[0] + y
            self._pixels[key] = self._indices((rows[:, :, None] * size[1] + x[:, None]).ravel())
        return self._pixels[key]

    def beyond(self, action: Action, window: Window) -> Beyond | None:
        """Return which pixels of the windows of a set lie outside the image; None if none do."""
        key = (action, window)
        if key not in self._beyond:
            self._beyond[key] = self._make_beyond(action, window)
        return self._beyond[key]

    def _make_beyond(self, action: Action, window: Window) -> Beyond | None:
        b = self.block_side(action, window.stride)
        span = window.before + b + window.after
        size = np.array(scaled(window.size, scale_of(action)))
        start = self._places[action][:, 1:] * b - window.before  # [K, 2]
        first, last = np.maximum(0, -start), np.minimum(span, size - start) - 1
        (out,) = np.nonzero((first > 0).any(1) | (last < span - 1).any(1))
        if not len(out):
            return None
        if compiling.AVAILABLE:
            kept = np.maximum(first, last) - first + 1
            count = len(first) * span**2 - int(kept.prod(1).sum())
            at, near = np.empty(count, np.int64), np.empty(count, np.int64)
            surroundings.outside(first, last, span, at, near)
            return Beyond(self._indices(at), self._indices(near))
        # The nearest row and column inside, for each of those of the window: int64 [m, 2, span].
        inside = np.arange(span).clip(first[out, :, None], np.maximum(first, last)[out, :, None])
        nearest = inside[:, 0, :, None] * span + inside[:, 1, None, :]
        own = np.arange(span * span).reshape(span, span)
        block, row, column = np.nonzero(nearest != own)
        base = out[block] * (span * span)
        at, near = base + own[row, column], base + nearest[block, row, column]
        return Beyond(self._indices(at), self._indices(near))

    def _make_rows(self, action: Action, window: Window) -> Rows:
        """Look up the pixels around the blocks; those inside are where they are."""
        b = self.block_side(action, window.stride)
        ring = _ring(b, window.before, window.after)
        actions, slots = self._neighbours(action, ring.reach)
        other = Action.LOW if action == Action.HIGH else Action.HIGH
        if compiling.AVAILABLE:
            own, from_other, from_plane = _looked_up(actions, slots, ring, b, (action, other))
        else:
            found, slot = actions[:, ring.neighbour], slots[:, ring.neighbour]
            own = ring.inner + np.arange(len(found))[:, None] * (b * b)
            own[:, ring.at] = np.where(found == action, slot * (b * b) + ring.y * b + ring.x, 0)
            from_other, from_plane = (np.nonzero(found == kind) for kind in (other, Action.REUSE))
        return Rows(
            window.before + b + window.after,
            self._indices(own.ravel()),
            self._indices(from_other[0] * own.shape[1] + ring.at[from_other[1]]),
            self._indices(self._other_rows(action, window, ring, from_other)),
            self._indices(from_plane[0] * own.shape[1] + ring.at[from_plane[1]]),
            torch.from_numpy(self._plane_pixels(action, window, ring, from_plane)),
        )

    def _neighbours(
        self, action: Action, reach: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return action and number within its set of the blocks around each block of a set.

        Returns:
            int64 [K, (2 * reach + 1) ** 2] each; `OUTSIDE` is the action beyond the grid.

        """
        key = (action, reach)
        if key not in self._around:
            numbers = np.select([self.grids == a for a in SETS], [self._slots[a] for a in SETS])
            margin = ((0, 0), (reach, reach), (reach, reach))
            actions = np.pad(self.grids.astype(np.int64), margin, constant_values=OUTSIDE)
            image, row, column = self._places[action].T[:, :, None]
            steps = np.arange(2 * reach + 1)
            y = row + np.repeat(steps, steps.size)
            x = column + np.tile(steps, steps.size)
            self._around[key] = actions[image, y, x], np.pad(numbers, margin)[image, y, x]
        return self._around[key]

    def _other_rows(
        self,
        action: Action,
        window: Window,
        ring: _Ring,
        pixels: tuple[NDArray[np.intp], ...],
    ) -> NDArray[np.int64]:
        """Return rows [m, 1 or 4] in the other set, for pixels of the ring (block, index) [m]."""
        if not len(pixels[0]):
            return np.empty((0, 1 if action == Action.HIGH else 4), np.int64)
        block, index = pixels
        _, slots = self._neighbours(action, ring.reach)
        slot, y, x = slots[block, ring.neighbour[index]], ring.y[index], ring.x[index]
        if action == Action.HIGH:
            b = self.block_side(Action.LOW, window.stride)
            return ((slot * b + y // 2) * b + x // 2)[:, None]
        # The four pixels that a LOW pixel covers; at an odd border the last one counts twice.
        b = self.block_side(Action.HIGH, window.stride)
        places = self._places[Action.HIGH][slot]
        last_y = window.size[0] - 1 - places[:, 1] * b
        last_x = window.size[1] - 1 - places[:, 2] * b
        corners = [
            (slot * b + np.minimum(2 * y + dy, last_y)) * b + np.minimum(2 * x + dx, last_x)
            for dy in (0, 1)
            for dx in (0, 1)
        ]
        # Pixels beyond the image are never used, but their rows must exist.
        return np.stack(corners, 1).clip(0)

    def _plane_pixels(
        self,
        action: Action,
        window: Window,
        ring: _Ring,
        pixels: tuple[NDArray[np.intp], ...],
    ) -> NDArray[np.int64]:
        """Return pixels [m] of the background, for pixels of the ring (block, index) [m]."""
        block, index = pixels
        b = self.block_side(action, window.stride)
        span = window.before + b + window.after
        scale = scale_of(action)
        coarser = max(1, self.background // scale)
        size = scaled(window.size, scale)
        plane = scaled(size, coarser)
        image, row, column = self._places[action][block].T
        y = row * b + ring.at[index] // span - window.before
        x = column * b + ring.at[index] % span - window.before
        y, x = np.minimum(y, size[0] - 1) // coarser, np.minimum(x, size[1] - 1) // coarser
        pixel: NDArray[np.int64] = (image * plane[0] + y) * plane[1] + x
        return pixel

    def _indices(self, values: NDArray[np.int64]) -> Tensor:
        return to_device(np.ascontiguousarray(values, np.int64), self.device)


def scale_of(action: Action) -> int:
    """Return image pixels per pixel of a set at stride 1: 1 for HIGH, 2 for LOW."""
    return 2 if action == Action.LOW else 1


def scaled(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Return a size divided by a scale, rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)
