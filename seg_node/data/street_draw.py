"""Pens and pictures for the drawings of the synthetic street.

Places and sizes are fractions of the picture: x of its width, y of its height, from the top left.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

CAR_COLORS: tuple[Color, ...] = (
    (168, 170, 172), (38, 40, 44), (120, 24, 26), (34, 52, 92), (196, 196, 192), (84, 88, 92),
    (58, 74, 62), (150, 132, 104), (26, 32, 50), (126, 130, 136), (92, 30, 40), (210, 208, 200),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (44, 46, 58), (82, 32, 34), (40, 60, 92), (92, 88, 80), (30, 30, 32), (60, 76, 54),
    (150, 140, 124), (116, 84, 54), (70, 62, 86), (168, 166, 164),
)  # fmt: skip


class Texture:
    """A picture with its smaller versions, scaled apart in x and y, made when first needed."""

    def __init__(self, pixels: Pixels) -> None:
        """Keep uint8 [h, w, C] as the full-size version."""
        self.pixels = pixels
        self._levels: dict[tuple[int, int], Pixels] = {(0, 0): pixels}

    def level(self, halve_x: int, halve_y: int) -> Pixels:
        """Return the picture halved that many times in each direction, at least one pixel."""
        key = (halve_x, halve_y)
        found = self._levels.get(key)
        if found is None:
            height, width = self.pixels.shape[:2]
            size = (max(1, width >> halve_x), max(1, height >> halve_y))
            found = np.asarray(
                cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8
            )
            self._levels[key] = found
        return found


def generator(kind: int, variant: int) -> np.random.Generator:
    """Return the dice of one variant of one kind of drawing."""
    return np.random.default_rng((kind, variant))


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, sigma: float
) -> NDArray[np.float32]:
    """Return smooth noise [height, width, 1] whose grains are about `cell` pixels wide."""
    size = (max(2, round(height / cell)), max(2, round(width / cell)))
    small = rng.standard_normal(size, dtype=np.float32) * sigma
    grown = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.float32)[..., None]


def add_grain(rng: np.random.Generator, pixels: Pixels, sigma: float, cell: float = 1.0) -> None:
    """Add noise to the colours in place: one fine and one coarse layer."""
    height, width = pixels.shape[:2]
    change = noise(rng, height, width, cell, sigma) + noise(rng, height, width, 12.0, sigma)
    pixels[..., :3] = np.clip(pixels[..., :3] + change, 0, 255)


def shade(color: Color, factor: float) -> Color:
    """Return a colour made brighter (factor above 1) or darker."""
    red, green, blue = (int(np.clip(part * factor, 0, 255)) for part in color)
    return red, green, blue


def box(pixels: Pixels, box: tuple[float, float, float, float], color: Color) -> None:
    """Fill (left, top, right, bottom), given in fractions of the picture."""
    height, width = pixels.shape[:2]
    left, right = round(box[0] * width), round(box[2] * width)
    top, bottom = round(box[1] * height), round(box[3] * height)
    pixels[top:bottom, left:right] = (*color, 255)


def shape(pixels: Pixels, points: list[tuple[float, float]], color: Color) -> None:
    """Fill a polygon given in fractions of the picture."""
    height, width = pixels.shape[:2]
    corners = np.round(np.array(points) * (width, height)).astype(np.int32)
    cv2.fillPoly(pixels, [corners], (*color, 255))


def disc(
    pixels: Pixels, middle: tuple[float, float], radii: tuple[float, float], color: Color
) -> None:
    """Fill an ellipse given in fractions of the picture."""
    height, width = pixels.shape[:2]
    center = (round(middle[0] * width), round(middle[1] * height))
    axes = (max(1, round(radii[0] * width)), max(1, round(radii[1] * height)))
    cv2.ellipse(pixels, center, axes, 0, 0, 360, (*color, 255), -1)


def limb(pixels: Pixels, points: list[tuple[float, float]], wide: float, color: Color) -> None:
    """Draw a line of `wide` (fraction of the width) through points given in fractions."""
    height, width = pixels.shape[:2]
    corners = np.round(np.array(points) * (width, height)).astype(np.int32)
    cv2.polylines(pixels, [corners], isClosed=False, color=(*color, 255),
                  thickness=max(1, round(wide * width)))  # fmt: skip


def blank(height: int, width: int, color: Color = (0, 0, 0), alpha: int = 0) -> Pixels:
    """Return an even picture, uint8 [height, width, 4], transparent unless told otherwise."""
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[:] = (*color, alpha)
    return pixels
