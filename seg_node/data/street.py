"""The synthetic street: a procedural drive with exact labels, motion and occlusion.

Every surface is a flat quad with a picture (`street_scene`), so both its image and its motion are
plane homographies: what is drawn at a pixel, and where that point was one frame earlier, follow
from the same two matrices. Nothing is estimated and nothing is read from files.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_node.core.types import ConfigError, Frame
from seg_node.data import street_art as art
from seg_node.data.street_scene import Camera, FAR_M, Floats, Quads, View, World

if TYPE_CHECKING:
    from collections.abc import Iterator

Pixels = NDArray[np.uint8]

MIN_SIDE = 16
"""Smallest width and height, in pixels."""

_GROUND_KEY = -2
_GROUND, _FIRST_QUAD = 1, 2  # slots of a painting; slot 0 is the sky
_NEAR_M = 0.4
_NOWHERE = 65535
_MAX_LEVEL = 5
_OPAQUE = 110


@dataclass(frozen=True)
class StreetFrame:
    """One frame of the street and all that is known about it.

    Attributes:
        frame: the camera's image; its stamp is index times period.
        labels: class id of every pixel, in the order of `CAMVID_CLASSES`, uint8 [H, W].
        flow: pixel p of this image was at p + flow(p) in the image before, (x, y) in pixels,
            float32 [H, W, 2]; zero in frame 0.
        occluded: true where the point of the surface was not visible in the image before: it was
            outside or behind something; true everywhere in frame 0. Bool [H, W].

    """

    frame: Frame
    labels: NDArray[np.uint8]
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]


@dataclass(frozen=True)
class _Painting:
    """One rendered moment.

    Attributes:
        image: RGBA before exposure and lens, uint8 [H, W, 4].
        slots: which of the surfaces below each pixel shows, uint16 [H, W].
        ground: labels of the ground's rows, from row `horizon` on, uint8 [rows, W].
        horizon: first row of the ground.
        keys: identity of the surface in each slot.
        labels: class id of each slot.
        chosen: which quads of the view fill the slots from `_FIRST_QUAD` on.

    """

    image: Pixels
    slots: NDArray[np.uint16]
    ground: Pixels
    horizon: int
    keys: NDArray[np.int64]
    labels: Pixels
    chosen: NDArray[np.intp]


class Street:
    """A drive along an endless street, one per seed."""

    def __init__(self, seed: int, width: int = 480, height: int = 360, rate_hz: float = 15.0) -> None:
        """Lay out the street of this seed.

        Args:
            seed: any whole number from 0 on; each gives another street, journey and weather.
            width: width of the images in pixels.
            height: height of the images in pixels.
            rate_hz: frames per second of the camera.

        Raises:
            ConfigError: a size, the rate or the seed is out of range.

        """
        if width < MIN_SIDE or height < MIN_SIDE:
            msg = f"a street of {width}x{height} pixels is too small: use {MIN_SIDE}x{MIN_SIDE} or more"
            raise ConfigError(msg)
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            msg = f"rate_hz is {rate_hz}: use a number of frames per second above 0"
            raise ConfigError(msg)
        if seed < 0:
            msg = f"seed is {seed}: use 0 or more"
            raise ConfigError(msg)
        self._seed, self._width, self._height, self._rate_hz = seed, width, height, rate_hz
        self._world = World(seed, width, height)
        self._look = _Look(np.random.default_rng((seed, 4)))
        self._last: tuple[int, View, _Painting] | None = None

    def __iter__(self) -> Iterator[StreetFrame]:
        """Yield frames from index 0 on, without end."""
        index = 0
        while True:
            yield self.render(index)
            index += 1

    def frames(self, count: int) -> Iterator[StreetFrame]:
        """Yield the frames 0 .. count - 1."""
        for index in range(count):
            yield self.render(index)

    def render(self, index: int) -> StreetFrame:
        """Return frame `index` (0 or more); it does not depend on what was rendered before.

        Raises:
            ConfigError: the index is negative.

        """
        view, painting = self._painted(index)
        if index == 0:
            flow = np.zeros((self._height, self._width, 2), np.float32)
            occluded = np.ones((self._height, self._width), np.bool_)
        else:
            last = self._last
            if last is None or last[0] != index - 1:
                last = (index - 1, *self._painted(index - 1))
            _, view_before, before = last
            flow = self._flow(view, painting, view_before)
            occluded = _occluded(flow, painting, before)
        self._last = (index, view, painting)
        frame = Frame(self._developed(index, painting), round(index * 1e9 / self._rate_hz),
                      "street_camera", "street")  # fmt: skip
        return StreetFrame(frame, _labels(painting), flow, occluded)

    def picture(self, index: int) -> tuple[Pixels, Pixels]:
        """Return image and labels of frame `index`, as `render` does, without the motion.

        Raises:
            ConfigError: the index is negative.

        """
        _, painting = self._painted(index)
        return self._developed(index, painting), _labels(painting)

    def _painted(self, index: int) -> tuple[View, _Painting]:
        if index < 0:
            msg = f"frame {index} was asked for: the street starts at frame 0"
            raise ConfigError(msg)
        if self._last is not None and self._last[0] == index:
            return self._last[1:]
        view = self._world.view(index / self._rate_hz)
        return view, self._paint(view)

    def _paint(self, view: View) -> _Painting:
        """Paint sky, ground and shadows, then everything else from far to near."""
        image = np.empty((self._height, self._width, 4), np.uint8)
        slots = np.zeros((self._height, self._width), np.uint16)
        camera = view.camera
        sky = self._world.backdrop(camera)
        _paint_sky(image, camera.homographies(sky)[0], sky.texture[0])
        ground, horizon = _paint_ground(image, camera, self._world.ground_variant)
        slots[horizon:] = _GROUND
        for shadow in view.shadows:
            _paint_shadow(image, camera, shadow)
        quads = Quads.join([view.standing, view.moving])
        chosen, matrices, boxes, shares = _visible(quads, camera, image.shape)
        haze = np.minimum(0.6, np.maximum(0.0, matrices[:, 2, 2] - 20.0) / 95.0 * self._look.haze)
        for slot, number in enumerate(chosen):
            box = tuple(boxes[slot].tolist())
            texture: art.Texture = quads.texture[number]
            _paint_quad(image, slots, (matrices[slot], box, shares[slot], haze[slot]),
                        texture, slot + _FIRST_QUAD)  # fmt: skip
        keys = np.concatenate([[-1, _GROUND_KEY], quads.key[chosen]])
        labels = np.concatenate([sky.label, [255], quads.label[chosen]]).astype(np.uint8)
        return _Painting(image, slots, ground, horizon, keys, labels, chosen)

    def _flow(self, view: View, painting: _Painting, before: View) -> NDArray[np.float32]:
        """Return the exact backward flow: each surface's plane seen by the earlier camera."""
        quads = Quads.join([view.standing, view.moving])[painting.chosen]
        # What stands has the same place in both; what moves is the same list in another pose.
        quads_before = Quads.join([view.standing, before.moving])[painting.chosen]
        here = np.concatenate([_base(self._world, view.camera), view.camera.homographies(quads)])
        there = np.concatenate([
            _base(self._world, before.camera), before.camera.homographies(quads_before)
        ])  # fmt: skip
        back = there @ np.linalg.inv(here)
        return _plane_flow(back, painting.slots)

    def _developed(self, index: int, painting: _Painting) -> Pixels:
        """Apply exposure, colour, the lens's softness and sensor noise: uint8 [H, W, 3]."""
        rgb = cv2.cvtColor(painting.image, cv2.COLOR_RGBA2RGB)
        cv2.GaussianBlur(rgb, (3, 3), 0.6, dst=rgb)
        cv2.LUT(rgb, self._look.curve(index / self._rate_hz), dst=rgb)
        grain = art.grain(self._height, self._width)
        y, x = np.random.default_rng((self._seed, 5, index)).integers(0, 32, 2)
        noise = grain[y : y + self._height, x : x + self._width]
        return np.asarray(cv2.addWeighted(rgb, 1.0, noise, 1.0, -128.0, dst=rgb), dtype=np.uint8)


