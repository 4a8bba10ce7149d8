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

from seg_node.core.types import ConfigError, Frame
from seg_node.data import street_art as art
from seg_node.data.street_geometry import Floats, Quads, View
from seg_node.data.street_paint import paint, Painting
from seg_node.data.street_scene import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seg_node.data.street_draw import Pixels

MIN_SIDE = 16
"""Smallest width and height, in pixels."""

_NOWHERE, _OUTSIDE = 65535, 65534  # slots that no painting has
_FLOW_CHUNK = 1 << 14


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


class Street:
    """A drive along an endless street, one per seed."""

    def __init__(
        self, seed: int, width: int = 480, height: int = 360, rate_hz: float = 15.0
    ) -> None:
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
            msg = f"a street of {width}x{height} pixels: use {MIN_SIDE}x{MIN_SIDE} or more"
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
        self._last: tuple[int, View, Painting] | None = None

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
            flow = _flow(view, painting, view_before)
            occluded = _occluded(flow, painting, before)
        self._last = (index, view, painting)
        frame = Frame(self._developed(index, painting), round(index * 1e9 / self._rate_hz),
                      "street_camera", "street")  # fmt: skip
        return StreetFrame(frame, painting.labels(), flow, occluded)

    def picture(self, index: int) -> tuple[Pixels, Pixels]:
        """Return image and labels of frame `index`, as `render` does, without the motion.

        Raises:
            ConfigError: the index is negative.

        """
        _, painting = self._painted(index)
        return self._developed(index, painting), painting.labels()

    def _painted(self, index: int) -> tuple[View, Painting]:
        if index < 0:
            msg = f"frame {index} was asked for: the street starts at frame 0"
            raise ConfigError(msg)
        if self._last is not None and self._last[0] == index:
            return self._last[1:]
        view = self._world.view(index / self._rate_hz)
        size = self._height, self._width
        return view, paint(view, size, self._world.ground_variant, self._look.haze)

    def _developed(self, index: int, painting: Painting) -> Pixels:
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


def _flow(view: View, painting: Painting, before: View) -> NDArray[np.float32]:
    """Return the exact backward flow: each surface's plane seen by the earlier camera."""
    # What stands has the same place in both; what moves is the same list in another pose.
    quads = view.quads()[painting.chosen]
    quads_before = Quads.join([view.standing, before.moving])[painting.chosen]
    here = np.concatenate([_sky_and_ground(view), view.camera.homographies(quads)])
    there = np.concatenate([_sky_and_ground(before), before.camera.homographies(quads_before)])
    return _plane_flow(there @ np.linalg.inv(here), painting.slots)


def _sky_and_ground(view: View) -> Floats:
    """Return the homographies of the first two slots, [2, 3, 3]; the ground's from metres."""
    axes = np.diag((1.0, 1.0, 0.0))
    axes[:, 2] -= view.camera.position
    ground = view.camera.matrix() @ axes
    return np.concatenate([view.camera.homographies(view.sky), ground[None]])


def _plane_flow(back: Floats, slots: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return [H, W, 2]: each pixel through its slot's homography [3, 3], minus itself."""
    height, width = slots.shape
    table = np.ascontiguousarray((back / back[:, 2:, 2:]).reshape(-1, 9).T, dtype=np.float32)
    x = np.arange(width, dtype=np.float32)[None, :]
    flow = np.empty((height, width, 2), np.float32)
    step = max(1, _FLOW_CHUNK // width)  # rows that stay in the processor's cache
    for start in range(0, height, step):
        index = slots[start : start + step].astype(np.intp)
        y = np.arange(start, start + len(index), dtype=np.float32)[:, None]
        a, b, c, d, e, f, g, h = (np.take(row, index, mode="clip") for row in table[:8])
        scale = np.reciprocal(g * x + h * y + 1)
        part = flow[start : start + step]
        np.subtract((a * x + b * y + c) * scale, x, out=part[..., 0])
        np.subtract((d * x + e * y + f) * scale, y, out=part[..., 1])
    return flow


def _occluded(
    flow: NDArray[np.float32], painting: Painting, before: Painting
) -> NDArray[np.bool_]:
    """Return true where the pixel the flow points at shows another surface, or lies outside."""
    height, width = painting.slots.shape
    slot_of = dict(zip(before.keys.tolist(), range(len(before.keys)), strict=True))
    same = np.array([slot_of.get(key, _NOWHERE) for key in painting.keys.tolist()], np.uint16)
    expected = np.take(same, painting.slots)
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    seen = cv2.remap(before.slots, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                     borderValue=float(_OUTSIDE))  # fmt: skip
    return np.asarray(seen != expected)
