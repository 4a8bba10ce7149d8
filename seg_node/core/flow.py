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

FINEST = 1
"""Times that an image is halved at the finest level on which motion is estimated."""

STRIDE = 6
"""Pixels from patch to patch, which are 8 pixels wide, at each level."""

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
    """Estimates motion with OpenCV's DIS (Kroeger et al., ECCV 2016).

    Its preset ultrafast ends at a quarter of the resolution. Here it goes on to half of it, with
    patches `STRIDE` pixels apart instead of 4: that takes twice the time of the preset, which all
    patches would three times and a half. What is left of motion is corrected by the preset: more
    brings nothing there. Reduced images, and OpenCV's other presets, are worse, or much slower
    (docs/decisions.md).

    Args:
        preset: OpenCV's number of a preset that is to do everything, as it is.

    """

    def __init__(self, preset: int | None = None) -> None:
        """Prepare; nothing is known of any image yet."""
        # Two, because one that was ever given a flow to start from remembers it.
        self._fresh, self._started = _finer(preset), _finer(preset)
        self._rough = _dis(preset)

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
        found = _flow(self._rough, moved, image)
        return _better(moved, image, None, found, most_left)

    def _flow(
        self, before: NDArray[np.uint8], image: NDArray[np.uint8], start: Motion | None
    ) -> NDArray[np.float32]:
        if start is None:
            return _flow(self._fresh, before, image)
        return _flow(self._started, before, image, start)


def _dis(preset: int | None) -> Any:
    """Return an estimator of OpenCV, of whose flow to start from its stub knows nothing."""
    ultrafast = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
    return cv2.DISOpticalFlow.create(ultrafast if preset is None else preset)


def _finer(preset: int | None) -> Any:
    """Return one that goes on to half the resolution, unless a preset is asked for."""
    made = _dis(preset)
    if preset is None:
        made.setFinestScale(FINEST)
        made.setPatchStride(STRIDE)
    return made


def _flow(
    estimator: Any,
    before: NDArray[np.uint8],
    image: NDArray[np.uint8],
    start: Motion | None = None,
) -> NDArray[np.float32]:
    height, width = image.shape
    old, new = (_enlarged(x) for x in (before, image))
    # The estimator writes into the flow that it starts from.
    first = None if start is None else _enlarged(start.flow).copy()
    return np.ascontiguousarray(estimator.calc(new, old, first)[:height, :width], np.float32)


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
