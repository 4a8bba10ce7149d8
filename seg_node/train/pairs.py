"""Pairs of a present and a remembered frame, with the motion between them, to train LOW on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import IGNORE_LABEL, Motion
from seg_node.core.warp import origin
from seg_node.train.augment import jitter_color, jpeg_round_trip, PADDING_GREY, Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.train.low_settings import LowTraining

OWN_JITTER = 0.2
"""Part of the change of colours that each image of a pair has of its own."""
GRAIN = 4.0
"""Largest standard deviation of the noise of each image, in grey levels."""


@dataclass(frozen=True)
class FramePair:
    """One training sample.

    Attributes:
        picture: the present frame, uint8 [H, W, 3], and its labels, void where unknown.
        key: the remembered frame, RGB, uint8 [H, W, 3].
        motion: from the present frame to the remembered one, at their size.

    """

    picture: Picture
    key: NDArray[np.uint8]
    motion: Motion


def inside(flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a flow [H, W, 2] points into the image, bool [H, W]."""
    height, width = flow.shape[:2]
    x, y = origin(flow)
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1), np.bool_)


def augment_pair(pair: FramePair, how: LowTraining, rng: np.random.Generator) -> FramePair:
    """Scale, crop and flip both images and the motion alike, and disturb the colours.

    Each image has some change of colour, blur, noise and compression of its own. What the crop
    cuts off of the remembered frame is no longer valid.
    """
    factor = float(np.exp(rng.uniform(*np.log((how.scale_min, how.scale_max)))))
    moved = _crop(_scaled(pair, factor), how.crop, rng)
    if rng.random() < how.flip:
        moved = flipped(moved)
    look = int(rng.integers(1 << 32))
    image, key = (
        _disturbed(jitter_color(x, how.jitter, np.random.default_rng(look)), how, rng)
        for x in (moved.picture.image, moved.key)
    )
    return FramePair(Picture(image, moved.picture.labels), key, moved.motion)


def _scaled(pair: FramePair, factor: float) -> FramePair:
    height, width = pair.picture.labels.shape
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image, key = (
        np.asarray(cv2.resize(x, size, interpolation=shrink), np.uint8)
        for x in (pair.picture.image, pair.key)
    )
    labels, valid = (
        np.asarray(cv2.resize(x, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        for x in (pair.picture.labels, pair.motion.valid.view(np.uint8))
    )
    flow = cv2.resize(pair.motion.flow, size, interpolation=cv2.INTER_LINEAR)
    scale = np.array((size[0] / width, size[1] / height), np.float32)
    motion = Motion(np.asarray(flow * scale, np.float32), valid.view(np.bool_))
    return FramePair(Picture(image, labels), key, motion)


def _crop(pair: FramePair, crop: tuple[int, int], rng: np.random.Generator) -> FramePair:
    """Cut a random part of size (width, height), padded at the right and the bottom."""
    width, height = crop
    labels = pair.picture.labels
    left = int(rng.integers(max(0, labels.shape[1] - width) + 1))
    top = int(rng.integers(max(0, labels.shape[0] - height) + 1))
    part = np.s_[top : top + height, left : left + width]
    down, right = height - labels[part].shape[0], width - labels[part].shape[1]

    def cut(plane: NDArray[np.generic], fill: int) -> NDArray[np.generic]:
        padding = ((0, down), (0, right), *(((0, 0),) * (plane.ndim - 2)))
        return np.pad(plane[part], padding, constant_values=fill)

    image, key = (
        np.asarray(cut(x, PADDING_GREY), np.uint8) for x in (pair.picture.image, pair.key)
    )
    flow = np.asarray(cut(pair.motion.flow, 0), np.float32)
    valid = np.asarray(cut(pair.motion.valid, 0), np.bool_)
    picture = Picture(image, np.asarray(cut(labels, IGNORE_LABEL), np.uint8))
    # Padding is no part of the remembered frame either.
    seen = labels.shape[0] - top, labels.shape[1] - left
    x, y = origin(flow)
    valid = valid & inside(flow) & (x <= seen[1] - 1) & (y <= seen[0] - 1)
    return FramePair(picture, key, Motion(flow, valid))


def flipped(pair: FramePair) -> FramePair:
    """Mirror both images left to right; the flow's x turns round."""
    flow = pair.motion.flow[:, ::-1] * np.array((-1, 1), np.float32)
    motion = Motion(np.ascontiguousarray(flow), np.ascontiguousarray(pair.motion.valid[:, ::-1]))
    picture = Picture(pair.picture.image[:, ::-1], pair.picture.labels[:, ::-1])
    return FramePair(picture, np.ascontiguousarray(pair.key[:, ::-1]), motion)


def _disturbed(
    image: NDArray[np.uint8], how: LowTraining, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Give one image of a pair what the other does not have."""
    image = jitter_color(image, OWN_JITTER * how.jitter, rng)
    if rng.random() < how.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)), np.uint8)
    grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, GRAIN))
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < how.jpeg:
        image = jpeg_round_trip(image, int(rng.integers(40, 96)))
    return image
