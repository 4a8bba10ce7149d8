"""Painting one moment of the synthetic street: sky, ground, shadows, then quads back to front."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.data import street_art as art
from seg_node.data.street_scene import FAR_M

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.data.street_draw import Pixels, Texture
    from seg_node.data.street_geometry import Camera, Floats, Quads, View

SKY_SLOT, GROUND_SLOT, FIRST_SLOT = 0, 1, 2
"""Slots of the sky, the ground and the first quad in a painting."""

_SKY_KEY, _GROUND_KEY = -1, -2
_NEAR_M = 0.4
_SHADOW_FAR_M = 32.0
_DETAIL_FAR_M = 9.0
_MAX_LEVEL = 5
_OPAQUE = 110
_HAZE = (20.0, 95.0, 205)  # begins at metres, is full after metres more, grey level


@dataclass(frozen=True)
class Painting:
    """One rendered moment.

    Attributes:
        image: RGBA before exposure and lens, uint8 [H, W, 4].
        slots: which of the surfaces below each pixel shows, uint16 [H, W].
        ground: labels of the ground's rows, from row `horizon` on, uint8 [rows, W].
        horizon: first row of the ground.
        keys: identity of the surface in each slot.
        slot_labels: class id of each slot.
        chosen: which of the view's quads fill the slots from `FIRST_SLOT` on.

    """

    image: Pixels
    slots: NDArray[np.uint16]
    ground: Pixels
    horizon: int
    keys: NDArray[np.int64]
    slot_labels: Pixels
    chosen: NDArray[np.intp]

    def labels(self) -> Pixels:
        """Return the class id of every pixel, uint8 [H, W]."""
        labels = np.take(self.slot_labels, self.slots)
        below = np.s_[self.horizon :]
        np.copyto(labels[below], self.ground, where=self.slots[below] == GROUND_SLOT)
        return labels


def paint(view: View, size: tuple[int, int], ground_variant: int, haze: float) -> Painting:
    """Paint what the camera sees.

    Args:
        view: the camera and everything around it.
        size: height and width in pixels.
        ground_variant: which ground map.
        haze: how much of the colour is lost in the far distance, 0..1.

    """
    image = np.empty((*size, 4), np.uint8)
    slots = np.zeros(size, np.uint16)
    camera = view.camera
    ground, horizon = _paint_ground(image, camera, ground_variant)
    _paint_sky(image[: min(size[0], horizon + 2)], camera, view.sky)
    slots[horizon + 2 :] = GROUND_SLOT
    _paint_shadows(image, camera, view.shadows)
    quads = view.quads()
    seen = _visible(quads, camera, size)
    _paint_quads(image, slots, seen, _faded(seen.depth, haze))
    keys = np.concatenate([[_SKY_KEY, _GROUND_KEY], quads.key[seen.numbers]])
    labels = np.concatenate([view.sky.label, [255], quads.label[seen.numbers]]).astype(np.uint8)
    return Painting(image, slots, ground, horizon, keys, labels, seen.numbers)


@dataclass(frozen=True)
class _Seen:
    """The m quads in sight from back to front.

    Attributes:
        numbers: which quads of the view [m].
        textures: their pictures [m].
        matrices: homographies from (s, t, 1) to pixels [m, 3, 3].
        boxes: left, top, right, bottom in pixels [m, 4].
        share: share of the width that lies before the camera [m].
        depth: depth of the left edge and of the deeper edge, metres [m, 2].

    """

    numbers: NDArray[np.intp]
    textures: list[Texture]
    matrices: Floats
    boxes: NDArray[np.int64]
    share: Floats
    depth: Floats


def _faded(depth: Floats, haze: float) -> Floats:
    start, span, _ = _HAZE
    return np.asarray(np.clip((depth[:, 0] - start) / span * haze, 0.0, 0.6))


def _visible(quads: Quads, camera: Camera, size: tuple[int, int]) -> _Seen:
    """Choose the quads in sight and order them from back to front."""
    matrices = camera.homographies(quads)
    start, gain = matrices[:, 2, 2], matrices[:, 2, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The quads are upright and the camera level: depth and column depend on s alone.
        cross = np.clip(np.where(gain == 0, 0.0, (_NEAR_M - start) / gain), 0, 1)
    low = np.where(start < _NEAR_M, cross, 0.0)
    high = np.where(start + gain < _NEAR_M, cross, 1.0)
    deepest = np.maximum(start, start + gain)
    ends = np.stack((low, high))
    depth = np.maximum(gain * ends + start, _NEAR_M)
    u = (matrices[:, 0, 0] * ends + matrices[:, 0, 2]) / depth
    top = (matrices[:, 1, 0] * ends + matrices[:, 1, 2]) / depth
    bottom = top + matrices[:, 1, 1] / depth
    boxes = np.stack((
        np.maximum(0, np.ceil(u[0])), np.maximum(0, np.ceil(top.min(axis=0))),
        np.minimum(size[1], np.floor(u[1]) + 1),
        np.minimum(size[0], np.floor(bottom.max(axis=0)) + 1),
    ), axis=1)  # fmt: skip
    inside = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    facing = u[0] < u[1]
    inside &= (deepest > _NEAR_M) & facing & (depth.min(axis=0) < FAR_M)
    numbers = np.flatnonzero(inside)
    nearest = np.minimum(start, start + gain)[numbers]
    numbers = numbers[np.lexsort((-nearest, quads.layer[numbers]))]
    return _Seen(
        numbers, quads.texture[numbers].tolist(), matrices[numbers],
        boxes[numbers].astype(np.int64), (high - low)[numbers],
        np.stack((start, deepest), axis=1)[numbers],
    )  # fmt: skip


def _paint_quads(image: Pixels, slots: NDArray[np.uint16], seen: _Seen, haze: Floats) -> None:
    """Draw upright quads over what is there, and note the slot of each."""
    sizes = np.array([texture.pixels.shape[:2] for texture in seen.textures]).reshape(-1, 2)
    left, _, right, _ = seen.boxes.T
    texels = np.stack((
        sizes[:, 1] * seen.share / (right - left),
        sizes[:, 0] * seen.depth[:, 1] / seen.matrices[:, 1, 1],
    ), axis=1)  # fmt: skip
    levels = np.clip(np.log2(np.maximum(1.0, 0.8 * texels)), 0, _MAX_LEVEL).astype(np.int64)
    scaled = np.maximum(1, sizes[:, ::-1] >> levels)
    lookups = _lookup(seen.matrices, scaled, seen.boxes[:, :2])
    rows = zip(seen.textures, levels.tolist(), seen.boxes.tolist(), haze.tolist(), strict=True)
    for number, (texture, level, (x0, y0, x1, y1), fade) in enumerate(rows):
        patch = cv2.warpPerspective(
            texture.level(level[0], level[1]), lookups[number], (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )  # fmt: skip
        _, mask = cv2.threshold(cv2.extractChannel(patch, 3), _OPAQUE, 255, cv2.THRESH_BINARY)
        if fade > 0:
            cv2.convertScaleAbs(patch, dst=patch, alpha=1 - fade, beta=_HAZE[2] * fade)
        cv2.copyTo(patch, mask, image[y0:y1, x0:x1])
        np.putmask(slots[y0:y1, x0:x1], np.asarray(mask, dtype=np.bool_), number + FIRST_SLOT)


def _lookup(matrices: Floats, sizes: NDArray[np.int64], offsets: NDArray[np.int64]) -> Floats:
    """Return [m, 3, 3] from the pixel of a box that starts at `offset` to the picture's texel.

    The homographies `matrices` start from (s, t) 0..1; `sizes` are (columns, rows) of the picture.
    """
    inverse = np.linalg.inv(matrices)
    shifted = inverse.copy()
    shifted[:, :, 2] += (inverse[:, :, :2] * offsets[:, None, :]).sum(axis=2)
    shifted[:, :2] = shifted[:, :2] * sizes[:, :, None] - 0.5 * shifted[:, 2:]
    return np.asarray(shifted)


def _warp(
    picture: Pixels, matrix: Floats, into: Pixels, first_row: int, border: int = cv2.BORDER_WRAP
) -> None:
    """Draw a picture through its homography into whole rows of an image."""
    size = np.array([picture.shape[1::-1]], np.int64)
    lookup = _lookup(matrix[None], size, np.array([[0, first_row]], np.int64))[0]
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpPerspective(picture, lookup, into.shape[1::-1], dst=into, flags=how, borderMode=border)


def _ground_labels(classes: Pixels, matrix: Floats, size: tuple[int, int], first: int) -> Pixels:
    """Look up the ground's classes, which depend on x alone: uint8 [size]."""
    sizes = np.array([classes.shape[1::-1]], np.int64)
    lookup = _lookup(matrix[None], sizes, np.array([[0, first]], np.int64))[0]
    lookup[1] = 0.0  # always the first row
    found = cv2.warpPerspective(
        classes, lookup, size[::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(found, dtype=np.uint8)


def _paint_sky(image: Pixels, camera: Camera, sky: Quads) -> None:
    texture: Texture = sky.texture[0]
    _warp(texture.pixels, camera.homographies(sky)[0], image, 0, cv2.BORDER_REPLICATE)


def _paint_ground(image: Pixels, camera: Camera, variant: int) -> tuple[Pixels, int]:
    """Paint the ground into the rows below the horizon; return its labels and the first row."""
    height, width = image.shape[:2]
    texture, classes = art.ground(variant)
    reach = camera.focal * camera.position[2]
    first = min(height - 1, max(0, math.ceil(camera.middle[1] + reach / (FAR_M * 2))))
    depth = reach / (np.arange(first, height) - camera.middle[1])
    level_x, level_y = (
        np.clip(np.floor(np.log2(foot) + 0.4), 0, _MAX_LEVEL).astype(int)
        for foot in (
            depth / camera.focal / art.GROUND_COLUMN_M, depth**2 / reach / art.GROUND_ROW_M,
        )
    )  # fmt: skip
    matrix = _tile(camera, (2 * art.GROUND_HALF_M, art.GROUND_PERIOD_M), art.GROUND_PERIOD_M)
    labels = _ground_labels(classes, matrix, (height - first, width), first)
    ends = np.flatnonzero((np.diff(level_x) != 0) | (np.diff(level_y) != 0)) + 1
    bounds = [0, *ends.tolist(), len(depth)]
    for start, stop in pairwise(bounds):
        picture = texture.level(int(level_x[start]), int(level_y[start]))
        _warp(picture, matrix, image[first + start : first + stop], first + start)
    near = first + int(np.searchsorted(-depth, -_DETAIL_FAR_M))
    if near < height:
        _roughen(image[near:], camera, near)
    return labels, first


def _roughen(band: Pixels, camera: Camera, first_row: int) -> None:
    """Add fine grain, fixed to the world, to the nearest rows of the ground."""
    grain = np.full(band.shape[:2], 128, np.uint8)
    matrix = _tile(camera, (art.DETAIL_WIDE_M, art.DETAIL_LONG_M), art.DETAIL_M)
    _warp(art.ground_detail(), matrix, grain, first_row, cv2.BORDER_TRANSPARENT)
    cv2.addWeighted(band, 1.0, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGBA), 0.35, -128 * 0.35, band)


def _tile(camera: Camera, size: tuple[float, float], period: float) -> Floats:
    """Return the homography of a ground map of size (x, y) metres that repeats along y.

    It is centred on the road and starts at the last whole period behind the camera.
    """
    x, y, z = camera.position
    start = math.floor(y / period) * period
    axes = np.array([[size[0], 0, -size[0] / 2 - x], [0, size[1], start - y], [0, 0, -z]])
    return np.asarray(camera.matrix() @ axes)


def _paint_shadows(image: Pixels, camera: Camera, shadows: Floats) -> None:
    """Darken the ground under objects that are near enough for it to be seen."""
    x, y, z = camera.position
    ahead = shadows[:, 1] + shadows[:, 3] - y
    for left, near, wide, long in shadows[(ahead > 1.0) & (ahead < _SHADOW_FAR_M)].tolist():
        axes = np.array([[wide, 0, left - x], [0, long, near - y], [0, 0, -z]])
        _paint_shadow(image, camera.matrix() @ axes)


def _paint_shadow(image: Pixels, matrix: Floats) -> None:
    corners = matrix @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1.0, 1, 1, 1]])
    depth = corners[2]
    height, width = image.shape[:2]
    if depth.max() < 1.0:
        return
    if depth.min() > _NEAR_M:
        u, v = corners[:2] / depth
    else:  # It reaches beside the camera: look at all rows from its far end on.
        u = np.array((0.0, width))
        v = np.array((corners[1, depth.argmax()] / depth.max(), height))
    left, top = max(0, math.floor(u.min())), max(0, math.floor(v.min()))
    right, bottom = min(width, math.ceil(u.max())), min(height, math.ceil(v.max()))
    if left >= right or top >= bottom:
        return
    blob = art.shadow()
    size, offset = np.array([blob.shape[1::-1]], np.int64), np.array([[left, top]], np.int64)
    factor = cv2.warpPerspective(
        blob, _lookup(matrix[None], size, offset)[0], (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255, 255),
    )  # fmt: skip
    part = image[top:bottom, left:right]
    cv2.multiply(part, factor, dst=part, scale=1 / 255)
