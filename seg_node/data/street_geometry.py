"""Camera and surfaces of the synthetic street.

World coordinates are metres: x to the right of the middle of the road, y along it, z up. Every
surface is a flat quad: the point at (s, t), each 0..1, is `origin + s * across + t * down`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the ground.

    Attributes:
        position: x, y, z in metres.
        yaw: angle to the right of the road's direction, in radians.
        focal: focal length in pixels.
        middle: principal point (x, y) in pixels; the horizon is the row `middle[1]`.

    """

    position: tuple[float, float, float]
    yaw: float
    focal: float
    middle: tuple[float, float]

    def matrix(self) -> Floats:
        """Return [3, 3] from a world direction to (u w, v w, w), w being the depth."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        u, v = self.middle
        return np.array([
            [self.focal * cos + u * sin, u * cos - self.focal * sin, 0.0],
            [v * sin, v * cos, -self.focal],
            [sin, cos, 0.0],
        ])  # fmt: skip

    def homographies(self, quads: Quads) -> Floats:
        """Return [n, 3, 3] from a quad's (s, t, 1) to (u w, v w, w) in pixels."""
        axes = np.stack((quads.across, quads.down, quads.origin - self.position), axis=-1)
        return np.asarray(self.matrix() @ axes)


@dataclass(frozen=True)
class Quads:
    """n flat surfaces.

    Attributes:
        key: identity of the surface, the same in every frame, int64 [n].
        origin: top left corner, metres [n, 3].
        across: from there to the top right corner [n, 3].
        down: from there to the bottom left corner, vertical [n, 3].
        label: class id, uint8 [n].
        layer: layers are painted in order, and by depth within a layer, uint8 [n].
        texture: pictures, object [n].

    """

    key: NDArray[np.int64]
    origin: Floats
    across: Floats
    down: Floats
    label: NDArray[np.uint8]
    layer: NDArray[np.uint8]
    texture: NDArray[np.object_]

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Quads:
        """Return the chosen quads."""
        return Quads(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def join(parts: list[Quads]) -> Quads:
        """Return all quads of all parts."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(Quads))
        return Quads(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class View:
    """All that may be seen at one time."""

    camera: Camera
    sky: Quads
    standing: Quads
    moving: Quads
    shadows: Floats
    """Left, near, width, length on the ground in metres [k, 4]."""

    def quads(self) -> Quads:
        """Return all but the sky: what stands, then what moves."""
        return Quads.join([self.standing, self.moving])