class _Look:
    """The weather and the camera's colours for one seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.haze = float(rng.uniform(0.15, 0.6))
        self._gain = rng.uniform(0.82, 1.12) * (1 + rng.uniform(-0.05, 0.05, 3))
        self._gamma = float(rng.uniform(0.85, 1.2))
        self._wave = rng.uniform(0, 2 * np.pi, 2)

    def curve(self, time_s: float) -> Pixels:
        """Return the tone curve at a time, uint8 [1, 256, 3]; the light changes slowly."""
        light = 1 + 0.05 * math.sin(time_s / 3.1 + self._wave[0])
        light += 0.04 * math.sin(time_s / 7.7 + self._wave[1])
        level = (np.arange(256.0)[None, :, None] / 255) ** self._gamma
        return np.clip(255 * level * (self._gain * light) + 4, 0, 255).astype(np.uint8)


def _base(world: World, camera: Camera) -> Floats:
    """Return the homographies of slots 0 and 1, [2, 3, 3]: sky and ground."""
    axes = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]).T
    # Texture metres count from the camera's own place, so that far along the road the
    # float64 matrix stays well conditioned; _plane_flow needs one origin for both frames.
    axes[:, 2] = -np.array(camera.position)
    ground = camera.matrix() @ axes
    return np.concatenate([camera.homographies(world.backdrop(camera)), ground[None]])


def _plane_flow(back: Floats, slots: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return [H, W, 2]: each pixel through its slot's homography, minus itself."""
    height, width = slots.shape
    index = slots.astype(np.intp)
    table = (back / back[:, 2:, 2:]).reshape(-1, 9).astype(np.float32)
    a, b, c, d, e, f, g, h, _ = (np.take(table[:, part], index) for part in range(9))
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    g *= x
    h *= y
    g += h
    g += 1
    np.reciprocal(g, out=g)
    flow = np.empty((height, width, 2), np.float32)
    for part, (by_x, by_y, rest, own) in enumerate(((a, b, c, x), (d, e, f, y))):
        by_x *= x
        by_y *= y
        by_x += by_y
        by_x += rest
        by_x *= g
        np.subtract(by_x, own, out=flow[..., part])
    return flow


