# ruff: noqa: PLR2004 - drawings are made of coordinates and chances
"""Procedural pictures of the synthetic street's surfaces.

Every function draws one RGBA texture (uint8 [h, w, 4], alpha 0 or 255 before scaling) from a
small variant number and is cached: all streets share one set of pictures, so that a street of
another seed costs almost nothing to construct.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_node.data.street_draw import (
    add_grain,
    blank,
    box,
    CAR_COLORS,
    CLOTHES,
    Color,
    disc,
    generator,
    limb,
    noise,
    Pixels,
    shade,
    shape,
    Texture,
)

Axis = NDArray[np.floating]

GROUND_HALF_M = 18.0
"""The ground map reaches this far left and right of the middle of the road, in metres."""
GROUND_PERIOD_M = 96.0
"""The ground map repeats after this length along the road, in metres."""
GROUND_COLUMN_M, GROUND_ROW_M = 0.03, 0.06
"""Metres of one texel of the ground map: across, along."""
KERB_M = 5.7
"""The kerbs lie this far left and right of the middle of the road, in metres."""
PAVEMENT_M = 9.0
"""The sidewalks end this far left and right of the middle of the road, in metres."""
ZEBRA_M = 42.0
"""Middle of the zebra crossing within the ground map's period, in metres."""
DETAIL_M, DETAIL_WIDE_M, DETAIL_LONG_M = 3.0, 18.0, 15.0
"""The fine grain of the ground: side of its tile; extent of all tiles, metres."""

_ROAD, _SIDEWALK, _TREE = 3, 4, 5
_WALLS: tuple[Color, ...] = (
    (128, 88, 70), (142, 120, 96), (166, 150, 122), (112, 104, 98), (150, 140, 130),
    (176, 164, 146), (104, 72, 60), (134, 126, 112), (156, 108, 84), (120, 116, 116),
)  # fmt: skip


@lru_cache(maxsize=8)
def ground(variant: int) -> tuple[Texture, Pixels]:
    """Return the ground's colours and, alike in every row, its labels uint8 [2, columns]."""
    rng = generator(1, variant)
    rows = round(GROUND_PERIOD_M / GROUND_ROW_M)
    columns = round(2 * GROUND_HALF_M / GROUND_COLUMN_M)
    across = (np.arange(columns) + 0.5) * GROUND_COLUMN_M - GROUND_HALF_M
    along = (np.arange(rows) + 0.5) * GROUND_ROW_M
    side = np.abs(across)
    asphalt, paving = rng.uniform(78, 112), rng.uniform(128, 160)
    colors = np.empty((rows, columns, 3), np.float32)
    colors[:] = (72, 88, 46)
    colors[:, side < PAVEMENT_M] = (paving, paving * 0.97, paving * 0.92)
    colors[:, side < KERB_M + 0.15] = (168, 166, 160)
    colors[:, side < KERB_M] = (asphalt, asphalt, asphalt * 1.02)
    colors[:, side < KERB_M - 3.4] += 4.0
    colors[:, (side > KERB_M - 0.35) & (side < KERB_M)] *= 0.82
    for track in (-2.5, -1.0, 1.0, 2.5):
        colors[:, np.abs(across - track) < 0.28] -= 6.0
    _paving_joints(colors, across, along)
    colors += noise(rng, rows, columns, 2.0, 5.0) + noise(rng, rows, columns, 40.0, 5.0)
    _patches(rng, colors, across, along)
    _markings(rng, colors, across, along)
    labels = np.full((2, columns), _TREE, np.uint8)
    labels[:, side < PAVEMENT_M] = _SIDEWALK
    labels[:, side < KERB_M] = _ROAD
    pixels = blank(rows, columns, alpha=255)
    pixels[..., :3] = np.clip(colors, 0, 255)
    return Texture(pixels), labels


def _paving_joints(colors: NDArray[np.float32], across: Axis, along: Axis) -> None:
    """Darken the joints between the sidewalk's slabs."""
    slabs = (np.abs(across) > KERB_M + 0.15) & (np.abs(across) < PAVEMENT_M)
    joint_columns = slabs & ((np.abs(across) - KERB_M) % 0.9 < 2 * GROUND_COLUMN_M)
    colors[:, joint_columns] *= 0.8
    colors[np.ix_(along % 1.2 < GROUND_ROW_M, slabs)] *= 0.8


