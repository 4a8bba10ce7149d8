"""Consecutive frames to draw pairs from: rendered streets with exact motion, and real clips."""

from __future__ import annotations

from dataclasses import dataclass
import logging
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.motion import compose, fit
from seg_node.core.types import DataError, IGNORE_LABEL, Motion
from seg_node.data.street import Street
from seg_node.train.augment import Picture
from seg_node.train.batches import STREET_FRAMES, STREET_SEED_OFFSET
from seg_node.train.pairs import FramePair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.data.sources import Clip, FrameRef, Source
    from seg_node.train.low_settings import LowTraining

LOG = logging.getLogger(__name__)
RATE_HZ = 15.0
"""Rate that distances are meant at; quicker clips are thinned out."""
STREET_RATE_HZ = 30.0
"""Rate of rendered streets: they are driven twice as fast as CamVid (median flow over 11 frames
at 15 Hz: 70 pixels there, 36 here)."""
SLOWEST_HZ = 5.0
"""Clips of a lower rate have no motion that can be followed."""
HEIGHT = 360
"""Real frames are shrunk to this height, about that of the labelled ones."""
SAID_EVERY = 10
"""Streets between two lines about rendering."""


@dataclass(frozen=True)
class Steps:
    """Motion from each of some consecutive frames to the one before.

    Attributes:
        flows: float16 [h, w, 2] each: 0.03 pixels at most are lost. Nobody looks at the first.
        valid: bool [h, w] each.

    """

    flows: Sequence[NDArray[np.float16]]
    valid: Sequence[NDArray[np.bool_]]

    def motion(self, now: int, distance: int) -> Motion:
        """Return the motion from frame `now` to the one `distance` frames earlier."""
        motion = self._step(now)
        for later in range(now - 1, now - distance, -1):
            motion = compose(motion, self._step(later))
        return motion

    def _step(self, now: int) -> Motion:
        return Motion(self.flows[now].astype(np.float32), self.valid[now])


@dataclass(frozen=True)
class Ride:
    """Consecutive frames of one camera.

    Attributes:
        images: RGB, uint8 [H, W, 3] each.
        estimated: motion as the node estimates it, from frame to frame.
        labels: uint8 [H, W] each; None where there are none.
        exact: motion as it is; None where nobody knows.

    """

    images: Sequence[NDArray[np.uint8]]
    estimated: Steps
    labels: Sequence[NDArray[np.uint8]] | None = None
    exact: Steps | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.images)

    def pair(self, now: int, distance: int, *, estimate: bool = False) -> FramePair:
        """Return frame `now` and the one `distance` frames earlier; 1 <= distance <= now.

        Args:
            now: number of the present frame.
            distance: age of the remembered frame, in frames.
            estimate: take the estimated motion even if it is known exactly.

        """
        image, key = self.images[now], self.images[now - distance]
        size = (image.shape[0], image.shape[1])
        void = np.full(size, IGNORE_LABEL, np.uint8)
        picture = Picture(image, self.labels[now] if self.labels else void)
        steps = self.estimated if estimate or self.exact is None else self.exact
        return FramePair(picture, key, fit(steps.motion(now, distance), size))


def estimated_steps(images: Sequence[NDArray[np.uint8]]) -> Steps:
    """Estimate the motion from frame to frame, at the size of `work_image`."""
    estimator = FlowEstimator()
    greys = [work_image(image) for image in images]
    made = [
        estimator.estimate(old, new)
        for old, new in zip((greys[0], *greys[:-1]), greys, strict=True)
    ]
    return Steps([m.flow.astype(np.float16) for m in made], [m.valid for m in made])


def render_rides(config: LowTraining) -> list[Ride]:
    """Render `streets` streets of `street_frames` frames; about 90 ms and 2.2 MB a frame."""
    rng = np.random.default_rng((config.seed, 8))
    made = []
    for index in range(config.streets):
        first = 1 + int(rng.integers(STREET_FRAMES - config.street_frames))
        made.append(render_ride(STREET_SEED_OFFSET + index, first, config.street_frames))
        if (index + 1) % SAID_EVERY == 0:
            LOG.info("%d of %d streets rendered", index + 1, config.streets)
    return made


def render_ride(seed: int, first: int, count: int, size: tuple[int, int] = (480, 360)) -> Ride:
    """Render frames of one street.

    Args:
        seed: of the street.
        first: its first frame, from 1 on.
        count: number of frames.
        size: (width, height) in pixels.

    """
    street = Street(seed, *size, rate_hz=STREET_RATE_HZ)
    frames = [street.render(first + index) for index in range(count)]
    images = [made.frame.image for made in frames]
    flows = [made.flow.astype(np.float16) for made in frames]
    exact = Steps(flows, [~made.occluded for made in frames])
    return Ride(images, estimated_steps(images), [made.labels for made in frames], exact)


def real_rides(source: Source, held_bytes: int) -> list[Ride]:
    """Read the clips of a source, thinned out to about 15 Hz and shrunk to a height of 360.

    Args:
        source: data with consecutive frames.
        held_bytes: memory for them; what does not fit is left out, and a line in the log says so.

    Raises:
        DataError: it has no two frames that follow each other quickly enough.

    """
    clips = [c for c in source.clips() if c.rate_hz >= SLOWEST_HZ and len(_thinned(c)) > 1]
    if not clips:
        msg = (
            f"{source.spec} has no consecutive frames at {SLOWEST_HZ:g} Hz or more; name a video "
            "or a bag as unlabelled data"
        )
        raise DataError(msg)
    free = held_bytes
    rides: list[Ride] = []
    for clip in clips:
        images: list[NDArray[np.uint8]] = []
        for ref in _thinned(clip):
            image = _shrunk(ref.load().frame.image)
            free -= image.nbytes
            if free < 0:
                LOG.warning("%s: only what fits %d MiB is used", source.spec, held_bytes >> 20)
                return [*rides, _real(images)] if len(images) > 1 else rides
            images.append(image)
        rides.append(_real(images))
    return rides


def _real(images: Sequence[NDArray[np.uint8]]) -> Ride:
    return Ride(images, estimated_steps(images))


def _thinned(clip: Clip) -> Sequence[FrameRef]:
    return clip.frames[:: max(1, round(clip.rate_hz / RATE_HZ))]


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if height <= HEIGHT:
        return image
    size = (round(width * HEIGHT / height), HEIGHT)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
