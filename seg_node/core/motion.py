"""Where things were: motion from a codec's vectors or estimated from the images, step by step.

Motion to the keyframe is composed of the motions from frame to frame, as AR-Seg accumulates codec
vectors. Estimated between the two frames at once it is worse from two frames on, by 8.6 points of
mIoU at eleven frames of CamVid at 15 Hz. Errors add up, though, and what was hidden drags along
what hid it. So estimated motion is refined: a second estimate, between the two frames
but starting from the composed one, replaces it at each pixel where it explains the image better.
Replacing it everywhere would lose there. All measured: `benchmarks/results/motion_sources.json`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.blocks import grid_shape
from seg_node.core.config import MOTION_SOURCES
from seg_node.core.types import ConfigError, DataError, Motion, Reason
from seg_node.core.warp import nearest, origin, pull, pull_mask, rescale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import Frame

SOURCES = MOTION_SOURCES
"""Values of `motion.source`: codec vectors where a frame carries them and else estimated flow,
only vectors, only flow, or no motion at all."""

WORK_PIXELS = 480 * 360
"""Most pixels of the grey images that motion is estimated and distortion measured on.

On CamVid they bring a point of mIoU at five frames over a quarter as many.
"""

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

_MIN_SIDE = 32
"""Smallest side in pixels; OpenCV's ultrafast preset crashes on long images with a shorter one."""

_AROUND = 9
"""Side in pixels of the neighbourhood in which two motions of a pixel are compared."""


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