def _occluded(
    flow: NDArray[np.float32], painting: _Painting, before: _Painting
) -> NDArray[np.bool_]:
    """Return true where the pixel the flow points at shows another surface, or lies outside."""
    height, width = painting.slots.shape
    slot_of = dict(zip(before.keys.tolist(), range(len(before.keys)), strict=True))
    same = np.array([slot_of.get(key, _NOWHERE) for key in painting.keys.tolist()], np.uint16)
    expected = np.take(same, painting.slots)
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    seen = cv2.remap(before.slots, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                     borderValue=float(_NOWHERE - 1))  # fmt: skip
    return np.asarray(seen != expected)


def _labels(painting: _Painting) -> Pixels:
    labels = np.take(painting.labels, painting.slots)
    below = np.s_[painting.horizon :]
    np.copyto(labels[below], painting.ground, where=painting.slots[below] == _GROUND)
    return labels


def _paint_sky(image: Pixels, matrix: Floats, texture: art.Texture) -> None:
    picture = texture.pixels
    _warp(picture, matrix, image, border=cv2.BORDER_REPLICATE)


def _warp(
    picture: Pixels, matrix: Floats, into: Pixels, *, offset: tuple[int, int] = (0, 0),
    how: int = cv2.INTER_LINEAR, border: int = cv2.BORDER_CONSTANT,
) -> None:  # fmt: skip
    """Draw a picture that spans (s, t) 0..1 through its homography; `into` starts at `offset`."""
    rows, columns = picture.shape[:2]
    to_texel = np.array([[columns, 0, -0.5], [0, rows, -0.5], [0, 0, 1.0]])
    shift = np.array([[1.0, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1]])
    cv2.warpPerspective(
        picture, to_texel @ np.linalg.inv(matrix) @ shift, (into.shape[1], into.shape[0]),
        dst=into, flags=how | cv2.WARP_INVERSE_MAP, borderMode=border,
    )  # fmt: skip