def _patches(
    rng: np.random.Generator,
    colors: NDArray[np.float32],
    across: Axis,
    along: Axis,
) -> None:
    """Mend the asphalt: darker and lighter rectangles, manhole covers."""
    for _ in range(14):
        left, start = rng.uniform(-KERB_M, KERB_M - 2.0), rng.uniform(0, GROUND_PERIOD_M - 8)
        wide, deep = rng.uniform(0.5, 2.0), rng.uniform(0.8, 8.0)
        inside = np.ix_(
            (along > start) & (along < start + deep), (across > left) & (across < left + wide)
        )
        colors[inside] *= rng.uniform(0.8, 1.1)
    for _ in range(5):
        middle = (
            int((rng.uniform(-3, 3) + GROUND_HALF_M) / GROUND_COLUMN_M),
            int(rng.uniform(2, GROUND_PERIOD_M - 2) / GROUND_ROW_M),
        )
        axes = (int(0.3 / GROUND_COLUMN_M), int(0.3 / GROUND_ROW_M))
        cv2.ellipse(colors, middle, axes, 0, 0, 360, (70, 68, 66), -1)


def _markings(
    rng: np.random.Generator,
    colors: NDArray[np.float32],
    across: Axis,
    along: Axis,
) -> None:
    """Paint the dashed middle line, the edge lines, the stop lines and the zebra crossing."""
    white = np.array((206, 206, 200), np.float32)
    zebra = np.abs(along - ZEBRA_M) < 1.5
    near_zebra = np.abs(along - ZEBRA_M) < 4.0
    dash, middle = (along % 6.0 < 3.0) & ~near_zebra, np.abs(across) < 0.07
    edge = np.abs(np.abs(across) - (KERB_M - 2.2)) < 0.05
    crossing = (np.abs(across) < KERB_M - 0.5) & (across % 1.0 < 0.5)
    stop = (np.abs(along - (ZEBRA_M - 2.6)) < 0.15, (across > 0.2) & (across < KERB_M - 2.3))
    stop_back = (np.abs(along - (ZEBRA_M + 2.6)) < 0.15, (across < -0.2) & (across > 2.3 - KERB_M))
    worn = 0.75 + noise(rng, len(along), len(across), 5.0, 0.12)
    edges = (~near_zebra, edge)
    for rows, columns in ((dash, middle), edges, (zebra, crossing), stop, stop_back):
        here = np.ix_(rows, columns)
        cover = np.clip(worn[here], 0.4, 0.95)
        colors[here] = colors[here] * (1 - cover) + white * cover


@lru_cache(maxsize=1)
def ground_detail() -> Pixels:
    """Return tiles of fine grain around 128, uint8 [1280, 1536]."""
    side = 256
    fine = generator(2, 0).standard_normal((side, side), dtype=np.float32) * 26
    coarse = cv2.GaussianBlur(np.tile(fine, (3, 3)), (0, 0), 2.0)[side : 2 * side, side : 2 * side]
    gray = np.clip(128 + 0.5 * fine + 3.5 * coarse, 0, 255).astype(np.uint8)
    return np.tile(gray, (round(DETAIL_LONG_M / DETAIL_M), round(DETAIL_WIDE_M / DETAIL_M)))


