"""Some channels of a feature map on blocks, as slices, `split` and `chunk` of a tensor do it."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.sparse import BlockTensor


def channels(x: BlockTensor, chosen: slice) -> BlockTensor:
    """Return some channels, in memory of their own."""
    x, form = x.cut(), torch.channels_last
    return x.mapped(lambda action: x.of(action)[:, chosen].contiguous(memory_format=form))


def split_channels(
    x: BlockTensor, size: int | Sequence[int], dim: int = 0
) -> tuple[BlockTensor, ...]:
    """Return parts of the channels, as `torch.split` along 1.

    Raises:
        ModelError: it is to be split along another axis.

    """
    if dim % 4 != 1:
        msg = f"split along {dim} has no block-sparse form; use 1, the channels"
        raise ModelError(msg)
    total = x.shape[1]
    parts = size
    if isinstance(parts, int):
        parts = [min(parts, total - first) for first in range(0, total, parts)]
    ends = accumulate(parts)
    return tuple(
        channels(x, slice(end - part, end)) for part, end in zip(parts, ends, strict=True)
    )


def chunk_channels(x: BlockTensor, chunks: int, dim: int = 0) -> tuple[BlockTensor, ...]:
    """Return at most so many parts of the channels, as `torch.chunk` along 1."""
    return split_channels(x, -(-x.shape[1] // chunks), dim)
