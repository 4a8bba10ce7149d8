"""Pairs made of a single labelled frame: as if the camera had driven on, and things had moved.

The frame is the remembered one. The present one is made from it by a backward flow, so the flow
is exact everywhere and labels move with the nearest pixel. The flow is that of a camera that
turns (a homography) and drives over a road between walls (parallax); things cut out of another
frame stand in both images and move by themselves, so that something is hidden in the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import IGNORE_LABEL, Motion
from seg_node.core.warp import origin, pull, pull_mask
from seg_node.train.augment import PASTED_SHARE, Picture
from seg_node.train.pairs import FramePair, inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

TURN_RAD, SHAKE_RAD = 0.0015, 0.002
"""Standard deviation of the turn about each axis, per frame and once."""
SPEED = 0.07
"""Largest way per frame, in heights of the camera at the lower edge of the image."""
STANDING, REVERSING = 0.15, 0.08
"""Shares of pairs in which the camera stands, and in which it slowly drives back."""
WALLS = (3, 5)
"""Cells of the random walls beside the road."""
THING_PX, THING_GROWTH = 1.2, 0.004
"""Standard deviation of the own motion of things per frame, at a width of 480 pixels."""
USUAL_WIDTH = 480


def still_pair(
    picture: Picture, things: Picture | None, distance: int, rng: np.random.Generator
) -> FramePair:
    """Return a pair whose remembered frame is a picture.

    Args:
        picture: a labelled frame.
        things: another one, from which small things are cut out; None for none.
        distance: age of the remembered frame in frames.
        rng: draws motion and things.

    """
    flow = camera_flow(picture.labels.shape, distance, rng)
    image = np.asarray(pull(picture.image, flow), np.uint8)
    pair = FramePair(
        Picture(image, _pull_labels(picture.labels, flow)),
        picture.image,
        Motion(flow, inside(flow)),
    )
    return pair if things is None else _with_things(pair, things, distance, rng)


def camera_flow(
    size: tuple[int, ...], distance: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the backward flow of a camera that drove on for `distance` frames, [H, W, 2]."""
    height, width = size
    x, y = origin(np.zeros((height, width, 2), np.float32))
    centre = np.array((width * rng.uniform(0.35, 0.65), height * rng.uniform(0.3, 0.5)))
    nearness = np.maximum(
        (y - centre[1]) / (height - centre[1]), _walls(size, rng) * abs(x - centre[0]) / width
    ).clip(0, None)
    way = _way(distance, rng) * nearness
    share = way / (1.0 + way)
    turned = _turn(size, distance, rng) @ np.stack(
        [x + share * (centre[0] - x), y + share * (centre[1] - y), np.ones_like(x)]
    ).reshape(3, -1)
    there = (turned[:2] / turned[2]).reshape(2, height, width)
    return np.stack((there[0] - x, there[1] - y), -1).astype(np.float32)


def _way(distance: int, rng: np.random.Generator) -> float:
    """Return how far the camera drove, in heights of the camera."""
    kind = rng.random()
    speed = rng.uniform(0, SPEED)
    if kind < STANDING:
        return 0.0
    return float(-0.2 * speed if kind < STANDING + REVERSING else speed) * distance


def _walls(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    coarse = rng.uniform(0, 1.5, WALLS).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _turn(size: tuple[int, ...], distance: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the homography [3, 3] of a camera that turned; its focal length is the width."""
    height, width = size
    angles = rng.normal(0, TURN_RAD * distance, 3) + rng.normal(0, SHAKE_RAD, 3)
    rotation, _ = cv2.Rodrigues(angles)
    lens = np.array(((width, 0, (width - 1) / 2), (0, width, (height - 1) / 2), (0, 0, 1.0)))
    return np.asarray(lens @ rotation @ np.linalg.inv(lens), np.float64)


def _pull_labels(labels: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    x, y = origin(flow)
    moved = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderValue=float(IGNORE_LABEL))
    return np.asarray(moved, np.uint8)


def _with_things(
    pair: FramePair, things: Picture, distance: int, rng: np.random.Generator
) -> FramePair:
    """Put things of another frame into both images, each of which moves by itself."""
    things = _fitted(things, pair.picture.labels.shape)
    before = _cut_out(things.labels, rng)
    if not before.any():
        return pair
    flow = _thing_flow(before, pair.motion.flow, distance, rng)
    now = pull_mask(before, flow)
    pulled = np.asarray(pull(things.image, flow), np.uint8)
    picture = Picture(
        np.where(now[:, :, None], pulled, pair.picture.image),
        np.where(now, _pull_labels(things.labels, flow), pair.picture.labels),
    )
    key = np.where(before[:, :, None], things.image, pair.key)
    flow = np.where(now[:, :, None], flow, pair.motion.flow)
    hidden = ~now & pull_mask(before, flow)
    return FramePair(picture, key, Motion(flow, inside(flow) & ~hidden))


def _fitted(picture: Picture, size: tuple[int, ...]) -> Picture:
    if picture.labels.shape == size:
        return picture
    image = cv2.resize(picture.image, size[::-1], interpolation=cv2.INTER_AREA)
    labels = cv2.resize(picture.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return replace(picture, image=np.asarray(image, np.uint8), labels=np.asarray(labels, np.uint8))


def _cut_out(labels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where some of the small classes of a frame are, each with probability 1/2."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)
    small = (counts > 0) & (counts < PASTED_SHARE * labels.size)
    small[IGNORE_LABEL] = False
    chosen = small & (rng.random(len(small)) < 0.5)  # noqa: PLR2004 - a fair coin
    return np.asarray(chosen[labels], np.bool_)


def _thing_flow(
    mask: NDArray[np.bool_],
    camera: NDArray[np.float32],
    distance: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return a flow [H, W, 2] about that of the camera where things are, plus their own."""
    height, width = mask.shape
    x, y = origin(np.zeros((height, width, 2), np.float32))
    centre = x[0, mask.any(0)].mean(), y[mask.any(1), 0].mean()
    drift = rng.normal(0, THING_PX * distance * width / USUAL_WIDTH, 2) + camera[mask].mean(0)
    growth = rng.normal(0, THING_GROWTH * distance)
    flow = np.stack((drift[0] + growth * (x - centre[0]), drift[1] + growth * (y - centre[1])), -1)
    return np.asarray(flow, np.float32)
