"""What is remembered, compared with the present picture: the ground of every plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from seg_node.core.blocks import block_mean, plane_means
from seg_node.core.mixing import around
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.tiles import as_rows
from seg_node.loops import comparing, compiling
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.origins import Origins

Number = TypeVar("Number", np.float64, np.int64)

COLOURS = 3
"""Red, green and blue of a picture, which follow the logits in tiles of results."""


@dataclass(frozen=True)
class Compared:
    """How far the picture is from what is remembered, and how old and sure that is.

    Attributes:
        change: of the picture, averaged around each pixel, in levels 0..255, float [h, w].
        distortion: of the picture in each block, float64 [gh, gw].
        doubt: 1 - the probability of the remembered class, mean of each block, likewise.
        risk: mean over the pixels of each block of the distortion times the doubt, likewise.
        age_ms: mean of each block, likewise.
        oldest_ms: largest of each block, likewise.

    """

    change: Tensor
    distortion: NDArray[np.float64]
    doubt: NDArray[np.float64]
    risk: NDArray[np.float64]
    age_ms: NDArray[np.float64]
    oldest_ms: NDArray[np.float64]


def compare(
    known: Tensor,
    picture: Tensor,
    valid: Tensor,
    ages_ms: NDArray[np.float64],
    origins: Origins,
) -> Compared:
    """Compare what is remembered with the present picture.

    Args:
        known: logits and the picture that they were made of, where they are now,
            [1, classes + 3, h, w].
        picture: the present one, float32 [3, h, w], levels 0..255.
        valid: where motion is known, bool [h, w].
        ages_ms: of each tile of results.
        origins: the tile that each pixel stems from.

    """
    if compiling.usable(known, picture):
        return _by_loops(known, picture, valid, ages_ms, origins)
    logits, before = known[:, :-COLOURS], known[0, -COLOURS:]
    # The colour that changed most: red in front of green may be as bright as the green.
    difference = (before - picture).abs().amax(0).float()
    distortion = torch.where(valid.to(known.device), difference, UNKNOWN_DISTORTION)
    doubt = 1 - torch.softmax(logits.float(), 1).amax(1)[0]
    # One answer for all: the host waits for it.
    side, ages = origins.side, ages_ms[origins.slot]
    planes = torch.stack((distortion, doubt, distortion * doubt))
    means = plane_means(planes, side).cpu().numpy()
    age_ms, oldest_ms = block_mean(ages, side), block_max(ages, side)
    return Compared(around(distortion), means[0], means[1], means[2], age_ms, oldest_ms)


def _by_loops(
    known: Tensor,
    picture: Tensor,
    valid: Tensor,
    ages_ms: NDArray[np.float64],
    origins: Origins,
) -> Compared:
    change = torch.empty(origins.size)
    means, oldest_ms = np.empty((4, *origins.grid)), np.empty(origins.grid)
    comparing.compare(
        threads(),
        as_rows(known).contiguous().numpy(),
        picture.contiguous().numpy(),
        valid.numpy(),
        np.float32(UNKNOWN_DISTORTION),
        ages_ms,
        origins.slot,
        origins.side,
        change.numpy(),
        means,
        oldest_ms,
    )
    distortion, doubt, risk, age_ms = means
    return Compared(around(change), distortion, doubt, risk, age_ms, oldest_ms)


def block_max(values: NDArray[Number], side: int) -> NDArray[Number]:
    """Return the largest value of each block of a plane [h, w], [gh, gw]."""
    starts = [np.arange(0, length, side) for length in values.shape]
    rows = np.maximum.reduceat(values, starts[0], axis=0)
    return np.asarray(np.maximum.reduceat(rows, starts[1], axis=1))