def work_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image [H, W, 3] in grey, reduced to at most `WORK_PIXELS`, uint8 [h, w]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = (WORK_PIXELS / grey.size) ** 0.5
    if scale < 1:
        height, width = (max(1, round(scale * length)) for length in grey.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


class FlowEstimator:
    """Estimates motion with OpenCV's DIS (Kroeger et al., ECCV 2016), preset ultrafast.

    On one core an estimate on 480x360 takes 2 to 3 ms and refining one 4 to 5. Of the other
    presets, fast takes twice as long and scores lower; medium takes ten times as long and its
    composed motion scores half a point higher at five frames, which refining brings too. Half
    the size takes a quarter of the time and costs a point at five frames.

    Args:
        preset: OpenCV's number of another preset.

    """

    def __init__(self, preset: int = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST) -> None:
        """Prepare; nothing is known of any image yet."""
        # Two, because one that was ever given a flow to start from remembers it. OpenCV's stub
        # does not know that this flow may be None.
        self._fresh: Any = cv2.DISOpticalFlow.create(preset)
        self._started: Any = cv2.DISOpticalFlow.create(preset)

    def estimate(
        self,
        before: NDArray[np.uint8],
        image: NDArray[np.uint8],
        since_ns: int = 0,
        start: Motion | None = None,
    ) -> Motion:
        """Estimate the motion between two grey images of one size, as `work_image` makes them.

        Args:
            before: the earlier image, uint8 [h, w], of any size.
            image: the present one, likewise.
            since_ns: stamp of the earlier one.
            start: motion [h, w] to try first, such as that of the frame before: what moved goes
                on moving.

        Returns:
            Motion [h, w], valid where it leads into the earlier image. Content that was hidden
            there is not recognised: `block_distortion` sees it. A second estimate, back again,
            would tell some of it at twice the cost, and calls much of every plain road unknown.

        """
        height, width = image.shape
        flow = self._flow(before, image, start)
        x, y = origin(flow)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        return Motion(flow, inside, since_ns=since_ns)

    def refine(
        self, before: NDArray[np.uint8], image: NDArray[np.uint8], motion: Motion
    ) -> Motion:
        """Let every pixel keep its motion, or take an estimate that starts from it if better.

        Better is the flow by which the earlier image, moved, differs less from the present one,
        on average over the 9x9 pixels around.

        Args:
            before: the earlier image, grey, uint8 [h, w].
            image: the present one, likewise.
            motion: between the two, [h, w].

        Returns:
            Motion [h, w]; `valid`, `intra` and `since_ns` are those of the motion.

        """
        found = self._flow(before, image, motion)
        was, now = (_around(cv2.absdiff(image, pull(before, x))) for x in (motion.flow, found))
        flow = motion.flow.copy()
        cv2.copyTo(found, (now < was).view(np.uint8), flow)
        return replace(motion, flow=flow)

    def _flow(
        self, before: NDArray[np.uint8], image: NDArray[np.uint8], start: Motion | None
    ) -> NDArray[np.float32]:
        height, width = image.shape
        old, new = (_enlarged(x) for x in (before, image))
        if start is None:
            flow = self._fresh.calc(new, old, None)
        else:
            # The estimator writes into the flow that it starts from.
            flow = self._started.calc(new, old, _enlarged(start.flow).copy())
        return np.ascontiguousarray(flow[:height, :width], np.float32)


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


class _Seen(NamedTuple):
    """A frame and its grey work image."""

    frame: Frame
    grey: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the work image."""
        return self.grey.shape[0], self.grey.shape[1]


class MotionTracker:
    """Follows the frames of one camera back to the newest full computation.

    Call `start` with every frame that is computed in full and `track` with every other, in the
    order of their stamps; where `track` answers a `Reason`, the frame must be computed in full.
    Motion comes at the size of `work_image`. Another source is another tracker.

    Args:
        source: one of `SOURCES`. A codec's vectors are used where they lead to the frame of the
            call before. With `auto`, frames without, and frames that the codec coded anew, are
            estimated.

    Raises:
        ConfigError: there is no such source.

    """

    def __init__(self, source: str = "auto") -> None:
        """Start without a frame."""
        if source not in SOURCES:
            msg = f"motion.source is {source!r}; choose one of {', '.join(SOURCES)}"
            raise ConfigError(msg)
        self.source = source
        self._estimator = FlowEstimator()
        self._key: _Seen | None = None  # the frame that motion leads to
        self._latest: _Seen | None = None  # the frame that motion is followed from
        self._newest: _Seen | None = None  # also one that could not be followed
        self._motion: Motion | None = None  # from the latest frame to the key
        self._step: Motion | None = None  # from the latest frame to the one before it

    def start(self, frame: Frame) -> None:
        """Make this frame the one that later frames are followed back to."""
        if self._latest is None or self._latest.frame is not frame:
            self._step = None
        self._key = self._latest = self._see(frame)
        self._motion = still(self._latest.size, frame.stamp_ns)

    def track(self, frame: Frame) -> Motion | Reason:
        """Return the motion from this frame to the frame of `start`, or why there is none."""
        key, latest, motion = self._key, self._latest, self._motion
        if key is None or latest is None or motion is None:
            return Reason.FIRST
        jump = jumped(latest.frame, frame)
        if jump is not None:
            return jump
        seen = self._see(frame)
        stated = self._stated(latest, seen)
        if isinstance(stated, Reason):
            return stated
        step = stated or self._estimator.estimate(
            latest.grey, seen.grey, latest.frame.stamp_ns, self._step
        )
        limit = CUT_UNMOVED if self.source == "none" else CUT
        if unlike(seen.grey, pull(latest.grey, step.flow)) > limit:
            return Reason.SCENE_CUT
        motion = compose(step, motion)
        if stated is None and latest is not key:
            motion = self._estimator.refine(key.grey, seen.grey, motion)
        self._latest, self._motion, self._step = seen, motion, step
        return motion

    def _stated(self, latest: _Seen, seen: _Seen) -> Motion | Reason | None:
        """Return the motion since the frame before; None where it is to be estimated."""
        since_ns = latest.frame.stamp_ns
        if self.source == "none":
            return still(seen.size, since_ns)
        vectors = None if self.source == "flow" else _vectors(seen.frame, since_ns)
        if isinstance(vectors, Motion):
            return fit(vectors, seen.size)
        return vectors if self.source == "codec" else None

    def _see(self, frame: Frame) -> _Seen:
        """Reduce the image of a frame; that of the newest one is remembered."""
        if self._newest is None or self._newest.frame is not frame:
            self._newest = _Seen(frame, work_image(frame.image))
        return self._newest


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


def _around(difference: NDArray[Any]) -> NDArray[np.float32]:
    """Average a difference of images over the neighbourhood of each pixel."""
    return np.asarray(cv2.boxFilter(difference, cv2.CV_32F, (_AROUND, _AROUND)), np.float32)


def _enlarged(plane: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row and column of a plane too small for OpenCV's estimator."""
    down, right = (max(0, _MIN_SIDE - length) for length in plane.shape[:2])
    if not (down or right):
        return plane
    return np.asarray(cv2.copyMakeBorder(plane, 0, down, 0, right, cv2.BORDER_REPLICATE))
