"""What a computed block shows: its new result, mixed with the remembered one.

A network is right about some frames and wrong about the next; where the picture stayed as it was,
two of its results are worth more than one. And a block that is computed amid remembered
surroundings knows a little less than a whole frame: what it lacks there, its memory has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.5
"""Share of the remembered result where nothing changed. No more than half: a class that the
network is sure of now is shown now, whatever was remembered."""

CHANGE = 10.0
"""Levels of change, of 0..255, over which that share falls to 1 / e, and to nothing over three
times as many: even a small share of what was there before would make a new object smaller."""

_END = math.exp(-3.0)


def mixed(new: Tensor, old: Tensor, change: Tensor) -> Tensor:
    """Return the mean of two results, of which the remembered one counts less where more changed.

    Args:
        new: logits of k pixels, [k, C].
        old: logits of what is remembered of them, moved, likewise.
        change: how far the picture is off from that which `old` was computed from, in
            levels 0..255, float [k].

    Returns:
        logits of the mean of both probabilities, [k, C], in the number format of `new`; those of
        `new` themselves where both are the same.

    """
    wide = torch.promote_types(new.dtype, torch.float32)
    share = SHARE * ((torch.exp(-change.to(wide) / CHANGE) - _END) / (1 - _END)).clamp_min(0)
    level = new.to(wide).logsumexp(1, keepdim=True)
    now, before = (logits.to(wide).log_softmax(1) for logits in (new, old))
    mean = torch.logaddexp(now + torch.log1p(-share)[:, None], before + share.log()[:, None])
    return (level + mean).to(new.dtype)
