"""Modules computed in some bins alone, exactly, amid a whole plane of their input.

Bins that lie beside each other are computed together, as rectangles: large convolutions are
faster than small ones, and what the second convolution of a block reads around what is computed
is computed again for fewer of them.
"""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from seg_node.core.deferred import Area, deferred
from seg_node.core.deferring import Deferring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.deferred import Deferred


class Part(NamedTuple):
    """What was computed of a plane: where, and the pixels there, [1, C, rows, columns]."""

    area: Area
    values: Tensor


def compute_bins(
    module: Callable[[Tensor], Tensor], x: Tensor, areas: Sequence[Area]
) -> list[Part]:
    """Compute areas of a module's result, exactly.

    Args:
        module: what it computes, such as `branch` of a residual block.
        x: its whole input, [1, C, h, w].
        areas: of its result, in pixels.

    Returns:
        each of them; those that `module` cannot compute in part are views of the whole.

    """
    with Deferring():
        made = module(deferred(x))
    return parts_of(made, areas)


def parts_of(x: Tensor, areas: Sequence[Area]) -> list[Part]:
    """Compute areas of a feature map [1, C, h, w]."""
    return [Part(area, deferred(x).at(area)) for area in areas]


def runs_in_part(module: Callable[[Tensor], Tensor], x: Tensor) -> Deferred:
    """Return the result of a module, of which any area can be computed alone.

    Args:
        module: what it computes.
        x: its whole input, [1, C, h, w].

    Raises:
        ModelError: it has an operation that needs the whole plane of another's result.

    """
    with Deferring(strict=True):
        made = module(deferred(x))
    return deferred(made)


def areas_of(kept: NDArray[np.bool_], side: int, size: tuple[int, int]) -> list[Area]:
    """Return rectangles that cover bins, each bin once.

    Args:
        kept: bins that are covered, bool [gh, gw].
        side: of a bin, in pixels of the plane.
        size: height and width of the plane; what sticks out is cut.

    """
    by_rows, by_columns = list(_rectangles(kept)), list(_rectangles(kept.T))
    found = by_rows
    if len(by_columns) < len(by_rows):
        found = [_turned(area) for area in by_columns]
    return [
        Area(
            area.top * side,
            area.left * side,
            min(area.bottom * side, size[0]),
            min(area.right * side, size[1]),
        )
        for area in found
    ]


def _turned(area: Area) -> Area:
    return Area(area.left, area.top, area.right, area.bottom)


def _rectangles(kept: NDArray[np.bool_]) -> Iterator[Area]:
    """Yield runs of each row, joined with the same runs of the rows below."""
    open_runs: dict[tuple[int, int], int] = {}
    for row, bins in enumerate((*kept, np.zeros(kept.shape[1], np.bool_))):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], bins, [0]))))
        runs = {(int(first), int(end)) for first, end in edges.reshape(-1, 2)}
        for run in sorted(set(open_runs) - runs):
            yield Area(open_runs.pop(run), run[0], row, run[1])
        for run in runs:
            open_runs.setdefault(run, row)
