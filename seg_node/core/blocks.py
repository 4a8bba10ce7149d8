"""Block arithmetic: pixels to blocks and back, and where every feature of a block lies in memory.

A frame is cut into square blocks of B x B pixels, counted from the top left; the last row and
column may stick out of the image. HIGH blocks keep the features of full resolution, LOW blocks
those of half resolution, REUSE blocks keep none. The features of each set lie in memory block
after block, row by row, one row of a matrix [rows, C] for each pixel. So a neighbourhood is a
list of row numbers, whatever sets it spans, and one list serves all layers of a stride.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.types import Action, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

QUANTUM = 16
"""Counts of HIGH blocks are rounded up to a multiple of a sixteenth of all blocks."""

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
        clamp: outside the image the nearest pixel inside is read; otherwise a fixed value.

    """

    stride: int
    size: tuple[int, int]
    before: int = 0
    after: int = 0
    clamp: bool = False


@dataclass(frozen=True)
class Rows:
    """Where the pixels of a window come from, for all blocks of one set, in order.

    Attributes:
        side: pixels on each side of a block with its window.
        own: row of the same set, int64 [n]; some valid row where another source applies.
        other_at: which of the n pixels come from the other set, int64 [m].
        other: their rows in it, int64 [m, 1] (one LOW pixel) or [m, 4] (HIGH pixels to average).
        plane_at: which pixels come from the background, int64 [k].
        plane: their pixels in its plane, counted row by row through all images, int64 [k].
        outside_at: which pixels lie outside the image, int64 [l].

    """

    side: int
    own: Tensor
    other_at: Tensor
    other: Tensor
    plane_at: Tensor
    plane: Tensor
    outside_at: Tensor


@dataclass(eq=False)
class BlockLayout:
    """Where the blocks of a batch of grids lie; makes every list of row numbers once.

    Attributes:
        grids: `Action` per block, uint8 [N, gh, gw].
        side: side B of a block in pixels.
        size: height and width of the image, in pixels.
        background: image pixels per pixel of what REUSE blocks show, at stride 1: 1 or 2.
        device: where the lists of row numbers lie.

    Raises:
        ConfigError: the grid does not fit the image.

    """

    grids: NDArray[np.uint8]
    side: int
    size: tuple[int, int]
    background: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _rows: dict[tuple[Action, Window], Rows] = field(default_factory=dict, repr=False)

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
        self._slots = {
            action: np.cumsum(self.grids == action).reshape(self.grids.shape) - 1
            for action in Action
        }

    @property
    def images(self) -> int:
        """Number of images N."""
        return int(self.grids.shape[0])

    def count(self, action: Action) -> int:
        """Return how many blocks have an action."""
        return len(self._places[action])

    @property
    def finest(self) -> int:
        """Image pixels per pixel of the finest set: 1, or 2 where no block is HIGH.

        A frame without HIGH blocks is the frame at half resolution, and everything that concerns
        the whole frame, such as pooled context, is then done at that resolution.
        """
        return 1 if self.count(Action.HIGH) or not self.count(Action.LOW) else 2

    def places(self, action: Action) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, row and column of each block of a set, int64 [K] each."""
        image, row, column = (self._indices(part) for part in self._places[action].T)
        return image, row, column

    def where(self, action: Action, stride: int, size: tuple[int, int]) -> Tensor:
        """Return which pixels of a plane [h, w] belong to a set's blocks, bool [N, 1, h, w]."""
        blocks = torch.from_numpy(self.grids == action).to(self.device)[:, None]
        b = max(1, self.side // stride)
        return blocks.repeat_interleave(b, 2).repeat_interleave(b, 3)[..., : size[0], : size[1]]

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

    def _make_rows(self, action: Action, window: Window) -> Rows:
        scale = scale_of(action)
        b = self.block_side(action, window.stride)
        size = scaled(window.size, scale)
        places = self._places[action]
        span = np.arange(-window.before, b + window.after)
        image = places[:, 0, None, None]
        y = places[:, 1, None, None] * b + span[:, None]
        x = places[:, 2, None, None] * b + span
        inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
        if window.clamp:
            inside = np.ones_like(inside)
        y, x = y.clip(0, size[0] - 1), x.clip(0, size[1] - 1)
        found = np.where(inside, self.grids[image, y // b, x // b].astype(np.int64), OUTSIDE)
        own = np.where(found == action, self._row_of(action, image, y, x, b), 0)
        other, at = self._other_rows(action, window, (found, image, y, x))
        plane_at = np.flatnonzero(found == Action.REUSE)
        coarser = max(1, self.background // scale)
        plane_size = scaled(size, coarser)
        plane = (image * plane_size[0] + y // coarser) * plane_size[1] + x // coarser
        return Rows(
            span.size,
            self._indices(own),
            self._indices(at),
            self._indices(other),
            self._indices(plane_at),
            self._indices(plane.ravel()[plane_at]),
            self._indices(np.flatnonzero(found == OUTSIDE)),
        )

    def _other_rows(
        self, action: Action, window: Window, pixels: tuple[NDArray[np.int64], ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows [m, 1 or 4] in the other set, and which pixels they are for, [m]."""
        found, image, y, x = pixels
        other = Action.LOW if action == Action.HIGH else Action.HIGH
        at = np.flatnonzero(found == other)
        image, y, x = (np.broadcast_to(a, found.shape).ravel()[at] for a in (image, y, x))
        if not len(at):
            return np.empty((0, 1), np.int64), at
        b = self.block_side(other, window.stride)
        if other == Action.LOW:
            return self._row_of(other, image, y // 2, x // 2, b)[:, None], at
        # The four pixels that a LOW pixel covers; at an odd border the last one counts twice.
        corners = [
            self._row_of(
                other,
                image,
                (2 * y + dy).clip(max=window.size[0] - 1),
                (2 * x + dx).clip(max=window.size[1] - 1),
                b,
            )
            for dy in (0, 1)
            for dx in (0, 1)
        ]
        return np.stack(corners, 1), at

    def _row_of(
        self,
        action: Action,
        image: NDArray[np.int64],
        y: NDArray[np.int64],
        x: NDArray[np.int64],
        b: int,
    ) -> NDArray[np.int64]:
        """Return the row of a pixel in a set's matrix, if its block belongs to the set."""
        slot: NDArray[np.int64] = self._slots[action][image, y // b, x // b]
        return (slot * b + y % b) * b + x % b

    def _indices(self, values: NDArray[np.int64]) -> Tensor:
        flat = values if values.ndim == 2 else values.ravel()  # noqa: PLR2004 - [m, 4] stays
        return torch.from_numpy(np.ascontiguousarray(flat, np.int64)).to(self.device)


def scale_of(action: Action) -> int:
    """Return image pixels per pixel of a set at stride 1: 1 for HIGH, 2 for LOW."""
    return 2 if action == Action.LOW else 1


def scaled(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Return a size divided by a scale, rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)
