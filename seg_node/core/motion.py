"""Where things were: motion from a codec's vectors or estimated from the images, step by step.

Motion to the keyframe is composed of the motions from frame to frame, as AR-Seg accumulates codec
vectors. Estimated between the two frames at once it is worse from two frames on, by 8.6 points of
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
from seg_node.core.config import MOTION_SOURCES
from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.types import ConfigError, DataError, Motion, Reason
from seg_node.core.warp import nearest, pull, pull_mask, rescale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import Frame

SOURCES = MOTION_SOURCES
"""Values of `motion.source`: codec vectors where a frame carries them and else estimated flow,
only vectors, only flow, or no motion at all."""

UNKNOWN_DISTORTION = 64.0
"""Distortion of a pixel whose motion is unknown, in grey levels.

As bad as can be: of unrelated pictures, each moved to explain the other as well as it could, the
worst pair differed by 66, half of them by 39 and more.
"""

MAX_GAP_NS = 1_000_000_000
"""Longest time between two frames whose motion is followed; at 1 Hz a car is elsewhere."""

CUT = 0.4
"""Difference of a frame from the moved frame before, relative to contrast: more is a cut.

Neighbours in all clips at hand stay below 0.20, with a frame lost between them below 0.28;
unrelated pictures, each moved to explain the other as well as it can, reach 0.44 and more.
"""

CUT_UNMOVED = 0.55
"""The same without any motion: neighbours reach 0.42, with a frame lost 0.54, unrelated pictures
0.60 and more."""

_MIN_CONTRAST = 8.0
"""Grey levels; below it, noise in the dark would look like a cut."""


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


class Seen(NamedTuple):
    """A frame and its grey work image."""

    frame: Frame
    grey: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the work image."""
        return self.grey.shape[0], self.grey.shape[1]


def see(frame: Frame) -> Seen:
    """Reduce the image of a frame."""
    return Seen(frame, work_image(frame.image))


class StepTracker:
    """Follows the frames of one camera, each back to the one before.

    Call `track` with every frame in the order of their stamps. Motion comes at the size of
    `work_image`. Another source is another tracker.

    Args:
        source: one of `SOURCES`. A codec's vectors are used where they lead to the frame of the
            call before. With `auto`, frames without, and frames that the codec coded anew, are
            estimated.

    Attributes:
        estimator: estimates motion where nobody states it.
        latest: the frame that was followed last.
        stated: whether its motion was stated, by vectors or by the source `none`.

    Raises:
        ConfigError: there is no such source.

    """

    def __init__(self, source: str = "auto") -> None:
        """Start without a frame."""
        if source not in SOURCES:
            msg = f"motion.source is {source!r}; choose one of {', '.join(SOURCES)}"
            raise ConfigError(msg)
        self.source = source
        self.estimator = FlowEstimator()
        self.latest: Seen | None = None
        self.stated = False
        self._step: Motion | None = None  # from the latest frame to the one before it

    def start(self, frame: Frame) -> Seen:
        """Follow later frames from this one, whatever came before."""
        if self.latest is None or self.latest.frame is not frame:
            self._step = None
            self.latest = see(frame)
        return self.latest

    def track(self, frame: Frame) -> Motion | Reason:
        """Return the motion from this frame to the one of the call before, or why there is none.

        After a `Reason`, later frames are still followed from the frame before this one, until
        `start` is called.
        """
        latest = self.latest
        if latest is None:
            return Reason.FIRST
        jump = jumped(latest.frame, frame)
        if jump is not None:
            return jump
        seen = see(frame)
        stated = self._stated(latest, seen)
        if isinstance(stated, Reason):
            return stated
        step = stated or self.estimator.estimate(
            latest.grey, seen.grey, latest.frame.stamp_ns, self._step
        )
        limit = CUT_UNMOVED if self.source == "none" else CUT
        if unlike(seen.grey, pull(latest.grey, step.flow)) > limit:
            return Reason.SCENE_CUT
        self.latest, self.stated, self._step = seen, stated is not None, step
        return step

    def _stated(self, latest: Seen, seen: Seen) -> Motion | Reason | None:
        """Return the motion since the frame before; None where it is to be estimated."""
        since_ns = latest.frame.stamp_ns
        if self.source == "none":
            return still(seen.size, since_ns)
        vectors = None if self.source == "flow" else _vectors(seen.frame, since_ns)
        if isinstance(vectors, Motion):
            return fit(vectors, seen.size)
        return vectors if self.source == "codec" else None


class MotionTracker:
    """Follows the frames of one camera back to the newest full computation.

    Call `start` with every frame that is computed in full and `track` with every other, in the
    order of their stamps; where `track` answers a `Reason`, the frame must be computed in full.
    Motion comes at the size of `work_image`. Another source is another tracker.

    Args:
        source: one of `SOURCES`, see `StepTracker`.

    Raises:
        ConfigError: there is no such source.

    """

    def __init__(self, source: str = "auto") -> None:
        """Start without a frame."""
        self._steps = StepTracker(source)
        self._key: Seen | None = None  # the frame that motion leads to
        self._motion: Motion | None = None  # from the latest frame to the key

    @property
    def source(self) -> str:
        """Where motion comes from."""
        return self._steps.source

    def start(self, frame: Frame) -> None:
        """Make this frame the one that later frames are followed back to."""
        self._key = self._steps.start(frame)
        self._motion = still(self._key.size, frame.stamp_ns)

    def track(self, frame: Frame) -> Motion | Reason:
        """Return the motion from this frame to the frame of `start`, or why there is none."""
        key, before = self._key, self._steps.latest
        step = self._steps.track(frame)
        if isinstance(step, Reason):
            return step
        assert key is not None
        assert self._motion is not None
        assert self._steps.latest is not None
        motion = compose(step, self._motion)
        if not self._steps.stated and before is not key:
            motion = self._steps.estimator.refine(key.grey, self._steps.latest.grey, motion)
        self._motion = motion
        return motion


def still(size: tuple[int, int], since_ns: int = 0) -> Motion:
    """Return no motion, known everywhere, of a pixel grid (h, w)."""
    return Motion(np.zeros((*size, 2), np.float32), np.ones(size, np.bool_), since_ns=since_ns)


def jumped(before: Frame, frame: Frame) -> Reason | None:
    """Return why a frame cannot follow the one before, whatever they show; None if it can."""
    if not same_view(before, frame):
        return Reason.CAMERA
    if not 0 <= frame.stamp_ns - before.stamp_ns <= MAX_GAP_NS:
        return Reason.GAP
    return None


def unlike(image: NDArray[np.uint8], moved: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two grey images relative to their contrast.

    Contrast is the larger of their standard deviations, at least 8 grey levels.
    """
    contrast = max(_MIN_CONTRAST, *(float(cv2.meanStdDev(x)[1][0, 0]) for x in (image, moved)))
    return float(cv2.mean(cv2.absdiff(image, moved))[0]) / contrast


def same_view(one: Frame, other: Frame) -> bool:
    """Return whether two frames are of the same camera, frame_id and image size."""
    return (one.camera, one.frame_id, one.image.shape) == (
        other.camera,
        other.frame_id,
        other.image.shape,
    )


def _vectors(frame: Frame, since_ns: int) -> Motion | Reason:
    """Return the motion that a frame carries, or why it does not lead to the frame before."""
    motion = frame.motion
    if motion is None:
        return Reason.NO_VECTORS
    if motion.intra is not None and motion.intra.all():
        return Reason.INTRA
    if motion.since_ns != since_ns:
        return Reason.DROPPED
    return motion
