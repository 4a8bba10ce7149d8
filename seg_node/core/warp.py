"""Moves features, flows and pictures by backward flow: the one place that knows how.

The convention, everywhere: what is at pixel p of the present plane was at p + flow(p) of the
earlier one, flow being (x, y) in pixels of that plane. Pixel centres lie at whole coordinates and
the corner pixels of planes of different sizes lie on each other (`align_corners=True`): pixel 3 of
a row of 7 is pixel 6 of a row of 13, and a flow of 1 there is a flow of 2 here.

Outside the earlier plane its border is repeated. Zeros there, as in AR-Seg, would be features that
no network has seen; the border scores higher at every distance, by 0.1 points of mIoU on CamVid
and 0.4 to 1.7 on the street (`benchmarks/results/motion_sources.json`).

torch's own `grid_sample` is not used: its coordinates from -1 to 1 are rounded, so that zero flow
is not the identity, and it is made for planes of one channel after the other. Here a plane is a
matrix of rows, one a pixel, and four weighted rows are added for each pixel: by `embedding_bag`
or, where Numba is installed, by a loop. Either reads `channels_last` features as they lie.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional

from seg_node.core.types import DataError
from seg_node.loops import compiling, pointing, warping
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Move features by backward flow: pixel p of the result is features(p + flow(p)), bilinearly.

    Zero flow returns the same values, bit for bit. Gradients flow into both arguments.

    Args:
        features: float [N, C, h, w]; quick where it is `channels_last`.
        flow: (x, y) in pixels of `features`, float32 [N, h, w, 2].

    Returns:
        float [N, C, h, w], `channels_last`, of the type of `features`.

    Raises:
        DataError: the two do not fit each other.

    """
    n, c, h, w = features.shape
    if flow.shape != (n, h, w, 2):
        msg = (
            f"flow {list(flow.shape)} does not fit features {list(features.shape)}: rescale it to "
            f"{[n, h, w, 2]} first"
        )
        raise DataError(msg)
    # In another layout sums would be slower, and rounded otherwise.
    table = features.permute(0, 2, 3, 1).reshape(-1, c).contiguous()
    if compiling.usable(table, flow):
        moved = torch.empty_like(table)
        for one in range(n):
            part = slice(one * h * w, (one + 1) * h * w)
            vectors = flow[one].contiguous().numpy()
            warping.warp(threads(), table[part].numpy(), vectors, moved[part].numpy())
        return moved.view(n, h, w, c).permute(0, 3, 1, 2)
    left, right, x = _neighbours(flow[..., 0], torch.arange(w, device=flow.device), w)
    above, below, y = _neighbours(flow[..., 1], torch.arange(h, device=flow.device)[:, None], h)
    start = torch.arange(n, device=flow.device)[:, None, None] * (h * w)
    above, below = start + above * w, start + below * w
    rows = torch.stack((above + left, above + right, below + left, below + right), -1)
    shares = torch.stack(((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x), -1)
    moved = functional.embedding_bag(
        rows.view(-1, 4),
        table,
        mode="sum",
        per_sample_weights=shares.view(-1, 4).to(features.dtype),
    )
    return moved.view(n, h, w, c).permute(0, 3, 1, 2)


def move(features: Tensor, flow: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Move features by a flow of any pixel grid.

    Args:
        features: float [N, C, h, w].
        flow: (x, y) in pixels of its own grid, float32 [N, H, W, 2].
        valid: where it is known, bool [N, H, W].

    Returns:
        moved features, float [N, C, h, w], and where they are valid, bool [N, 1, h, w].

    """
    size = (features.shape[-2], features.shape[-1])
    rows, columns = nearest_places((valid.shape[1], valid.shape[2]), size, valid.device)
    return warp(features, rescale(flow, size)), valid[:, None, rows[:, None], columns]


def rescale(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a flow to another pixel grid: resampled bilinearly, vectors in the new grid's pixels.

    Args:
        flow: (x, y) in pixels of its own grid, float32 [N, h, w, 2].
        size: the other grid (h2, w2).

    Returns:
        float32 [N, h2, w2, 2]; x is scaled by (w2 - 1) / (w - 1), y by (h2 - 1) / (h - 1).

    """
    h, w = flow.shape[1:3]
    if (h, w) == size:
        return flow
    resized = functional.interpolate(
        flow.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True
    )
    # Numbers, not a tensor, for which a GPU would have to wait.
    along, down = (size[1] - 1) / max(w - 1, 1), (size[0] - 1) / max(h - 1, 1)
    return torch.stack((resized[:, 0] * along, resized[:, 1] * down), -1)


def nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Bring values [h, w] to another pixel grid, [h2, w2]: each pixel takes the nearest value."""
    rows, columns = nearest_places((values.shape[0], values.shape[1]), size, torch.device("cpu"))
    return np.asarray(values[rows.numpy()[:, None], columns.numpy()])


def nearest_places(
    old: tuple[int, int], new: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return, for the pixels of a new grid, the nearest row and column of an old one, int64."""
    rows, columns = (
        torch.arange(after, dtype=torch.float64, device=device)
        .mul_((before - 1) / max(after - 1, 1))
        .round_()
        .long()
        for before, after in zip(old, new, strict=True)
    )
    return rows, columns


def pull(plane: NDArray[Any], flow: NDArray[np.float32]) -> NDArray[Any]:
    """Move a numpy plane by backward flow, bilinearly; the border is repeated outside.

    Coordinates are rounded to 1/32 pixel, as OpenCV does; zero flow returns the same values.

    Args:
        plane: uint8 or float32 [h, w], or with up to four channels [h, w, c].
        flow: (x, y) in pixels, float32 [h, w, 2].

    """
    x, y = origin(flow)
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def pull_mask(mask: NDArray[np.bool_], flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Move a mask [h, w] by backward flow: the value nearest p + flow(p), False outside."""
    x, y = origin(flow)
    found = cv2.remap(
        mask.view(np.uint8), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(found, np.uint8).view(np.bool_)


def origin(flow: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return x and y of p + flow(p) for every pixel p, each float32 [h, w]."""
    height, width = flow.shape[:2]
    if compiling.AVAILABLE:
        x, y = (np.empty((height, width), np.float32) for _ in range(2))
        pointing.origin(threads(), flow, x, y)
        return x, y
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return x, y


def _neighbours(flow: Tensor, at: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, on one axis, the whole coordinates before and after p + flow(p) and the rest."""
    where = (at + flow).clamp(0, length - 1)
    before = where.floor()
    rest = where - before
    first = before.long()
    return first, (first + 1).clamp_(max=length - 1), rest
