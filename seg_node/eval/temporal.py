"""Temporal consistency: whether the classes move with the picture.

After Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020:
the mean IoU between the previous prediction, moved by the motion, and the present one. Here only
over pixels that both frames show. Definition: docs/metrics.md.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import IGNORE_LABEL, Motion
from seg_node.core.warp import origin, pull
from seg_node.eval.metrics import ConfusionMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import Frame

MAX_STEP_NS = 250_000_000
"""Longest time between two frames that are compared; slower data is no video."""
MIN_VISIBLE = 0.5
"""Least share of pixels that both frames show; below it the scene was cut.

Two pictures that have nothing in common still agree on about a tenth of their pixels by chance,
neighbours of a drive on nine tenths.
"""
MIN_SIDE = 32
"""Smallest image side in pixels that OpenCV estimates motion on; long images below crash it."""
_SLACK, _SLACK_PX2 = 0.01, 0.5
"""Tolerance of the forward-backward check (Sundaram et al., ECCV 2010): share, and pixels^2."""


class TemporalConsistency:
    """Compares every prediction with the one before, moved to where things are now.

    Args:
        classes: number of classes.
        estimator: who estimates motion; modes that see the same frames share one, so that the
            motion of a frame is estimated once. None for an own one.

    """

    def __init__(self, classes: int, estimator: MotionEstimator | None = None) -> None:
        """Start without a frame before."""
        self._matrix = ConfusionMatrix(classes)
        self._before: tuple[Frame, NDArray[np.uint8]] | None = None
        self._pairs = {"exact": 0, "estimated": 0}
        self._cuts = 0
        self._visible = 0.0
        self._estimator = estimator or MotionEstimator()

    def update(
        self, frame: Frame, prediction: NDArray[np.uint8], motion: Motion | None = None
    ) -> None:
        """Count one frame.

        It is compared with the frame of the call before if that one is of the same camera and
        size, at most `MAX_STEP_NS` older, and shows the same scene. Images with a side below
        `MIN_SIDE` are compared only by exact motion.

        Args:
            frame: the image.
            prediction: its predicted classes, uint8 [H, W].
            motion: motion since the frame of the call before, where it is known exactly; None to
                estimate it from the images.

        """
        before, self._before = self._before, (frame, prediction)
        if before is None or not follows(before[0], frame):
            return
        kind = "estimated" if motion is None else "exact"
        if motion is None:
            if min(prediction.shape) < MIN_SIDE:
                return
            motion = self._estimator.motion(before[0], frame)
        warped = warp_labels(before[1], motion.flow)
        known = motion.valid & (warped != IGNORE_LABEL)
        share = float(known.mean())
        if share < MIN_VISIBLE:
            self._cuts += 1
            return
        self._pairs[kind] += 1
        self._visible += share
        self._matrix.update(np.where(known, warped, np.uint8(IGNORE_LABEL)), prediction)

    def consistency(self) -> float | None:
        """Return the pooled mean IoU (0..1) of warped and present predictions; None if no pair."""
        return self._matrix.dataset_miou()

    def details(self) -> dict[str, Any]:
        """Return what the figure stands on: pairs by kind of motion, cuts, share of pixels."""
        pairs = sum(self._pairs.values())
        visible = self._visible / pairs if pairs else None
        return {"pairs": dict(self._pairs), "cuts": self._cuts, "visible": visible}


def follows(before: Frame, frame: Frame) -> bool:
    """Return whether a frame can be compared with the one before it."""
    return (
        before.camera == frame.camera
        and before.image.shape == frame.image.shape
        and 0 < frame.stamp_ns - before.stamp_ns <= MAX_STEP_NS
    )


def warp_labels(labels: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Move labels by backward flow: pixel p of the result is the label nearest p + flow(p).

    Pixel centres lie at whole coordinates (`align_corners=True`). Where p + flow(p) is outside,
    the result is 255.

    Args:
        labels: uint8 [H, W].
        flow: (x, y) in pixels, float32 [H, W, 2].

    """
    x, y = origin(flow)
    warped = cv2.remap(
        labels,
        x,
        y,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float(IGNORE_LABEL),
    )
    return np.asarray(warped, np.uint8)


def consistent(backward: NDArray[np.float32], forward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where two estimated flows undo each other, bool [H, W]; elsewhere is occlusion.

    With b the backward flow of a pixel and f the forward flow where b points:
    |b + f|^2 <= 0.01 (|b|^2 + |f|^2) + 0.5 (Sundaram, Brox, Keutzer, ECCV 2010).

    Args:
        backward: from the present frame to the one before, (x, y) in pixels, float32 [H, W, 2].
        forward: from the frame before to the present one, likewise.

    """
    height, width = backward.shape[:2]
    x, y = origin(backward)
    back = pull(forward, backward)
    gap = _squared(cv2.add(backward, back))
    slack = _SLACK * (_squared(backward) + _squared(back)) + _SLACK_PX2
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.asarray((gap <= slack) & inside)


class MotionEstimator:
    """Estimates motion with OpenCV's DIS (Kroeger et al., ECCV 2016) on grey images."""

    def __init__(self) -> None:
        """Prepare; nothing is known of any image yet."""
        # OpenCV's stub does not know that the flow to continue from may be None.
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._latest: tuple[Frame, Frame, Motion] | None = None

    def motion(self, before: Frame, frame: Frame) -> Motion:
        """Return the motion since the frame before, of the same size.

        Asked again for the same two frames, it remembers.
        """
        latest = self._latest
        if latest is None or latest[0] is not before or latest[1] is not frame:
            latest = (before, frame, self._estimate(before.image, frame.image))
            self._latest = latest
        return latest[2]

    def _estimate(self, before: NDArray[np.uint8], image: NDArray[np.uint8]) -> Motion:
        old, new = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (before, image))
        backward = np.asarray(self._dis.calc(new, old, None), np.float32)
        forward = np.asarray(self._dis.calc(old, new, None), np.float32)
        return Motion(backward, consistent(backward, forward))


def _squared(flow: Any) -> NDArray[np.float32]:
    """Return the squared length of each vector, float32 [H, W]."""
    x, y = cv2.split(flow)
    return np.asarray(cv2.add(cv2.multiply(x, x), cv2.multiply(y, y)), np.float32)