def _paint_ground(image: Pixels, camera: Camera, variant: int) -> tuple[Pixels, int]:
    """Paint the ground into the rows below the horizon; return its labels and the first row."""
    height, width = image.shape[:2]
    texture, classes = art.ground(variant)
    eye, horizon_v = camera.position[2], camera.middle[1]
    first = min(height - 1, max(0, math.ceil(horizon_v + camera.focal * eye / (FAR_M * 2))))
    rows = np.arange(first, height)
    depth = camera.focal * eye / (rows - horizon_v)
    levels = [
        np.clip(np.floor(np.log2(foot / texel) + 0.4), 0, _MAX_LEVEL).astype(int)
        for foot, texel in (
            (depth / camera.focal, art.GROUND_COLUMN_M),
            (depth**2 / (camera.focal * eye), art.GROUND_ROW_M),
        )
    ]
    matrix = _tile(camera, (2 * art.GROUND_HALF_M, art.GROUND_PERIOD_M), (-art.GROUND_HALF_M, 0.0))
    labels = np.empty((height - first, width), np.uint8)
    _warp(classes, matrix, labels, offset=(0, first), how=cv2.INTER_NEAREST,
          border=cv2.BORDER_WRAP)  # fmt: skip
    ends = np.flatnonzero((np.diff(levels[0]) != 0) | (np.diff(levels[1]) != 0)) + 1
    bounds = [0, *ends.tolist(), len(rows)]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        picture = texture.level(int(levels[0][start]), int(levels[1][start]))
        _warp(picture, matrix, image[first + start : first + stop], offset=(0, first + start),
              border=cv2.BORDER_WRAP)  # fmt: skip
    near = int(np.searchsorted(-depth, -14.0))
    if near < len(rows):
        band = image[first + near :]
        detail = np.empty_like(band)
        _warp(art.ground_detail(), _tile(camera, (art.DETAIL_M, art.DETAIL_M), (0.0, 0.0)), detail,
              offset=(0, first + near), border=cv2.BORDER_WRAP)  # fmt: skip
        cv2.addWeighted(band, 1.0, detail, 0.35, -128 * 0.35, dst=band)
    return labels, first


def _tile(camera: Camera, size: tuple[float, float], start: tuple[float, float]) -> Floats:
    """Return the homography of one ground tile near the camera, whose size is (x, y) metres."""
    x, y, z = camera.position
    whole = math.floor(y / size[1]) * size[1]
    axes = np.array([[size[0], 0, start[0] - x], [0, size[1], whole + start[1] - y], [0, 0, -z]])
    return np.asarray(camera.matrix() @ axes)


def _paint_shadow(image: Pixels, camera: Camera, shadow: Floats) -> None:
    """Darken the ground under an object."""
    left, near, wide, long = shadow.tolist()
    x, y, z = camera.position
    matrix = camera.matrix() @ np.array([[wide, 0, left - x], [0, long, near - y], [0, 0, -z]])
    corners = matrix @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1.0, 1, 1, 1]])
    if corners[2].max() < 1.0 or corners[2].min() > FAR_M / 2:
        return
    if corners[2].min() > _NEAR_M:
        u, v = corners[:2] / corners[2]
    else:  # It reaches beside the camera: look at all rows from its far end on.
        u = np.array((0.0, image.shape[1]))
        v = np.array((corners[1, corners[2].argmax()] / corners[2].max(), image.shape[0]))
    box = _clip((u.min(), v.min(), u.max(), v.max()), image.shape)
    if box is None:
        return
    part = image[box[1] : box[3], box[0] : box[2]]
    factor = np.full_like(part, 255)
    rows, columns = art.shadow().shape[:2]
    to_texel = np.diag((columns, rows, 1.0)) @ np.linalg.inv(matrix)
    shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
    cv2.warpPerspective(art.shadow(), to_texel @ shift, (part.shape[1], part.shape[0]), dst=factor,
                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255, 255))  # fmt: skip
    cv2.multiply(part, factor, dst=part, scale=1 / 255)


