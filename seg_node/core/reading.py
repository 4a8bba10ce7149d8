"""Bilinear reading of tables of tiles: which rows, with which shares."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.transfers import to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Number = TypeVar("Number", np.int64, np.float32)

MARGIN = 1
"""Pixels around a tile that are kept with it: bilinear reading needs one."""


class Between(NamedTuple):
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


def between(
    at: NDArray[np.floating], low: NDArray[np.integer] | int, high: NDArray[np.integer] | int
) -> Between:
    """Return between which pixels places lie; beyond those from low to high they are clamped."""
    inside = np.clip(at, low, high)
    first = np.floor(inside)
    second = np.minimum(first + 1, high)
    return Between(
        first.astype(np.int64), second.astype(np.int64), (inside - first).astype(np.float32)
    )


def reads_around(tile: NDArray[np.int64], y: Between, x: Between, span: int) -> Reads:
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


def read_rows(table: Tensor, reads: Reads) -> Tensor:
    """Return values of a table [rows, C] read bilinearly, [n, C]."""
    return functional.embedding_bag(
        to_device(reads.rows, table.device),
        table,
        mode="sum",
        per_sample_weights=to_device(reads.shares, table.device).to(table.dtype),
    )
