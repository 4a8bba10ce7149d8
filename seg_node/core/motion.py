"""Where things were: motion from a codec's vectors or estimated from the images, step by step.

Motion to the keyframe is composed of the motions from frame to frame, as AR-Seg accumulates codec
vectors. Estimated between the two frames at once it is worse from two frames on, by 12 points of
mIoU at eleven frames of CamVid at 15 Hz. Errors add up, though, and what was hidden drags along
what hid it. So estimated motion is refined: a second estimate, between the two frames
but starting from the composed one, replaces it at each pixel where it explains the image better.
Replacing it everywhere would lose there. All measured: `benchmarks/results/motion_sources.json`.
"""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.blocks import grid_shape
from seg_node.core.flow import MOST_LEFT, work_image
from seg_node.core.types import DataError, Motion
from seg_node.core.warp import nearest, pull, pull_mask, rescale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import Frame

UNKNOWN_DISTORTION = 64.0
"""Distortion of a pixel whose motion is unknown, in grey levels.

As bad as can be: of unrelated pictures, each moved to explain the other as well as it could, the
worst pair differed by 66, half of them by 39 and more.
"""

MAX_GAP_NS = 1_000_000_000
"""Longest time between two frames whose motion is followed; at 1 Hz a car is elsewhere."""

CUT = 0.4
"""Difference of a frame from the moved frame before, relative to contrast: more is a cut.

Neighbours in all clips at hand stay below 0.19, with a frame lost between them below 0.32;
unrelated pictures, each moved to explain the other as well as it can, reach 0.46 and more.
"""

CUT_UNMOVED = 0.55
"""The same without any motion: neighbours reach 0.42, with a frame lost 0.54, unrelated pictures
0.60 and more."""

STANDING = 0.1
"""Share of a picture, at most, that motion explains before a camera that stands still.

A part of 16x16 pixels is explained if less than `MOST_LEFT` of its difference is left. Of real
drives and walks that are 0.25 and more, of still pictures with noise 0.002 at most
(`benchmarks/results/still_camera.json`). The rest is for what moves by itself.
"""

PART = 16
"""Side of these parts in pixels; those at the right and bottom edge may be smaller."""

MIN_CONTRAST = 8.0
"""Grey levels; below it, noise in the dark would look like a cut."""


class Change(NamedTuple):
    """How much two frames differ.

    Attributes:
        unlike: after the earlier one was moved, as `unlike` has it.
        explained: by motion, share of the picture.

    """

    unlike: float
    explained: float

    @property
    def standing(self) -> bool:
        """Whether the camera stands still, and noise is most of what changes."""
        return self.explained < STANDING


def compose(later: Motion, earlier: Motion) -> Motion:
    """Join two motions into one, as AR-Seg accumulates vectors, but without rounding to pixels.

    Args:
        later: from frame t to frame t - 1.
        earlier: from frame t - 1 to frame k; of the same pixel grid.

    Returns:
        Motion from frame t to frame k: valid where both steps are, intra where the content was
        coded anew on the way.

    Raises:
        DataError: the pixel grids differ.

    """
    if later.flow.shape != earlier.flow.shape:
        msg = (
            f"motions of {list(later.flow.shape[:2])} and {list(earlier.flow.shape[:2])} pixels "
            "cannot be joined: fit one to the other first"
        )
        raise DataError(msg)
    flow = later.flow + pull(earlier.flow, later.flow)
    valid = later.valid & pull_mask(earlier.valid, later.flow)
    intra = later.intra
    if earlier.intra is not None:
        moved = pull_mask(earlier.intra, later.flow)
        intra = moved if intra is None else intra | moved
    return Motion(np.asarray(flow, np.float32), valid, intra, earlier.since_ns)


def fit(motion: Motion, size: tuple[int, int]) -> Motion:
    """Bring a motion to another pixel grid (h, w): flow bilinearly, masks by the nearest pixel."""
    if motion.valid.shape == size:
        return motion
    flow = rescale(torch.from_numpy(motion.flow)[None], size)[0].numpy()
    intra = None if motion.intra is None else nearest(motion.intra, size)
    valid = nearest(motion.valid, size)
    return Motion(flow, valid, intra, motion.since_ns)


def block_distortion(
    image: NDArray[np.uint8], earlier: NDArray[np.uint8], motion: Motion, side: int
) -> NDArray[np.float32]:
    """Return how badly an earlier image, moved, explains the present one, block by block.

    Both are compared as `work_image` makes them.

    Args:
        image: the present image, RGB, uint8 [H, W, 3].
        earlier: the earlier one, of the same size.
        motion: from the present one to the earlier one.
        side: side B of a block, in pixels of the images.

    Returns:
        Mean absolute difference of grey levels, 0..255, of each block, float32 [gh, gw]; a pixel
        whose motion is not valid counts as `UNKNOWN_DISTORTION`.

    """
    present, old = work_image(image), work_image(earlier)
    fitted = fit(motion, (present.shape[0], present.shape[1]))
    difference = cv2.absdiff(present, pull(old, fitted.flow)).astype(np.float32)
    difference[~fitted.valid] = UNKNOWN_DISTORTION
    starts = block_starts((image.shape[0], image.shape[1]), side, difference.shape)
    total, pixels = (
        np.add.reduceat(np.add.reduceat(x, starts[0], axis=0), starts[1], axis=1)
        for x in (difference, np.ones_like(difference))
    )
    return np.asarray(total / pixels, np.float32)


def block_starts(
    size: tuple[int, int], side: int, plane: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row of each row of blocks in a plane that covers the image, and columns.

    Args:
        size: of the image (H, W), in pixels.
        side: side B of a block, in pixels of the image.
        plane: shape [h, w] of the plane; where it is coarser than the blocks, starts repeat.

    """
    rows, columns = (
        np.minimum(np.arange(count) * side * pixels // length, pixels - 1).astype(np.intp)
        for count, length, pixels in zip(grid_shape(*size, side), size, plane, strict=True)
    )
    return rows, columns


def still(size: tuple[int, int], since_ns: int = 0) -> Motion:
    """Return no motion, known everywhere, of a pixel grid (h, w)."""
    return Motion(np.zeros((*size, 2), np.float32), np.ones(size, np.bool_), since_ns=since_ns)


def unlike(image: NDArray[np.uint8], moved: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two grey images relative to their contrast.

    Contrast is the larger of their standard deviations, at least 8 grey levels.
    """
    contrast = max(MIN_CONTRAST, *(float(cv2.meanStdDev(x)[1][0, 0]) for x in (image, moved)))
    return float(cv2.mean(cv2.absdiff(image, moved))[0]) / contrast


def explained(
    image: NDArray[np.uint8], before: NDArray[np.uint8], moved: NDArray[np.uint8]
) -> float:
    """Return of which share of a picture motion explains more than noise.

    Args:
        image: the present one, grey, uint8 [h, w].
        before: the earlier one, likewise.
        moved: the same, moved.

    """
    corners = np.ix_(*([*range(0, length, PART), length] for length in image.shape))
    left, was = (
        np.diff(np.diff(cv2.integral(cv2.absdiff(image, x))[corners], axis=0), axis=1)
        for x in (moved, before)
    )
    return float((left < MOST_LEFT * was).mean())


def same_view(one: Frame, other: Frame) -> bool:
    """Return whether two frames are of the same camera, frame_id and image size."""
    return (one.camera, one.frame_id, one.image.shape) == (
        other.camera,
        other.frame_id,
        other.image.shape,
    )
