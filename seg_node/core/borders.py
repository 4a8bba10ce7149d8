"""Where classes meet, remembered results are read once for each pixel of the image.

Reading between the pixels of the results smooths them, and enlarging them to the image smooths
them again: a pole is as thin as one of their pixels, and its class is lost. Where a pixel and all
around it have one class, the image's pixels have it, too, however often they were smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.masks import CONFIDENCE_MAX, decide_rows
from seg_node.core.reading import MARGIN
from seg_node.core.transfers import to_device
from seg_node.loops import compiling, deciding
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.masks import Planes
    from seg_node.core.origins import Origins
    from seg_node.core.result_pool import ResultPool

AROUND = 3
"""Pixels of the results, on each axis, that image pixels within the middle one are made of."""

SURE = 0.7
"""Probability from which on a class is taken for that of all image pixels."""


def read_borders(
    planes: Planes, results: ResultPool, origins: Origins, stride: int, classes: int
) -> Planes:
    """Decide the image pixels anew that lie where classes meet and content has moved.

    Args:
        planes: class and its probability times 255 of every image pixel, uint8 [H, W] each; they
            are changed in place.
        results: tiles, of which the first channels are logits.
        origins: the tile and place of every pixel of the results, [h, w].
        stride: image pixels per pixel of the results, on each axis.
        classes: number of classes.

    Returns:
        the same planes.

    """
    labels, confidence = planes
    if compiling.usable(results.table):
        form = stride, classes, MARGIN, math.ceil(SURE * CONFIDENCE_MAX)
        deciding.decide_borders(
            threads(),
            labels.numpy(),
            confidence.numpy(),
            results.table.numpy(),
            results.side + 2 * MARGIN,
            origins.slot,
            origins.place,
            origins.corners,
            form,
        )
        return planes
    meets = uncertain(labels, confidence, stride).cpu().numpy() & origins.moved()
    at = np.nonzero(meets)
    if not len(at[0]):
        return planes
    logits = results.take(results.reads(origins.places_within(at, stride)))[:, :classes]
    label, share = decide_rows(logits)
    size = (labels.shape[0], labels.shape[1])
    kept, *where = (to_device(x, labels.device) for x in _image_pixels(at, stride, size))
    for plane, found in ((labels, label), (confidence, share)):
        plane[tuple(where)] = found[kept]
    return planes


@dataclass(frozen=True)
class Moved:
    """Results in tiles, and where the pixels of the present frame are in them.

    Attributes:
        table: pixels of all tiles, one after the other, [tiles * span * span, C]; the first
            channels are logits.
        span: pixels of a tile on each side, with those around it.
        tile: number of the tile, int32 [h, w]; negative where nothing is to be read.
        y: row in the tile, with those around it, float32 [h, w]; what is beyond is its edge.
        x: column likewise.

    """

    table: Tensor
    span: int
    tile: Tensor
    y: Tensor
    x: Tensor


def moved_results(results: ResultPool, origins: Origins, device: torch.device) -> Moved:
    """Return results with their pointers on the device: nothing is waited for."""
    tile, y, x = origins.pointers()
    where = (to_device(part, device) for part in (tile, y + MARGIN, x + MARGIN))
    return Moved(results.table, results.side + 2 * MARGIN, *where)


def read_tiles(planes: Planes, moved: Moved, stride: int, classes: int) -> Planes:
    """Do what `read_borders` does where the results are, with their pointers there.

    Args:
        planes: see `read_borders`.
        moved: results, and where to read them.
        stride: image pixels per pixel of the results, on each axis.
        classes: number of classes.

    """
    labels, confidence = planes
    meets = uncertain(labels, confidence, stride) & (moved.tile >= 0)
    rows, columns = (torch.arange(n, device=labels.device) for n in labels.shape)
    row, column = (rows // stride)[:, None], columns // stride
    there = torch.nonzero(meets[row, column])
    if not len(there):
        return planes
    down, across = there.T
    at = down // stride, across // stride
    y, x = (
        (part[at] + (inner % stride + 0.5) / stride - 0.5).clamp(0, moved.span - 1)
        for part, inner in ((moved.y, down), (moved.x, across))
    )
    above, left = y.long(), x.long()
    below, right = ((first + 1).clamp(max=moved.span - 1) for first in (above, left))
    base = moved.tile[at].long() * moved.span
    corners = [
        (base + row) * moved.span + column for row in (above, below) for column in (left, right)
    ]
    down_share, across_share = y - above, x - left
    shares = [
        a * b for a in (1 - down_share, down_share) for b in (1 - across_share, across_share)
    ]
    logits = sum(
        share[:, None] * moved.table[corner, :classes].float()
        for share, corner in zip(shares, corners, strict=True)
    )
    label, share = decide_rows(torch.as_tensor(logits))
    labels[down, across], confidence[down, across] = label, share
    return planes


def uncertain(labels: Tensor, confidence: Tensor, stride: int) -> Tensor:
    """Return the pixels of the results within which image pixels may have various classes.

    That is where there is more than one class around, and where the class is not sure: there a
    thin thing may have lost its class altogether.

    Args:
        labels: class of every image pixel, uint8 [H, W].
        confidence: its probability times 255, likewise.
        stride: image pixels per pixel of the results, on each axis.

    Returns:
        bool [h, w].

    """
    rows, columns = (_middles(length, stride).to(labels.device) for length in labels.shape)
    label, share = (plane[rows[:, None], columns] for plane in (labels, confidence))
    ids = label.float()[None]
    highest, lowest = functional.max_pool2d(torch.cat((ids, -ids)), AROUND, 1, AROUND // 2)
    meets: Tensor = (highest != -lowest) | (share < SURE * CONFIDENCE_MAX)
    return meets


def _middles(length: int, stride: int) -> Tensor:
    """Return the image pixel in the middle of each pixel of the results, on one axis."""
    return (torch.arange(-(-length // stride)) * stride + stride // 2).clamp(max=length - 1)


def _image_pixels(
    at: tuple[NDArray[np.intp], ...], stride: int, size: tuple[int, int]
) -> tuple[NDArray[np.intp], ...]:
    """Return which parts of pixels of the results the image has, and their rows and columns."""
    inner = np.arange(stride)
    y, x = (part[:, None] * stride + inner for part in at)
    rows, columns = (part.ravel() for part in np.broadcast_arrays(y[:, :, None], x[:, None, :]))
    kept = np.flatnonzero((rows < size[0]) & (columns < size[1]))
    return kept, rows[kept], columns[kept]
