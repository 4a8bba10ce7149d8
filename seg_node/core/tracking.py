"""Follows the frames of one camera: motion from each frame to the one before, and to a keyframe.

How motion is measured is a method: `OnHost` by a codec's vectors and OpenCV, `OnDevice` where the
frames are computed (`core.device_motion`). Which frames are followed, and which are not, is the
same for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import torch

from seg_node.core.config import MOTION_SOURCES
from seg_node.core.device_motion import OnDevice
from seg_node.core.flow import FlowEstimator, MOST_LEFT, work_image
from seg_node.core.matching import TorchMatcher
from seg_node.core.motion import (
    Change,
    compose,
    CUT,
    CUT_UNMOVED,
    explained,
    fit,
    MAX_GAP_NS,
    same_view,
    still,
    unlike,
)
from seg_node.core.types import ConfigError, Motion, Reason
from seg_node.core.warp import nearest, pull, rescale

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.matching import Matcher
    from seg_node.core.types import Frame

    Grey = NDArray[np.uint8]

SOURCES = MOTION_SOURCES
"""Values of `motion.source`: codec vectors where a frame carries them and else estimated flow,
only vectors, only flow, or no motion at all."""

Picture = TypeVar("Picture")
"""A frame as motion is estimated on it."""

Field = TypeVar("Field")
"""A motion, where the method keeps it."""


class MotionMethod(Protocol[Picture, Field]):
    """How motion is measured; see `OnHost` for each."""

    def take(self, frame: Frame, image: Tensor) -> None:
        """Take note of where the image of the next frame was uploaded to."""
        ...

    def see(self, frame: Frame) -> Picture:
        """Return a frame as motion is estimated on it."""
        ...

    def grey(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in grey at a size (h, w), float32 [h, w]."""
        ...

    def colours(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in red, green and blue at a size (h, w), float32 [3, h, w]."""
        ...

    def still(self, picture: Picture, since_ns: int) -> Field:
        """Return no motion, known everywhere, of the size of a picture."""
        ...

    def fitted(self, motion: Motion, picture: Picture) -> Field:
        """Return the motion that a frame carries, of the size of a picture."""
        ...

    def estimate(
        self, before: Picture, image: Picture, since_ns: int, start: Field | None
    ) -> Field:
        """Estimate the motion between two pictures."""
        ...

    def refine(self, before: Picture, image: Picture, motion: Field) -> Field:
        """Take a better motion where there is one."""
        ...

    def compose(self, later: Field, earlier: Field) -> Field:
        """Join two motions into one."""
        ...

    def change(self, before: Picture, image: Picture, motion: Field) -> Change:
        """Return how much a picture differs from the one before."""
        ...

    def settle(self, before: Picture, image: Picture, motion: Field) -> Field:
        """Let only what explains more than noise move."""
        ...

    def correct(self, moved: Grey, image: Grey, most_left: float = 1.0) -> NDArray[np.float32]:
        """Return what is left of motion after an earlier image has been moved along with it."""
        ...

    def step_at(self, motion: Field, size: tuple[int, int]) -> tuple[NDArray[np.float32], Tensor]:
        """Return a motion at a size (h, w): flow [h, w, 2], and where it is valid, bool [h, w]."""
        ...


class OnHost:
    """Measures motion on the CPU, with OpenCV; the method `dis`."""

    def __init__(self) -> None:
        """Prepare the estimator."""
        self._estimator = FlowEstimator()

    def take(self, frame: Frame, image: Tensor) -> None:
        """Do without: images are read where they came from."""

    def see(self, frame: Frame) -> Grey:
        """Return a frame as motion is estimated on it: grey, uint8 [h, w]."""
        return work_image(frame.image)

    def grey(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in grey at a size (h, w), float32 [h, w], 0..255."""
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.asarray(small, np.float32))

    def colours(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in colour at a size (h, w), float32 [3, h, w], 0..255."""
        small = cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1).contiguous()

    def still(self, picture: Grey, since_ns: int) -> Motion:
        """Return no motion, known everywhere."""
        return still((picture.shape[0], picture.shape[1]), since_ns)

    def fitted(self, motion: Motion, picture: Grey) -> Motion:
        """Return the motion that a frame carries, of the size of a picture."""
        return fit(motion, (picture.shape[0], picture.shape[1]))

    def estimate(self, before: Grey, image: Grey, since_ns: int, start: Motion | None) -> Motion:
        """Estimate the motion between two pictures; see `FlowEstimator.estimate`."""
        return self._estimator.estimate(before, image, since_ns, start)

    def refine(self, before: Grey, image: Grey, motion: Motion) -> Motion:
        """Take a better motion where there is one; see `FlowEstimator.refine`."""
        return self._estimator.refine(before, image, motion)

    def compose(self, later: Motion, earlier: Motion) -> Motion:
        """Join two motions into one; see `core.motion.compose`."""
        return compose(later, earlier)

    def change(self, before: Grey, image: Grey, motion: Motion) -> Change:
        """Return how much a picture differs from the one before."""
        moved = pull(before, motion.flow)
        return Change(unlike(image, moved), explained(image, before, moved))

    def settle(self, before: Grey, image: Grey, motion: Motion) -> Motion:
        """Let only what explains more than noise move; see `FlowEstimator.settle`."""
        return self._estimator.settle(before, image, motion)

    def correct(self, moved: Grey, image: Grey, most_left: float = 1.0) -> NDArray[np.float32]:
        """Return what is left of motion; see `FlowEstimator.correct`."""
        return self._estimator.correct(moved, image, most_left)

    def step_at(self, motion: Motion, size: tuple[int, int]) -> tuple[NDArray[np.float32], Tensor]:
        """Return a motion at a size (h, w): flow [h, w, 2], and where it is valid, bool [h, w]."""
        flow = rescale(torch.from_numpy(motion.flow)[None], size)[0].numpy()
        return flow, torch.from_numpy(nearest(motion.valid, size))


AnyMethod = MotionMethod[Any, Any]
"""A method, of whatever pictures and motions."""


def choose_method(choice: str, device: torch.device, matcher: Matcher | None) -> AnyMethod:
    """Return how motion is measured.

    Args:
        choice: value of the setting `motion.estimator`: auto, dis or matching.
        device: where frames are computed.
        matcher: fused kernels of this device; None where there are none. Without them matching is
            many small operations, slower than DIS on the host, and `auto` means dis.

    """
    if choice == "dis" or (choice == "auto" and (matcher is None or device.type != "cuda")):
        return OnHost()
    return OnDevice(device, matcher or TorchMatcher())


@dataclass(frozen=True)
class Seen(Generic[Picture]):
    """A frame, and how motion is estimated on it."""

    frame: Frame
    picture: Picture


class StepTracker(Generic[Picture, Field]):
    """Follows the frames of one camera, each back to the one before.

    Call `track` with every frame in the order of their stamps. Motion comes at the size of
    `work_image`. Another source is another tracker.

    Args:
        source: one of `SOURCES`. A codec's vectors are used where they lead to the frame of the
            call before. With `auto`, frames without, and frames that the codec coded anew, are
            estimated.
        method: how motion is measured where nobody states it.

    Attributes:
        latest: the frame that was followed last.
        stated: whether its motion was stated, by vectors or by the source `none`.
        standing: whether it was estimated, and explained little: the camera stands still, and
            noise is most of what changed.

    Raises:
        ConfigError: there is no such source.

    """

    def __init__(self, source: str, method: MotionMethod[Picture, Field]) -> None:
        """Start without a frame."""
        if source not in SOURCES:
            msg = f"motion.source is {source!r}; choose one of {', '.join(SOURCES)}"
            raise ConfigError(msg)
        self.source = source
        self.method = method
        self.latest: Seen[Picture] | None = None
        self.stated = False
        self.standing = False
        self._step: Field | None = None  # from the latest frame to the one before it

    def start(self, frame: Frame) -> Seen[Picture]:
        """Follow later frames from this one, whatever came before."""
        if self.latest is None or self.latest.frame is not frame:
            self._step = None
            self.latest = Seen(frame, self.method.see(frame))
        return self.latest

    def track(self, frame: Frame) -> Field | Reason:
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
        seen = Seen(frame, self.method.see(frame))
        stated = self._stated(latest, seen)
        if isinstance(stated, Reason):
            return stated
        step = stated or self.method.estimate(
            latest.picture, seen.picture, latest.frame.stamp_ns, self._step
        )
        limit = CUT_UNMOVED if self.source == "none" else CUT
        change = self.method.change(latest.picture, seen.picture, step)
        if change.unlike > limit:
            return Reason.SCENE_CUT
        self.stated = stated is not None
        self.standing = not self.stated and change.standing
        if self.standing:
            step = self.method.settle(latest.picture, seen.picture, step)
        self.latest, self._step = seen, step
        return step

    def correct(self, moved: Grey, image: Grey) -> NDArray[np.float32]:
        """Return what is left of the motion to the latest frame; see `MotionMethod.correct`."""
        return self.method.correct(moved, image, MOST_LEFT if self.standing else 1.0)

    def _stated(self, latest: Seen[Picture], seen: Seen[Picture]) -> Field | Reason | None:
        """Return the motion since the frame before; None where it is to be estimated."""
        since_ns = latest.frame.stamp_ns
        if self.source == "none":
            return self.method.still(seen.picture, since_ns)
        vectors = None if self.source == "flow" else _vectors(seen.frame, since_ns)
        if isinstance(vectors, Motion):
            return self.method.fitted(vectors, seen.picture)
        return vectors if self.source == "codec" else None


class MotionTracker(Generic[Picture, Field]):
    """Follows the frames of one camera back to the newest full computation.

    Call `start` with every frame that is computed in full and `track` with every other, in the
    order of their stamps; where `track` answers a `Reason`, the frame must be computed in full.
    Motion comes at the size of `work_image`. Another source is another tracker.

    Args:
        source: one of `SOURCES`, see `StepTracker`.
        method: how motion is measured where nobody states it.

    Raises:
        ConfigError: there is no such source.

    """

    def __init__(self, source: str, method: MotionMethod[Picture, Field]) -> None:
        """Start without a frame."""
        self._steps = StepTracker(source, method)
        self._key: Seen[Picture] | None = None  # the frame that motion leads to
        self._motion: Field | None = None  # from the latest frame to the key

    @property
    def source(self) -> str:
        """Where motion comes from."""
        return self._steps.source

    def start(self, frame: Frame) -> None:
        """Make this frame the one that later frames are followed back to."""
        self._key = self._steps.start(frame)
        self._motion = self._steps.method.still(self._key.picture, frame.stamp_ns)

    def track(self, frame: Frame) -> Field | Reason:
        """Return the motion from this frame to the frame of `start`, or why there is none."""
        key, before, method = self._key, self._steps.latest, self._steps.method
        step = self._steps.track(frame)
        if isinstance(step, Reason):
            return step
        assert key is not None
        assert self._motion is not None
        assert self._steps.latest is not None
        motion = method.compose(step, self._motion)
        if not self._steps.stated and before is not key:
            motion = method.refine(key.picture, self._steps.latest.picture, motion)
        self._motion = motion
        return motion


def jumped(before: Frame, frame: Frame) -> Reason | None:
    """Return why a frame cannot follow the one before, whatever they show; None if it can."""
    if not same_view(before, frame):
        return Reason.CAMERA
    if not 0 <= frame.stamp_ns - before.stamp_ns <= MAX_GAP_NS:
        return Reason.GAP
    return None


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