def _clip(
    box: tuple[float, float, float, float], shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Return the whole pixels of (left, top, right, bottom) inside the image, if any."""
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(shape[1], math.ceil(box[2]) + 1), min(shape[0], math.ceil(box[3]) + 1)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _visible(
    quads: Quads, camera: Camera, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], Floats, NDArray[np.int64], Floats]:
    """Choose the quads in sight and order them from back to front.

    Returns:
        Their numbers [m], homographies [m, 3, 3], boxes (left, top, right, bottom) in pixels
        [m, 4], and the share of the width that lies before the camera [m].

    """
    matrices = camera.homographies(quads)
    start, gain = matrices[:, 2, 2], matrices[:, 2, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The quads are upright and the camera level: depth, column depend on s alone.
        cross = np.where(gain == 0, 0.0, (_NEAR_M - start) / gain)
    low = np.where(start < _NEAR_M, np.clip(cross, 0, 1), 0.0)
    high = np.where(start + gain < _NEAR_M, np.clip(cross, 0, 1), 1.0)
    ahead = (np.maximum(start, start + gain) > _NEAR_M) & (np.linalg.det(matrices) > 0)
    ends = np.stack((low, high))
    depth = np.maximum(matrices[:, 2, 0] * ends + start, _NEAR_M)
    u = (matrices[:, 0, 0] * ends + matrices[:, 0, 2]) / depth
    top = (matrices[:, 1, 0] * ends + matrices[:, 1, 2]) / depth
    bottom = top + matrices[:, 1, 1] / depth
    boxes = np.stack((
        np.maximum(0, np.ceil(u[0])), np.maximum(0, np.ceil(top.min(axis=0))),
        np.minimum(shape[1], np.floor(u[1]) + 1),
        np.minimum(shape[0], np.floor(bottom.max(axis=0)) + 1),
    ), axis=1)  # fmt: skip
    inside = ahead & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    numbers = np.flatnonzero(inside & (depth.min(axis=0) < FAR_M))
    nearest = np.minimum(start, start + gain)[numbers]
    numbers = numbers[np.lexsort((-nearest, quads.layer[numbers]))]
    return numbers, matrices[numbers], boxes[numbers].astype(np.int64), (high - low)[numbers]


def _paint_quad(
    image: Pixels, slots: NDArray[np.uint16],
    place: tuple[Floats, tuple[int, int, int, int], float, float],
    texture: art.Texture, slot: int,
) -> None:  # fmt: skip
    """Draw one upright quad over what is there, and note its slot."""
    matrix, (left, top, right, bottom), share, haze = place
    rows, columns = texture.pixels.shape[:2]
    depth = max(_NEAR_M, matrix[2, 2], matrix[2, 2] + matrix[2, 0])
    halve_x = int(math.log2(max(1.0, 0.8 * columns * share / (right - left))))
    halve_y = int(math.log2(max(1.0, 0.8 * rows * depth / matrix[1, 1])))
    picture = texture.level(min(halve_x, _MAX_LEVEL), min(halve_y, _MAX_LEVEL))
    patch = np.empty((bottom - top, right - left, 4), np.uint8)
    _warp(picture, matrix, patch, offset=(left, top))
    mask = cv2.compare(cv2.extractChannel(patch, 3), _OPAQUE, cv2.CMP_GT)
    if haze > 0:
        cv2.convertScaleAbs(patch, dst=patch, alpha=1 - haze, beta=205 * haze)
    cv2.copyTo(patch, mask, image[top:bottom, left:right])
    np.copyto(slots[top:bottom, left:right], np.uint16(slot), where=mask.view(np.bool_))