@lru_cache(maxsize=8)
def sky(variant: int) -> Texture:
    """Return a sky with clouds; the bottom row is at the horizon."""
    rng = generator(3, variant)
    height, width = 256, 1024
    cloudy = rng.uniform(0.2, 1.0)
    top, low = np.array((128, 164, 206.0)), np.array((214, 222, 228.0))
    fall = np.linspace(0, 1, height)[:, None, None] ** 0.8
    colors = top * (1 - fall) + low * fall + np.zeros((1, width, 1))
    clouds = sum(
        (noise(rng, height, width // 3, cell, 0.5**octave) for octave, cell in
         enumerate((60.0, 26.0, 11.0, 5.0))),
        np.zeros((1, 1, 1), np.float32),
    )  # fmt: skip
    wide = np.asarray(cv2.resize(clouds, (width, height)), dtype=np.float32)[..., None]
    cover = np.clip((wide + cloudy * 1.6 - 0.7) * 0.9, 0, 1)
    colors = colors * (1 - cover) + (236 - 26 * np.clip(wide, 0, 1)) * cover
    pixels = blank(height, width, alpha=255)
    pixels[..., :3] = np.clip(colors, 0, 255)
    return Texture(pixels)


@lru_cache(maxsize=32)
def facade(variant: int) -> Texture:
    """Return the street front of a building, about 12 m square."""
    rng = generator(4, variant)
    size = 384
    wall = shade(_WALLS[variant % len(_WALLS)], rng.uniform(0.85, 1.1))
    pixels = blank(size, size, wall, 255)
    if rng.random() < 0.6:
        pixels[::6, :, :3] = shade(wall, 0.9)
    add_grain(rng, pixels, 5.0)
    floors, bays = int(rng.integers(3, 5)), int(rng.integers(3, 6))
    frame = shade((206, 200, 190), rng.uniform(0.7, 1.05))
    high, wide = rng.uniform(0.48, 0.62), rng.uniform(0.36, 0.52)
    for floor in range(floors):
        for bay in range(bays):
            if floor == floors - 1:
                _ground_floor(rng, pixels, (bay / bays, (bay + 1) / bays), 1 - 0.95 / floors)
                continue
            left = (bay + 0.5 - wide / 2) / bays
            top = (floor + 0.62 - high / 2) / (floors + 0.25) + 0.02
            _window(rng, pixels, (left, top, left + wide / bays, top + high / floors), frame)
    ledge = 1 - 0.98 / floors
    box(pixels, (0, ledge - 0.015, 1, ledge), shade(wall, 0.72))
    box(pixels, (0, 0, 1, 0.03), shade(wall, 0.6))
    box(pixels, (0, 0.97, 1, 1), shade(wall, 0.55))
    box(pixels, (0.0, 0.03, 0.012, 1), shade(wall, 0.7))
    return Texture(pixels)


def _window(
    rng: np.random.Generator,
    pixels: Pixels,
    pane: tuple[float, float, float, float],
    frame: Color,
) -> None:
    """Draw a framed window with panes, a curtain now and then, and a sill."""
    left, top, right, bottom = pane
    box(pixels, (left - 0.01, top - 0.01, right + 0.01, bottom + 0.01), frame)
    glass = shade((62, 72, 84), rng.uniform(0.6, 1.4))
    box(pixels, pane, glass)
    if rng.random() < 0.35:
        box(pixels, (left, top, right, top + (bottom - top) * rng.uniform(0.2, 0.6)),
             shade((190, 184, 172), rng.uniform(0.6, 1.0)))  # fmt: skip
    middle = (left + right) / 2
    box(pixels, (middle - 0.004, top, middle + 0.004, bottom), frame)
    box(pixels, (left, (top + bottom) / 2 - 0.004, right, (top + bottom) / 2 + 0.004), frame)
    box(pixels, (left - 0.015, bottom + 0.01, right + 0.015, bottom + 0.022), shade(frame, 0.8))


def _ground_floor(
    rng: np.random.Generator, pixels: Pixels, span: tuple[float, float], top: float
) -> None:
    """Draw a door, a shop window or a plain window between two fractions of the width."""
    left, right = span
    inner = (left + 0.15 * (right - left), right - 0.15 * (right - left))
    kind = rng.random()
    dark = shade((46, 52, 58), rng.uniform(0.7, 1.3))
    if kind < 0.3:
        door = shade(CLOTHES[int(rng.integers(len(CLOTHES)))], 0.9)
        middle = (left + right) / 2
        box(pixels, (middle - 0.055, top + 0.05, middle + 0.055, 1), (186, 180, 170))
        box(pixels, (middle - 0.043, top + 0.065, middle + 0.043, 1), door)
        box(pixels, (middle - 0.028, top + 0.075, middle + 0.028, top + 0.12), dark)
    elif kind < 0.65:
        sign = CAR_COLORS[int(rng.integers(len(CAR_COLORS)))]
        box(pixels, (left + 0.01, top + 0.015, right - 0.01, top + 0.07), sign)
        box(pixels, (left + 0.02, top + 0.08, right - 0.02, 0.93), dark)
        box(pixels, (left + 0.03, top + 0.12, left + 0.07, 0.9), shade(dark, 1.7))
    else:
        _window(rng, pixels, (inner[0], top + 0.08, inner[1], 0.88), (200, 196, 188))


@lru_cache(maxsize=16)
def gable(variant: int) -> Texture:
    """Return the blank end wall of a building, darker than its front."""
    rng = generator(5, variant)
    wall = shade(_WALLS[variant % len(_WALLS)], 0.72)
    pixels = blank(192, 192, wall, 255)
    pixels[::6, :, :3] = shade(wall, 0.92)
    add_grain(rng, pixels, 5.0)
    for left, top in ((0.2, 0.2), (0.2, 0.5), (0.65, 0.5)):
        if rng.random() < 0.5:
            _window(rng, pixels, (left, top, left + 0.1, top + 0.14), shade(wall, 1.3))
    box(pixels, (0, 0, 1, 0.03), shade(wall, 0.7))
    return Texture(pixels)


@lru_cache(maxsize=16)
def tree(variant: int) -> Texture:
    """Return a broad-leaved tree: trunk, boughs and a crown of leaf clumps."""
    rng = generator(6, variant)
    pixels = blank(320, 256)
    bark = shade((84, 70, 56), rng.uniform(0.7, 1.1))
    shape(pixels, [(0.46, 0.5), (0.54, 0.5), (0.55, 1.0), (0.45, 1.0)], bark)
    for tip in (0.25, 0.75, 0.4, 0.62):
        limb(pixels, [(0.5, 0.68), (tip, 0.38)], 0.025, bark)
    leaf = shade(((74, 92, 48), (62, 84, 46), (92, 102, 56), (58, 76, 50))[variant % 4], 1.0)
    spots = rng.normal((0.5, 0.36), (0.19, 0.145), (260, 2))
    spots = spots[np.hypot((spots[:, 0] - 0.5) / 0.44, (spots[:, 1] - 0.37) / 0.34) < 1]
    for x, y in spots[np.argsort(-spots[:, 1])]:
        light = 0.62 + 0.75 * (0.7 - y) + rng.normal(0, 0.1) - 0.2 * (x - 0.5)
        radius = rng.uniform(0.025, 0.07)
        disc(pixels, (x, y), (radius, radius * 0.7), shade(leaf, light))
    add_grain(rng, pixels, 9.0, 2.0)
    return Texture(pixels)


@lru_cache(maxsize=16)
def hedge(variant: int) -> Texture:
    """Return a wall of leaves with an uneven top: hedges, and the woods in the distance."""
    rng = generator(7, variant)
    pixels = blank(128, 384)
    leaf = ((66, 84, 46), (78, 92, 54), (56, 74, 46))[variant % 3]
    box(pixels, (0, 0.32, 1, 1), shade(leaf, 0.6))
    for _ in range(420):
        x, y = rng.uniform(0, 1), rng.uniform(0.12, 1.0)
        radius = rng.uniform(0.012, 0.035)
        disc(pixels, (x, y), (radius, radius * 2.4),
              shade(leaf, 1.15 - 0.55 * y + rng.normal(0, 0.1)))  # fmt: skip
    add_grain(rng, pixels, 8.0, 2.0)
    return Texture(pixels)


@lru_cache(maxsize=4)
def fence(variant: int) -> Texture:
    """Return 6 m of fence: railings, planks or a low wall."""
    rng = generator(8, variant)
    pixels = blank(128, 512)
    if variant % 4 in (0, 3):
        metal = (44, 48, 50) if variant % 4 == 0 else (150, 148, 142)
        for post in np.linspace(0, 0.985, 40):
            box(pixels, (post, 0.04, post + 0.012, 1), metal)
        for rail in (0.08, 0.85):
            box(pixels, (0, rail, 1, rail + 0.06), metal)
        box(pixels, (0, 0.9, 1, 1), (120, 114, 106))
    elif variant % 4 == 1:
        for left in np.linspace(0, 1, 49)[:-1]:
            box(pixels, (left, 0.05, left + 0.019, 1), shade((118, 96, 74), rng.uniform(0.8, 1.1)))
        for rail in (0.2, 0.75):
            box(pixels, (0, rail, 1, rail + 0.06), (96, 78, 60))
    else:
        box(pixels, (0, 0.1, 1, 1), (132, 98, 82))
        pixels[::8, :, :3] = pixels[::8, :, :3] // 10 * 9
        box(pixels, (0, 0.06, 1, 0.16), (152, 146, 138))
    add_grain(rng, pixels, 5.0)
    return Texture(pixels)


@lru_cache(maxsize=2)
def lamp(variant: int) -> Texture:
    """Return a lamp post with an arm over the road (left, or right for variant 1)."""
    pixels = blank(512, 128)
    metal = (92, 96, 98)
    box(pixels, (0.86, 0.02, 0.94, 1), metal)
    box(pixels, (0.84, 0.86, 0.96, 1), shade(metal, 0.8))
    limb(pixels, [(0.9, 0.03), (0.2, 0.015)], 0.03, metal)
    box(pixels, (0.04, 0.008, 0.34, 0.025), (180, 180, 172))
    return Texture(np.ascontiguousarray(pixels[:, ::-1]) if variant else pixels)


@lru_cache(maxsize=1)
def post() -> Texture:
    """Return a plain grey post."""
    pixels = blank(128, 16, (122, 124, 124), 255)
    pixels[:, :5, :3] = 96
    return Texture(pixels)


@lru_cache(maxsize=8)
def sign(variant: int) -> Texture:
    """Return a traffic sign or a set of traffic lights."""
    pixels = blank(96, 96)
    red, white, blue = (186, 34, 40), (226, 226, 222), (30, 70, 150)
    kind = variant % 5
    if kind == 0:
        disc(pixels, (0.5, 0.5), (0.48, 0.48), red)
        disc(pixels, (0.5, 0.5), (0.36, 0.36), white)
        box(pixels, (0.32, 0.36, 0.44, 0.64), (20, 20, 20))
        box(pixels, (0.55, 0.36, 0.7, 0.64), (20, 20, 20))
    elif kind == 1:
        shape(pixels, [(0.5, 0.02), (0.98, 0.9), (0.02, 0.9)], red)
        shape(pixels, [(0.5, 0.24), (0.8, 0.8), (0.2, 0.8)], white)
        box(pixels, (0.46, 0.4, 0.54, 0.72), (20, 20, 20))
    elif kind == 2:
        disc(pixels, (0.5, 0.5), (0.48, 0.48), blue)
        limb(pixels, [(0.3, 0.7), (0.7, 0.3)], 0.1, white)
    elif kind == 3:
        box(pixels, (0, 0.1, 1, 0.9), blue)
        for row in (0.25, 0.45, 0.65):
            box(pixels, (0.1, row, 0.85, row + 0.09), white)
    else:
        box(pixels, (0.28, 0, 0.72, 1), (26, 28, 28))
        for row, lit in ((0.18, (200, 50, 40)), (0.5, (70, 56, 30)), (0.82, (30, 70, 50))):
            disc(pixels, (0.5, row), (0.14, 0.13), lit)
    return Texture(pixels)


@lru_cache(maxsize=1)
def shadow() -> Pixels:
    """Return the soft shadow under an object: factors times 255, uint8 [32, 32, 4]."""
    blob = np.zeros((32, 32), np.float32)
    blob[6:26, 6:26] = 1
    blob = np.asarray(cv2.GaussianBlur(blob, (0, 0), 2.5), dtype=np.float32)
    gray = (255 * (1 - 0.72 * blob)).astype(np.uint8)
    return np.asarray(cv2.merge([gray, gray, gray, gray]), dtype=np.uint8)


@lru_cache(maxsize=4)
def grain(height: int, width: int) -> Pixels:
    """Return sensor noise around 128, uint8 [height + 32, width + 32, 3]."""
    spread = generator(9, 0).standard_normal((height + 32, width + 32, 3), dtype=np.float32)
    return np.round(128 + 1.6 * spread).astype(np.uint8)
