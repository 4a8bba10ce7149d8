"""Estimates motion where the image is: its cells are looked for in the earlier one.

After the inverse search of DIS (Kroeger et al., ECCV 2016): at each level of a pyramid, from
coarse to fine, every cell of the image takes the best of a few guesses, then goes down the slope
of its error. All shapes are known before the first image, and nothing is asked of the device on
the way: a GPU computes it without its host. `core.flow.FlowEstimator` is the quicker way on a CPU,
and further from the truth (`benchmarks/results/matching.json`).

The two inner loops, `match` and `spread`, are here in plain torch; `seg_node.kernels.matching` has
to equal them.
"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.types import DataError

if TYPE_CHECKING:
    from torch import Tensor

CELL = 4
"""Side of a cell in pixels, at every level."""

REACH = 2
"""Pixels around a cell that are compared with it."""

STEPS = 8
"""Times that a cell goes down the slope of its error, at every level."""

FLATNESS = 0.1
"""Squared grey levels per pixel that are added to the slopes: without any, content would follow
noise, and cells without content would divide by zero."""

SMOOTHER = 0.3
"""Grey levels by which a cell may be worse off with the median of the motions around it."""

_LEAST_SIDE = 16
"""Images with a shorter side are not halved."""

_MOST_LEVELS = 6

_SPAN = CELL + 2 * REACH


class Matcher(Protocol):
    """The inner loops of the estimate; see `match` and `spread`."""

    def match(
        self, before: Tensor, image: Tensor, guesses: Tensor, margin: float, steps: int
    ) -> Tensor:
        """Return the motion of every cell."""
        ...

    def spread(self, before: Tensor, image: Tensor, cells: Tensor) -> Tensor:
        """Return the motion of every pixel."""
        ...


def estimate_flow(
    before: Tensor, image: Tensor, matcher: Matcher, start: Tensor | None = None
) -> Tensor:
    """Estimate the motion between two grey images.

    Equal images have no motion, exactly; content that moved by whole pixels has that motion,
    exactly, where it is found.

    Args:
        before: the earlier image, float [h, w], 0..255, of any size.
        image: the present one, likewise.
        matcher: what computes the inner loops.
        start: backward flow (x, y) that is tried too, in pixels, float32 [h, w, 2], such as that
            of the frame before: what moved goes on moving.

    Returns:
        backward flow (x, y) in pixels, float32 [h, w, 2], on the images' device.

    Raises:
        DataError: the shapes differ.

    """
    check_images(before, image)
    if start is not None and start.shape != (*image.shape, 2):
        msg = (
            f"start {list(start.shape)} does not fit images {list(image.shape)}: rescale it first"
        )
        raise DataError(msg)
    levels = [(before.contiguous(), image.contiguous())]
    while len(levels) < _MOST_LEVELS and min(levels[-1][0].shape) >= _LEAST_SIDE:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    cells = None
    for level in range(len(levels) - 1, -1, -1):
        old, new = levels[level]
        guesses = _guesses(new, cells, None if start is None else _sampled(start, new, level))
        found = matcher.match(old, new, guesses, 0.0, STEPS)
        cells = matcher.match(old, new, torch.stack((_median(found), found)), SMOOTHER, 0)
    assert cells is not None
    # Whole pixels are compared without interpolation, and are exact where they are right.
    cells = matcher.match(before, image, torch.stack((cells.round(), cells)), 0.0, 0)
    return matcher.spread(before, image, cells)


def grid_of(size: tuple[int, ...]) -> tuple[int, int]:
    """Return how many cells an image [h, w] has on each axis, those that stick out included."""
    return -(-size[0] // CELL), -(-size[1] // CELL)


def match(before: Tensor, image: Tensor, guesses: Tensor, margin: float, steps: int) -> Tensor:
    """Return the best motion of each cell.

    A cell and two pixels around it, 8x8, are compared with where a motion says that they were;
    the error is the mean absolute difference. Outside an image its border is repeated.

    Args:
        before: the earlier image, float [h, w].
        image: the present one, likewise.
        guesses: motions (x, y) in pixels, float32 [n, gh, gw, 2], n >= 1.
        margin: a guess replaces one before it if its error is less by more than this.
        steps: from the best guess, so many steps down the slope of the squared error; the place
            that they lead to is taken if its error is less, and it is at most a cell away.

    Returns:
        float32 [gh, gw, 2].

    """
    patches = _Patches(before, image)
    best, error = guesses[0], patches.error(guesses[0])
    for guess in guesses[1:]:
        other = patches.error(guess)
        better = other < error - margin
        best, error = _where(better, guess, best), torch.where(better, other, error)
    if not steps:
        return best
    flow = best
    for _ in range(steps):
        flow = flow - patches.slope(flow)
    near = (flow - best).abs().amax(-1) <= CELL
    return _where(near & (patches.error(flow) < error), flow, best)


class _Patches:
    """The cells of an image with what is around them, and their slopes."""

    def __init__(self, before: Tensor, image: Tensor) -> None:
        """Cut them out."""
        self._before = before.float()
        plane = image.float()
        rows, columns = grid_of(plane.shape)
        around = torch.arange(-REACH, CELL + REACH, device=image.device)
        self._y = torch.arange(rows, device=image.device)[:, None] * CELL + around
        self._x = torch.arange(columns, device=image.device)[:, None] * CELL + around
        self._pixels = self._cut(plane, 0, 0)
        self._down = (self._cut(plane, 1, 0) - self._cut(plane, -1, 0)) / 2
        self._along = (self._cut(plane, 0, 1) - self._cut(plane, 0, -1)) / 2
        flat = FLATNESS * _SPAN * _SPAN
        self._xx = _summed(self._along * self._along) + flat
        self._yy = _summed(self._down * self._down) + flat
        self._xy = _summed(self._along * self._down)
        self._determinant = self._xx * self._yy - self._xy * self._xy

    def error(self, flow: Tensor) -> Tensor:
        """Return the mean absolute difference of each cell, [gh, gw]."""
        return _summed(self._difference(flow).abs()) / (_SPAN * _SPAN)

    def slope(self, flow: Tensor) -> Tensor:
        """Return the step of Gauss and Newton, to be subtracted, [gh, gw, 2]."""
        difference = self._difference(flow)
        x, y = _summed(self._along * difference), _summed(self._down * difference)
        step_x = (self._yy * x - self._xy * y) / self._determinant
        step_y = (self._xx * y - self._xy * x) / self._determinant
        return torch.stack((step_x, step_y), -1)

    def _difference(self, flow: Tensor) -> Tensor:
        y = self._y[:, None, :, None] + flow[..., 1, None, None]
        x = self._x[None, :, None, :] + flow[..., 0, None, None]
        return _read(self._before, y, x) - self._pixels

    def _cut(self, plane: Tensor, down: int, along: int) -> Tensor:
        """Return the pixels of all cells, moved by whole pixels, [gh, gw, 8, 8]."""
        y = (self._y + down).clamp(0, plane.shape[0] - 1)
        x = (self._x + along).clamp(0, plane.shape[1] - 1)
        return plane[y[:, None, :, None], x[None, :, None, :]]


def spread(before: Tensor, image: Tensor, cells: Tensor) -> Tensor:
    """Return the motion of each pixel: the mean of those of the four cells that reach it.

    They are weighted by how well they explain the pixel, as in DIS: one over the difference, in
    grey levels, at least one.

    Args:
        before: the earlier image, float [h, w].
        image: the present one, likewise.
        cells: motion of each cell, float32 [gh, gw, 2].

    Returns:
        float32 [h, w, 2].

    """
    earlier, present = before.float(), image.float()
    y, x = (torch.arange(length, device=image.device) for length in present.shape)
    (row, other_row), (column, other_column) = (
        _reaching(at, count) for at, count in zip((y, x), cells.shape[:2], strict=True)
    )
    own = cells[row[:, None], column]
    moved = torch.zeros_like(own)
    total = torch.zeros_like(present)
    for above, beside in (
        (row, column),
        (other_row, column),
        (row, other_column),
        (other_row, other_column),
    ):
        flow = cells[above[:, None], beside]
        found = _read(earlier, y[:, None] + flow[..., 1], x + flow[..., 0])
        weight = 1 / (found - present).abs().clamp(min=1.0)
        # Differences from the own one: where all agree, the mean is exact.
        moved = moved + weight[..., None] * (flow - own)
        total = total + weight
    return own + moved / total[..., None]


class TorchMatcher:
    """The inner loops in plain torch, on any device."""

    def match(
        self, before: Tensor, image: Tensor, guesses: Tensor, margin: float, steps: int
    ) -> Tensor:
        """Return the motion of every cell."""
        return match(before, image, guesses, margin, steps)

    def spread(self, before: Tensor, image: Tensor, cells: Tensor) -> Tensor:
        """Return the motion of every pixel."""
        return spread(before, image, cells)


def check_images(before: Tensor, image: Tensor) -> None:
    """Refuse what are not two planes of one size.

    Raises:
        DataError: names both shapes.

    """
    if before.ndim != 2 or before.shape != image.shape:  # noqa: PLR2004 - [h, w]
        msg = (
            f"motion is between two grey images [h, w] of one size, not {list(before.shape)} and "
            f"{list(image.shape)}"
        )
        raise DataError(msg)


def _guesses(image: Tensor, coarser: Tensor | None, start: Tensor | None) -> Tensor:
    """Return what each cell tries: what the cells of the coarser level found, no motion, a start.

    Args:
        image: at this level.
        coarser: motion of the cells of the level before, half as many on each axis.
        start: motion of the cells.

    """
    rows, columns = grid_of(image.shape)
    guesses = []
    if coarser is not None:
        (row, other_row), (column, other_column) = (
            _parents(count, most, image.device)
            for count, most in zip((rows, columns), coarser.shape[:2], strict=True)
        )
        guesses = [
            2 * coarser[above[:, None], beside]
            for above in (row, other_row)
            for beside in (column, other_column)
        ]
    guesses.append(torch.zeros((rows, columns, 2), device=image.device))
    if start is not None:
        guesses.append(start)
    return torch.stack(guesses)


def _parents(count: int, most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the coarser cell that each cell lies in, and the next nearest, on one axis."""
    cell = torch.arange(count, device=device)
    parent = (cell // 2).clamp(max=most - 1)
    return parent, (parent + cell % 2 * 2 - 1).clamp(0, most - 1)


def _reaching(at: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the cell that each pixel lies in, and the other that reaches it, on one axis."""
    cell = at // CELL
    beyond = (at % CELL >= CELL // 2).long() * 2 - 1
    return cell, (cell + beyond).clamp(0, count - 1)


def _sampled(start: Tensor, image: Tensor, level: int) -> Tensor:
    """Return a flow of the finest level in the middle of each cell, in pixels of a level."""
    row, column = (
        ((torch.arange(cells, device=start.device) * CELL + CELL // 2) << level).clamp(
            max=length - 1
        )
        for cells, length in zip(grid_of(image.shape), start.shape[:2], strict=True)
    )
    return start[row[:, None], column] / (1 << level)


def _median(cells: Tensor) -> Tensor:
    """Return the median of the 3x3 cells around each, per axis."""
    wide = functional.pad(cells.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")
    around = wide.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
    return around.median(-1).values[0].permute(1, 2, 0)


def _halved(plane: Tensor) -> Tensor:
    """Average two by two pixels; at odd sides, those that there are."""
    return functional.avg_pool2d(plane[None], 2, ceil_mode=True, count_include_pad=False)[0]


def _read(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read a plane [h, w] bilinearly; its border is repeated outside."""
    height, width = plane.shape
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    above, left = y.floor(), x.floor()
    lower, right = y - above, x - left
    upper_row, left_column = above.long() * width, left.long()
    lower_row = upper_row + width * (above < height - 1)
    right_column = left_column + (left < width - 1)
    pixels = plane.reshape(-1)
    over = (1 - right) * pixels[upper_row + left_column] + right * pixels[upper_row + right_column]
    under = (1 - right) * pixels[lower_row + left_column] + right * pixels[
        lower_row + right_column
    ]
    return (1 - lower) * over + lower * under


def _summed(patches: Tensor) -> Tensor:
    return patches.sum((-2, -1))


def _where(chosen: Tensor, flow: Tensor, other: Tensor) -> Tensor:
    """Return one flow [gh, gw, 2] where chosen [gh, gw], another elsewhere."""
    return torch.where(chosen[..., None], flow, other)
