"""Blocks put back where they lie in the whole plane."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from seg_node.core.background import Shown
from seg_node.core.blocks import BlockLayout, scale_of, scaled, Window
from seg_node.core.tiles import enlarged, halved
from seg_node.core.types import Action

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.sparse import BlockTensor


def scattered(x: BlockTensor, base: Tensor | None, *, smooth: bool) -> Tensor:
    """Put blocks together; see `BlockTensor.combined`."""
    layout = x.layout
    finest = Action.LOW if layout.finest == scale_of(Action.LOW) else Action.HIGH
    b = layout.block_side(finest, x.stride)
    gh, gw = layout.grids.shape[1:]
    canvas = x.high.new_zeros((layout.images, gh, gw, x.high.shape[1], b, b))
    for action in (Action.HIGH, Action.LOW):
        if layout.count(action):
            doubled = action != finest
            tiles = _doubled(x, base, smooth=smooth) if doubled else x.of(action)
            places = x.listed(("places", action), partial(BlockLayout.places, action=action))
            canvas[places] = tiles
    plane = canvas.permute(0, 3, 1, 4, 2, 5).reshape(layout.images, -1, gh * b, gw * b)
    size = scaled(x.full, layout.finest)
    plane = plane[..., : size[0], : size[1]]
    if base is None or not layout.count(Action.REUSE):
        return plane
    stride = x.stride * layout.finest
    (reused,) = x.listed(
        ("reused", stride, size), lambda layout: (layout.where(Action.REUSE, stride, size),)
    )
    return torch.where(reused, base, plane)


def _doubled(x: BlockTensor, base: Tensor | None, *, smooth: bool) -> Tensor:
    """Return the LOW blocks at full resolution."""
    if not smooth:
        return x.low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    window = Window(x.stride, x.full, 1, 1)
    if base is None and x.layout.count(Action.REUSE):
        base = x.low.new_zeros((x.layout.images, x.low.shape[1], *x.full))
    if base is not None and x.layout.background == scale_of(Action.LOW):
        base = halved(base)
    plane = None if base is None else Shown(base)
    return enlarged(x.gathered(Action.LOW, window, None, plane), 2)
