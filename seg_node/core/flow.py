"""Estimates motion between two images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import Motion
from seg_node.core.warp import origin, pull

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORK_PIXELS = 480 * 360
"""Most pixels of the grey images that motion is estimated and distortion measured on.

On CamVid they bring a point of mIoU at five frames over a quarter as many.
"""

_MIN_SIDE = 32
"""Smallest side in pixels; OpenCV's ultrafast preset crashes on long images with a shorter one."""

AROUND = 15
"""Side in pixels of the neighbourhood in which two motions of a pixel are compared."""

MOST_LEFT = 0.7
"""Share of a difference that motion may leave, at most, to explain more than noise.

On parts of 16x16 pixels of a still picture the best fit to noise leaves more nearly everywhere.
"""

PIXEL_REACH = 0.5
"""How far a pixel reaches, in pixels."""


def work_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image [H, W, 3] in grey, reduced to at most `WORK_PIXELS`, uint8 [h, w]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = work_size((grey.shape[0], grey.shape[1]))
    if size != grey.shape:
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def work_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size (h, w), reduced to at most `WORK_PIXELS`."""
    scale = (WORK_PIXELS / (size[0] * size[1])) ** 0.5
    if scale >= 1:
        return size
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


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
            Motion [h, w], valid where it leads to a pixel of the earlier image. Content that was
            hidden there is not recognised: `block_distortion` sees it. A second estimate, back
            again, would tell some of it at twice the cost, and calls much of every plain road
            unknown.

        """
        flow = self._flow(before, image, start)
        return Motion(flow, _leads_inside(flow), since_ns=since_ns)

    def refine(
        self, before: NDArray[np.uint8], image: NDArray[np.uint8], motion: Motion
    ) -> Motion:
        """Let every pixel keep its motion, or take an estimate that starts from it if better.

        Better is the flow by which the earlier image, moved, differs less from the present one,
        on average over the 15x15 pixels around.

        Args:
            before: the earlier image, grey, uint8 [h, w].
            image: the present one, likewise.
            motion: between the two, [h, w].

        Returns:
            Motion [h, w]; `valid`, `intra` and `since_ns` are those of the motion.

        """
        found = self._flow(before, image, motion)
        return replace(motion, flow=_better(before, image, motion.flow, found))

    def settle(
        self, before: NDArray[np.uint8], image: NDArray[np.uint8], motion: Motion
    ) -> Motion:
        """Let only those pixels move whose motion explains more than noise.

        Args:
            before: the earlier image, grey, uint8 [h, w].
            image: the present one, likewise.
            motion: between the two, [h, w].

        Returns:
            Motion [h, w]: none where more than `MOST_LEFT` of the difference would be left, on
            average over the 15x15 pixels around; the rest as it is.

        """
        flow = _better(before, image, None, motion.flow, MOST_LEFT)
        return replace(motion, flow=flow, valid=_leads_inside(flow))

    def correct(
        self, moved: NDArray[np.uint8], image: NDArray[np.uint8], most_left: float = 1.0
    ) -> NDArray[np.float32]:
        """Return what is left of motion after an earlier image has been moved along with it.

        Args:
            moved: the earlier image, moved, grey, uint8 [h, w].
            image: the present one, likewise.
            most_left: share of the difference that a correction may leave, 0..1.

        Returns:
            flow [h, w, 2]; 0 where the image would not explain the present one better, on average
            over the 15x15 pixels around.

        """
        found = self._flow(moved, image, None)
        return _better(moved, image, None, found, most_left)

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


def _better(
    before: NDArray[np.uint8],
    image: NDArray[np.uint8],
    flow: NDArray[np.float32] | None,
    other: NDArray[np.float32],
    most_left: float = 1.0,
) -> NDArray[np.float32]:
    """Return a flow [h, w, 2], or another where it makes the earlier image more like this one.

    None stands for no motion. Of the difference at most this share must be left.
    """
    unmoved = before if flow is None else pull(before, flow)
    was, now = (_around(cv2.absdiff(image, x)) for x in (unmoved, pull(before, other)))
    best = np.zeros_like(other) if flow is None else flow.copy()
    cv2.copyTo(other, (now < np.float32(most_left) * was).view(np.uint8), best)
    return best


def _leads_inside(flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a flow leads to a pixel of the image, [h, w]."""
    x, y = origin(flow)
    inside: NDArray[np.bool_] = _within(x, flow.shape[1]) & _within(y, flow.shape[0])
    return inside


def _within(place: NDArray[np.float32], length: int) -> NDArray[np.bool_]:
    """Return which places are on the image, along one axis.

    The outermost pixels reach `PIXEL_REACH` beyond their centres: noise alone moves half of the
    pixels at a border outwards, by a little.
    """
    on: NDArray[np.bool_] = (place >= -PIXEL_REACH) & (place <= length - 1 + PIXEL_REACH)
    return on


def _around(difference: NDArray[Any]) -> NDArray[np.float32]:
    """Average a difference of images over the neighbourhood of each pixel."""
    return np.asarray(cv2.boxFilter(difference, cv2.CV_32F, (AROUND, AROUND)), np.float32)


def _enlarged(plane: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row and column of a plane too small for OpenCV's estimator."""
    down, right = (max(0, _MIN_SIDE - length) for length in plane.shape[:2])
    if not (down or right):
        return plane
    return np.asarray(cv2.copyMakeBorder(plane, 0, down, 0, right, cv2.BORDER_REPLICATE))
