"""What a computed block shows: its new result, mixed with the remembered one.

A network is right about some frames and wrong about the next; where the picture stayed as it was,
two of its results are worth more than one. And a block that is computed amid remembered
surroundings knows a little less than a whole frame, most of all at its rim: what it lacks there,
its memory has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SHARE = 0.5
"""Share of the remembered result where nothing changed. No more than half: a class that the
network is sure of now is shown now, whatever was remembered."""

RIM_SHARE = 0.75
"""The same beside pixels that are not computed, whose features are remembered ones. What is sure
now is shown there, too, from 4 levels of change on."""

RIM = 8.0
"""Pixels of the results over which what that is more than `SHARE` falls to 1 / e."""

CHANGE = 10.0
"""Levels of change, of 0..255, over which that share falls to 1 / e, and to nothing over three
times as many: even a small share of what was there before would make a new object smaller."""

AROUND = 3
"""Pixels of the results, on each axis, over which the change of the picture is averaged."""

_END = math.exp(-3.0)


def mixed(new: Tensor, old: Tensor, change: Tensor, share: float | Tensor = SHARE) -> Tensor:
    """Return the mean of two results, of which the remembered one counts less where more changed.

    Args:
        new: logits of k pixels, [k, C].
        old: logits of what is remembered of them, moved, likewise.
        change: how far the picture is off from that which `old` was computed from, in
            levels 0..255, float [k].
        share: of the remembered one where nothing changed, 0..1; one, or one for each pixel [k].

    Returns:
        logits of the mean of both probabilities, [k, C], in the number format of `new`; those of
        `new` themselves where both are the same, and those of `old`, bit for bit, where the
        share is 1 and nothing changed.

    """
    wide = torch.promote_types(new.dtype, torch.float32)
    fading = ((torch.exp(-change.to(wide) / CHANGE) - _END) / (1 - _END)).clamp_min(0)
    part = share * fading
    # Class by class, not pixel by pixel: rows of a dozen numbers are slow to sum.
    fresh, known = (logits.to(wide).t().contiguous() for logits in (new, old))
    now, before = fresh.log_softmax(0), known.log_softmax(0)
    mean = fresh.logsumexp(0) + torch.logaddexp(now + torch.log1p(-part), before + part.log())
    return torch.where(part == 1, known, mean).t().to(new.dtype)


def shares(computed: NDArray[np.generic]) -> Tensor:
    """Return the share of the remembered result by how near what is not computed lies.

    Args:
        computed: which pixels were, bool [h, w]; some were not.

    Returns:
        float32 [h, w]: `RIM_SHARE` beside pixels that were not, `SHARE` far from them.

    """
    inside = np.ascontiguousarray(computed, np.uint8)
    away = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = SHARE + (RIM_SHARE - SHARE) * np.exp((1 - away) / np.float32(RIM))
    return torch.from_numpy(np.asarray(share, np.float32))


def around(plane: Tensor) -> Tensor:
    """Average a plane [h, w] over the pixels around each; it is mirrored at its border."""
    if plane.device.type == "cpu" and plane.dtype == torch.float32:
        near = cv2.blur(plane.numpy(), (AROUND, AROUND), borderType=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(near)
    for axis, length in enumerate(plane.shape):
        at = torch.arange(-(AROUND // 2), length + AROUND // 2, device=plane.device)
        at = (length - 1 - (length - 1 - at.abs()).abs()).clamp(min=0)
        plane = plane.index_select(axis, at)
    return functional.avg_pool2d(plane[None], AROUND, 1)[0]
