"""Counts floating-point operations by what torch dispatches, apart from our own account."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.tiles import ONEDNN


def flop_counter() -> FlopCounterMode:
    """Return torch's counter, told of the product of matrices that it does not know."""
    more = {torch.ops.mkldnn._linear_pointwise: _linear} if ONEDNN else {}
    return FlopCounterMode(display=False, custom_mapping=more)


def _linear(x: list[int], weight: list[int], *_: object, out_shape: object = None) -> int:  # noqa: ARG001 - torch passes it
    return 2 * x[0] * x[1] * weight[0]
