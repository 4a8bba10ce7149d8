"""Procedural pictures of what moves in the synthetic street: cars, people, bicyclists."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from seg_node.data import street_draw as art

CAR_COUNT = len(art.CAR_COLORS)
"""Variants of cars."""
PERSON_COUNT = 10
"""Variants of people."""
PHASES = 8
"""Pictures in one cycle of steps."""

_GLASS, _TYRE, _RIM = (42, 50, 58), (22, 22, 24), (128, 130, 132)
_SKINS: tuple[art.Color, ...] = ((198, 152, 126), (142, 98, 74), (92, 62, 48), (212, 170, 146))


@lru_cache(maxsize=16)
def car_side(variant: int) -> art.Texture:
    """Return a car from its side, nose to the right; 4.3 m by 1.5 m."""
    paint = art.CAR_COLORS[variant % CAR_COUNT]
    pixels = art.blank(144, 416)
    roof = [(0.02, 0.42), (0.07, 0.08), (0.16, 0.02), (0.5, 0.02), (0.58, 0.07), (0.72, 0.4)]
    nose = [(0.94, 0.47), (0.99, 0.6), (0.99, 0.84), (0.01, 0.84)]
    art.shape(pixels, roof + nose, paint)
    glass = [(0.07, 0.4), (0.11, 0.12), (0.17, 0.08), (0.5, 0.08), (0.56, 0.12), (0.68, 0.4)]
    art.shape(pixels, glass, _GLASS)
    art.shape(pixels, [(0.12, 0.2), (0.2, 0.1), (0.3, 0.1), (0.2, 0.38)], art.shade(_GLASS, 1.5))
    for pillar in (0.2, 0.42):
        art.box(pixels, (pillar, 0.06, pillar + 0.018, 0.42), art.shade(paint, 0.85))
    art.box(pixels, (0.02, 0.43, 0.96, 0.46), art.shade(paint, 1.2))
    art.box(pixels, (0.01, 0.72, 0.99, 0.84), art.shade(paint, 0.55))
    for seam in (0.2, 0.43, 0.66):
        art.box(pixels, (seam, 0.46, seam + 0.006, 0.76), art.shade(paint, 0.7))
    art.box(pixels, (0.0, 0.45, 0.03, 0.56), (150, 30, 30))
    art.box(pixels, (0.94, 0.5, 0.99, 0.58), (220, 218, 206))
    for axle in (0.19, 0.81):
        art.disc(pixels, (axle, 0.77), (0.085, 0.235), art.shade(paint, 0.3))
        art.disc(pixels, (axle, 0.79), (0.073, 0.21), _TYRE)
        art.disc(pixels, (axle, 0.79), (0.045, 0.13), _RIM)
        art.disc(pixels, (axle, 0.79), (0.015, 0.045), (70, 72, 74))
    return art.Texture(pixels)


@lru_cache(maxsize=16)
def car_side_mirrored(variant: int) -> art.Texture:
    """Return `car_side` with its nose to the left."""
    return art.Texture(np.ascontiguousarray(car_side(variant).pixels[:, ::-1]))


@lru_cache(maxsize=16)
def car_back(variant: int) -> art.Texture:
    """Return a car from behind; 1.75 m by 1.5 m."""
    paint = art.shade(art.CAR_COLORS[variant % CAR_COUNT], 0.88)
    pixels = art.blank(160, 184)
    _underside(pixels)
    art.shape(pixels, [(0.12, 0.05), (0.2, 0.01), (0.8, 0.01), (0.88, 0.05), (0.98, 0.42),
                       (0.99, 0.86), (0.01, 0.86), (0.02, 0.42)], paint)  # fmt: skip
    art.shape(pixels, [(0.18, 0.08), (0.82, 0.08), (0.9, 0.38), (0.1, 0.38)], _GLASS)
    art.shape(pixels, [(0.25, 0.1), (0.42, 0.1), (0.3, 0.36), (0.16, 0.36)], (66, 76, 84))
    for left in (0.03, 0.83):
        art.box(pixels, (left, 0.42, left + 0.14, 0.56), (158, 26, 28))
        art.box(pixels, (left + 0.02, 0.52, left + 0.12, 0.56), (214, 170, 150))
    art.box(pixels, (0.36, 0.5, 0.64, 0.59), (214, 196, 96))
    art.box(pixels, (0.2, 0.44, 0.8, 0.455), art.shade(paint, 0.75))
    art.box(pixels, (0.02, 0.66, 0.98, 0.69), art.shade(paint, 1.2))
    art.box(pixels, (0.03, 0.76, 0.97, 0.86), art.shade(paint, 0.45))
    return art.Texture(pixels)


@lru_cache(maxsize=16)
def car_front(variant: int) -> art.Texture:
    """Return the low front end of a car: lights, grille, plate; 1.75 m by 0.9 m."""
    paint = art.CAR_COLORS[variant % CAR_COUNT]
    pixels = art.blank(96, 184)
    _underside(pixels)
    art.shape(pixels, [(0.06, 0.04), (0.94, 0.04), (0.99, 0.3), (0.99, 0.8), (0.01, 0.8),
                       (0.01, 0.3)], paint)  # fmt: skip
    art.box(pixels, (0.27, 0.2, 0.73, 0.4), (30, 32, 34))
    art.box(pixels, (0.27, 0.28, 0.73, 0.31), (150, 150, 150))
    for left in (0.04, 0.76):
        art.box(pixels, (left, 0.16, left + 0.2, 0.36), (222, 222, 214))
        art.disc(pixels, (left + 0.1, 0.26), (0.05, 0.08), (250, 250, 240))
    art.box(pixels, (0.36, 0.5, 0.64, 0.62), (222, 222, 216))
    art.box(pixels, (0.1, 0.68, 0.9, 0.8), (34, 36, 38))
    return art.Texture(pixels)


@lru_cache(maxsize=16)
def car_cabin(variant: int) -> art.Texture:
    """Return the windscreen of a car and the bonnet below it; 1.75 m by 1.5 m."""
    paint = art.CAR_COLORS[variant % CAR_COUNT]
    pixels = art.blank(160, 184)
    art.shape(pixels, [(0.14, 0.05), (0.22, 0.01), (0.78, 0.01), (0.86, 0.05), (0.97, 0.45),
                       (0.97, 0.8), (0.03, 0.8), (0.03, 0.45)], paint)  # fmt: skip
    art.shape(pixels, [(0.18, 0.07), (0.82, 0.07), (0.92, 0.41), (0.08, 0.41)], _GLASS)
    art.shape(pixels, [(0.3, 0.08), (0.45, 0.08), (0.3, 0.4), (0.14, 0.4)], (74, 84, 92))
    art.disc(pixels, (0.68, 0.26), (0.05, 0.075), (74, 60, 54))
    art.shape(pixels, [(0.06, 0.41), (0.94, 0.41), (0.97, 0.6), (0.03, 0.6)],
              art.shade(paint, 1.12))  # fmt: skip
    for mirror in (0.0, 0.94):
        art.box(pixels, (mirror, 0.33, mirror + 0.06, 0.41), art.shade(paint, 0.6))
    return art.Texture(pixels)


def _underside(pixels: art.Pixels) -> None:
    """Draw the tyres and the dark between them."""
    art.box(pixels, (0.1, 0.74, 0.9, 0.9), (20, 20, 22))
    for left in (0.05, 0.81):
        art.box(pixels, (left, 0.7, left + 0.14, 1), _TYRE)


@lru_cache(maxsize=2 * PERSON_COUNT * PHASES)
def person(variant: int, phase: int, *, away: bool) -> art.Texture:
    """Return a walking person, seen from the side, or from behind if `away`; 1 m by 1.8 m."""
    rng = art.generator(20, variant)
    pixels = art.blank(208, 116)
    coat, legs = (art.CLOTHES[int(pick)] for pick in rng.integers(len(art.CLOTHES), size=2))
    skin, hair = _SKINS[int(rng.integers(4))], art.shade((66, 50, 40), rng.uniform(0.4, 1.8))
    stride = np.sin(2 * np.pi * phase / PHASES)
    reach = 0.13 * stride * (0.3 if away else 1.0)
    apart = 0.06 if away else 0.0
    for way in (-1.0, 1.0):
        foot = (0.5 + way * (reach + apart), 0.975 - 0.04 * max(0.0, way * stride))
        knee = (0.5 + way * (reach * 0.45 + apart) + (0.0 if away else 0.02), 0.74)
        art.limb(pixels, [(0.5 + way * apart, 0.52), knee, foot], 0.12,
                 art.shade(legs, 0.8 + 0.1 * way))  # fmt: skip
        art.disc(pixels, (foot[0] + (0 if away else 0.03), 0.98), (0.075, 0.018), (28, 26, 26))
    wide = 0.2 if away else 0.155
    hand = (0.5 - wide - 0.03 - 1.1 * reach, 0.54)
    art.limb(pixels, [(0.5 - wide + 0.02, 0.2), hand], 0.09, art.shade(coat, 0.75))
    art.shape(pixels, [(0.5 - wide, 0.19), (0.42, 0.155), (0.58, 0.155), (0.5 + wide, 0.19),
                       (0.48 + wide, 0.56), (0.52 - wide, 0.56)], coat)  # fmt: skip
    art.limb(pixels, [(0.5 + wide - 0.02, 0.2), (0.5 + wide + 0.03 + 1.1 * reach, 0.54)], 0.09,
             art.shade(coat, 0.85))  # fmt: skip
    if variant % 3 == 0:
        art.box(pixels, (0.42, 0.2, 0.64, 0.4), art.shade(legs, 1.3))
    art.box(pixels, (0.46, 0.12, 0.54, 0.17), skin)
    art.disc(pixels, (0.5, 0.08), (0.1, 0.066), skin)
    art.disc(pixels, (0.5 if away else 0.47, 0.065), (0.11, 0.062 if away else 0.05), hair)
    return art.Texture(pixels)


@lru_cache(maxsize=PERSON_COUNT * PHASES)
def bicyclist(variant: int, phase: int) -> art.Texture:
    """Return a bicyclist from behind; 0.9 m by 1.8 m."""
    rng = art.generator(21, variant)
    pixels = art.blank(208, 104)
    coat, legs = (art.CLOTHES[int(pick)] for pick in rng.integers(len(art.CLOTHES), size=2))
    coat = (188, 180, 48) if variant % 3 == 0 else coat
    skin = _SKINS[int(rng.integers(4))]
    art.disc(pixels, (0.5, 0.82), (0.045, 0.18), _TYRE)
    art.box(pixels, (0.47, 0.56, 0.53, 0.76), (60, 62, 66))
    art.box(pixels, (0.46, 0.68, 0.54, 0.71), (170, 30, 30))
    lift = 0.06 * np.sin(2 * np.pi * phase / PHASES)
    for way in (-1.0, 1.0):
        foot = (0.5 + way * 0.15, 0.84 + way * lift)
        knee = (0.5 + way * 0.19, 0.66 + way * lift * 0.7)
        art.limb(pixels, [(0.5 + way * 0.1, 0.54), knee, foot], 0.12, legs)
        art.disc(pixels, (foot[0], foot[1] + 0.01), (0.07, 0.02), (26, 26, 26))
    art.disc(pixels, (0.5, 0.53), (0.2, 0.06), art.shade(legs, 0.85))
    art.limb(pixels, [(0.34, 0.24), (0.24, 0.38), (0.2, 0.47)], 0.1, art.shade(coat, 0.85))
    art.limb(pixels, [(0.66, 0.24), (0.76, 0.38), (0.8, 0.47)], 0.1, art.shade(coat, 0.85))
    art.limb(pixels, [(0.16, 0.48), (0.3, 0.47)], 0.04, (40, 40, 42))
    art.limb(pixels, [(0.84, 0.48), (0.7, 0.47)], 0.04, (40, 40, 42))
    art.shape(pixels, [(0.28, 0.24), (0.42, 0.19), (0.58, 0.19), (0.72, 0.24), (0.66, 0.54),
                       (0.34, 0.54)], coat)  # fmt: skip
    art.box(pixels, (0.45, 0.15, 0.55, 0.2), skin)
    art.disc(pixels, (0.5, 0.11), (0.115, 0.065), skin)
    helmet = (206, 206, 200) if variant % 2 else (52, 44, 40)
    art.disc(pixels, (0.5, 0.085), (0.13, 0.06), helmet)
    return art.Texture(pixels)
