"""Start a wide network from a trained narrow one: Net2WiderNet (Chen et al., ICLR 2016).

Every channel is repeated, and what reads a repeated channel shares its weight between the
copies in random, unequal parts: the wide network computes what the narrow one does, and its
copies are free to part ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from torch import nn, Tensor

    from seg_node.nets.swiftnet import SwiftNet


def widen(narrow: SwiftNet, wide: SwiftNet, seed: int) -> None:
    """Give `wide` weights with which it computes what `narrow` does; works in place.

    Raises:
        ModelError: the networks are not the same but for their width.

    """
    source, target = narrow.state_dict(), wide.state_dict()
    if source.keys() != target.keys() or narrow.classes != wide.classes:
        msg = f"cannot widen: {narrow.classes} and {wide.classes} classes, or different layers"
        raise ModelError(msg)
    random = torch.Generator().manual_seed(seed)
    merged = _merge_inputs(narrow, wide)
    for name, value in target.items():
        old = source[name]
        if value.ndim == 4:  # noqa: PLR2004 - a convolution's weight
            inputs = merged if name == "pyramid.merge.0.weight" else repeat(old, value, 1)
            outputs = torch.arange(value.shape[0]) % old.shape[0]
            parts = split_parts(inputs, old.shape[1], random)
            value.copy_(old[outputs][:, inputs] * parts.view(1, -1, 1, 1))
        elif value.ndim == 1:
            value.copy_(old[torch.arange(value.shape[0]) % old.shape[0]])
        else:
            value.copy_(old)


def repeat(old: Tensor, value: Tensor, axis: int) -> Tensor:
    """Return, for every index of `value` on an axis, the index of `old` that it repeats."""
    return torch.arange(value.shape[axis]) % old.shape[axis]


def split_parts(inputs: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Return a share per repeated input; the shares of the copies of one input add up to 1."""
    raw = 0.5 + torch.rand(len(inputs), generator=random)
    sums = torch.zeros(count).index_add(0, inputs, raw)
    return raw / sums[inputs]


def _merge_inputs(narrow: SwiftNet, wide: SwiftNet) -> Tensor:
    """Return which narrow channel each input of the pyramid's merge repeats: group by group."""
    maps = []
    start = 0
    for old, new in zip(_groups(narrow), _groups(wide), strict=True):
        maps.append(start + torch.arange(new) % old)
        start += old
    return torch.cat(maps)


def _groups(net: SwiftNet) -> list[int]:
    """Return the channels of the parts that the pyramid's merge concatenates."""
    convolutions: list[nn.Module] = [net.pyramid.bottleneck, *net.pyramid.branches]
    return [int(next(c.parameters()).shape[0]) for c in convolutions]
