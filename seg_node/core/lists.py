"""Lists of rows for a network on blocks, of the same length for all grids with as many blocks.

What an operation on blocks reads is looked up on the host, grid by grid. As long as only these
lists, and not their lengths, differ from frame to frame, the launches of a network on so many
blocks are the same every time: they can be recorded with one set of lists, which is overwritten in
place before they are replayed (`core/block_graphs.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.backend import OUTSIDE
from seg_node.core.blocks import SETS
from seg_node.core.tiles import bounded
from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from seg_node.core.background import Found
    from seg_node.core.blocks import BlockLayout, Window

    Make = Callable[[BlockLayout], Found]


class Lists:
    """The lists that operations on blocks have asked for, each made once.

    Args:
        layout: whose lists they are.

    """

    def __init__(self, layout: BlockLayout) -> None:
        """Start without lists."""
        self._layout = layout
        self._made: dict[Hashable, tuple[Make, Found]] = {}

    def get(self, key: Hashable, make: Make) -> Found:
        """Return lists, made if there are none of this key.

        Args:
            key: one key always means the same.
            make: what makes them of a layout; of one length for all with as many blocks.

        """
        if key not in self._made:
            # Of their own: they are overwritten, and a layout keeps its lists.
            self._made[key] = make, tuple(made.clone() for made in make(self._layout))
        return self._made[key][1]

    def fill(self, layout: BlockLayout) -> None:
        """Overwrite all lists with those of another layout, where they are.

        Args:
            layout: with as many blocks of each set.

        """
        self._layout = layout
        for make, kept in self._made.values():
            for there, made in zip(kept, make(layout), strict=True):
                there.copy_(made, non_blocking=True)


def ring(layout: BlockLayout, action: Action, window: Window) -> int:
    """Return how many pixels lie around all blocks of a set: so many may come from elsewhere."""
    b = layout.block_side(action, window.stride)
    span = window.before + b + window.after
    return layout.count(action) * (span * span - b * b)


def numbers(layout: BlockLayout, action: Action, window: Window, *, clamp: bool) -> Tensor:
    """Return the row of every pixel of a window, int32 [K, span, span].

    First come the rows of the set itself. Then there is room for `ring` rows of the other set, if
    the layout has blocks of it, and for as many of the background, if it has REUSE blocks.

    Args:
        layout: where the blocks lie.
        action: the set.
        window: which pixels.
        clamp: whether what lies outside the image is the nearest pixel inside, or `OUTSIDE`.

    """
    rows, count = layout.rows(action, window), layout.count(action)
    found = rows.own.clone()
    first = count * layout.block_side(action, window.stride) ** 2
    other = any(layout.count(of) for of in SETS if of is not action)
    for at, there in ((rows.other_at, other), (rows.plane_at, layout.count(Action.REUSE))):
        found[at] = torch.arange(first, first + len(at), device=at.device)
        first += ring(layout, action, window) if there else 0
    square = found.view(count, 1, rows.span, rows.span)
    bounded(square, layout.beyond(action, window), None if clamp else OUTSIDE)
    return square[:, 0].int()


def inside(layout: BlockLayout, action: Action, window: Window) -> Tensor:
    """Return which pixels of a window lie in the image, bool [K, 1, span, span]."""
    b = layout.block_side(action, window.stride)
    span = window.before + b + window.after
    found = torch.ones(layout.count(action) * span * span, dtype=torch.bool, device=layout.device)
    beyond = layout.beyond(action, window)
    if beyond is not None:
        found[beyond.at] = False
    return found.view(-1, 1, span, span)
