"""Blocks and the pixels around them: gathered from their set, the other set or a background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.blocks import scale_of
from seg_node.core.tiles import as_rows, bounded, filled, none_like
from seg_node.core.types import Action, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.background import Found, Plane
    from seg_node.core.blocks import BlockLayout, Window
    from seg_node.core.sparse import BlockTensor


def cut_out(x: BlockTensor, action: Action, window: Window, outside: float | None = 0.0) -> Tensor:
    """Cut the blocks of one set out of its uncut plane, and do what is pending to their pixels."""
    plane, layout = x.of(action), x.layout
    if not layout.count(action):
        return done(x, none_like(plane))
    span = window.before + layout.block_side(action, window.stride) + window.after
    rows = as_rows(plane).index_select(0, layout.pixels(action, window))
    cut = done(x, rows.view(layout.count(action), span, span, -1).permute(0, 3, 1, 2))
    if cut.requires_grad:  # a step may need its result for its gradient
        cut = cut.clone()
    return bounded(cut, layout.beyond(action, window), outside)


def done(x: BlockTensor, pixels: Tensor) -> Tensor:
    """Do what is pending."""
    for step in x.pending:
        pixels = step(pixels)
    return pixels


def gathered(
    x: BlockTensor, action: Action, window: Window, outside: float | None, plane: Plane | None
) -> Tensor:
    """Gather the pixels of a window around each block of one set.

    Args:
        x: the blocks of both sets.
        action: the set.
        window: which pixels.
        outside: value outside the image; None for that of the nearest pixel inside.
        plane: what REUSE blocks show.

    """
    tiles = x.of(action)
    if not tiles.shape[0]:
        return none_like(tiles)
    rows = x.layout.rows(action, window)
    out = as_rows(tiles).index_select(0, rows.own)
    if rows.other_at.shape[0]:
        out.index_copy_(0, rows.other_at, other_rows(x, action, rows.other))
    if rows.plane_at.shape[0]:
        shown = plane_rows(x, action, window, plane)
        out.index_copy_(0, rows.plane_at, shown.to(out.dtype))
    around = out.view(tiles.shape[0], rows.span, rows.span, -1).permute(0, 3, 1, 2)
    return bounded(around, x.layout.beyond(action, window), outside)


def other_rows(x: BlockTensor, action: Action, rows: Tensor) -> Tensor:
    """Return pixels of the other set, averaged over those that fall into one pixel."""
    other = as_rows(x.of(Action.LOW if action == Action.HIGH else Action.HIGH))
    found = other.index_select(0, rows.flatten())
    return found if rows.shape[1] == 1 else found.view(*rows.shape, -1).mean(1)


def plane_rows(
    x: BlockTensor, action: Action, window: Window, plane: Plane | None, length: int | None = None
) -> Tensor:
    """Return the pixels of a window that the background shows.

    Args:
        x: the blocks of both sets.
        action: the set.
        window: which pixels.
        plane: what REUSE blocks show.
        length: rows to return, where there may be some behind that nobody reads; None for none.

    Returns:
        [k, C] or [length, C].

    """
    if plane is None:
        msg = "the grid has REUSE blocks, but there is no background for them"
        raise ModelError(msg)
    halve = scale_of(action) > x.layout.background

    def find(layout: BlockLayout) -> Found:
        found = plane.find(layout.rows(action, window).plane, window, halve=halve)
        return found if length is None else tuple(filled(part, length) for part in found)

    return plane.rows(x.listed(("shown", action, window), find), window, halve=halve)
