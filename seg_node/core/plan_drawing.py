"""Pictures of what was computed in a frame, and of how old each block is. Colours are RGB.

Both are drawn on the image itself, blocks where they are, with a legend below. Pictures are 480 to
960 pixels wide, whatever the image's size, so that the legend can be read and a large camera does
not make a large stream. For one size of images their size is always the same, as videos need.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.drawing import BACKGROUND, FONT, INK, to_width
from seg_node.core.types import Action, DataError, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.core.types import Plan

    Picture = NDArray[np.uint8]
    Color = tuple[int, int, int]

WIDTHS = (480, 960)
"""Narrowest and widest picture, in pixels."""
COLORS: dict[Action, Color] = {
    Action.HIGH: (255, 160, 30),
    Action.LOW: (70, 175, 240),
    Action.REUSE: (88, 88, 92),
}
"""Colour of each action in legends; told apart by colour-blind people, too."""
LEGEND_ORDER = (Action.HIGH, Action.LOW, Action.REUSE)

_DIMMED = 0.45
"""Brightness of what is reused."""
_BRIGHTNESS = {Action.HIGH: 0.85, Action.LOW: 0.55}
_TINT = {Action.HIGH: 0.15, Action.LOW: 0.3}
_AGE_WEIGHT = 0.65
_TOLERANCE = 0.1
"""Share of a block by which rounding of `input.scale` may move the end of a grid."""


def picture_width(width: int, most: int = WIDTHS[1]) -> int:
    """Return how wide the picture of an image is: as the image, within 480 and `most` pixels."""
    return min(max(width, WIDTHS[0]), most)


def draw_plan(
    image: Picture, plan: Plan, block_size: float, *, width: int | None = None
) -> Picture:
    """Light up what was computed: HIGH bright and outlined, LOW tinted, REUSE dark.

    The legend has the share of each action and the plan's reason.

    Args:
        image: RGB, uint8 [H, W, 3].
        plan: plan of this image.
        block_size: side of a block in pixels of `image`: setting `block_size` / `input.scale`.
        width: width of the picture in pixels; None for `picture_width`.

    Returns:
        RGB, uint8 [H', W', 3].

    Raises:
        DataError: the plan does not cover the image.

    """
    _check(image, plan.grid.shape, block_size)
    resized, side = _resized(image, block_size, width)
    picture: Picture = np.asarray(cv2.convertScaleAbs(resized, alpha=_DIMMED), np.uint8)
    for action in (Action.LOW, Action.HIGH):
        chosen = np.asarray(plan.grid == action, np.uint8)
        if chosen.any():
            lit = cv2.LUT(resized, _table(action))
            cv2.copyTo(lit, _spread(chosen, side, resized.shape), picture)
    thickness = max(1, resized.shape[1] // 480)
    for row, column in np.argwhere(plan.grid == Action.HIGH):
        # One pixel inside the block, so that neighbours do not share an edge.
        top, left = (round(at * side) + 1 for at in (row, column))
        bottom, right = (round((at + 1) * side) - 2 for at in (row, column))
        corner = min(right, picture.shape[1] - 1), min(bottom, picture.shape[0] - 1)
        cv2.rectangle(picture, (left, top), corner, COLORS[Action.HIGH], thickness)
    return np.asarray(np.vstack([picture, _plan_legend(plan, resized.shape[1])]), np.uint8)


def draw_age(
    image: Picture,
    age_ms: NDArray[np.uint16],
    max_age_ms: float,
    block_size: float,
    *,
    width: int | None = None,
) -> Picture:
    """Colour each block by the age of the newest full computation behind it: dark new, bright old.

    The legend has the colours from 0 to `max_age_ms` and the median and oldest age.

    Args:
        image: RGB, uint8 [H, W, 3].
        age_ms: age of each block, uint16 [gh, gw].
        max_age_ms: age that gets the last colour; anything older does, too.
        block_size: side of a block in pixels of `image`: setting `block_size` / `input.scale`.
        width: width of the picture in pixels; None for `picture_width`.

    Returns:
        RGB, uint8 [H', W', 3].

    Raises:
        DataError: the ages do not cover the image.

    """
    _check(image, age_ms.shape, block_size)
    resized, side = _resized(image, block_size, width)
    share = np.clip(age_ms / max(max_age_ms, 1.0), 0.0, 1.0)
    cells = _age_colors()[np.round(share * 255).astype(np.uint8)]
    painted = _spread(cells, side, resized.shape)
    grey = cv2.cvtColor(cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.addWeighted(painted, _AGE_WEIGHT, grey, 1.0 - _AGE_WEIGHT, 0.0)
    strip = _age_legend(age_ms, max_age_ms, resized.shape[1])
    return np.asarray(np.vstack([picture, strip]), np.uint8)


def _check(image: Picture, cells: Sequence[int], side: float) -> None:
    """Refuse a grid that does not cover the image, or covers more than it.

    Raises:
        DataError: names the sizes and what block_size should be.

    """
    for length, count in zip(image.shape[:2], cells, strict=True):
        if not -_TOLERANCE <= count - length / side < 1 + _TOLERANCE:
            msg = (
                f"{cells[0]}x{cells[1]} blocks of {side:g} pixels do not cover an image of "
                f"{image.shape[0]}x{image.shape[1]}; pass Config.shown_side of the image"
            )
            raise DataError(msg)


def _resized(image: Picture, block_size: float, width: int | None) -> tuple[Picture, float]:
    """Return the image as wide as its picture shall be, and the side of a block in it."""
    own = image.shape[1]
    width = width or picture_width(own)
    return to_width(image, width), block_size * width / own


def _spread(cells: Picture, side: float, shape: Sequence[int]) -> Picture:
    """Repeat one value per block, [gh, gw, ...], for the pixels of a picture of a shape."""
    size = (round(cells.shape[1] * side), round(cells.shape[0] * side))
    wide = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST)
    rows, columns = shape[0] - wide.shape[0], shape[1] - wide.shape[1]
    if rows > 0 or columns > 0:  # by the rounding of input.scale
        rest = ((0, max(rows, 0)), (0, max(columns, 0)), *((0, 0),) * (cells.ndim - 2))
        wide = np.pad(wide, rest, "edge")
    return np.asarray(wide[: shape[0], : shape[1]], np.uint8)


@lru_cache
def _table(action: Action) -> Picture:
    """Return what pixels of a block become, uint8 [1, 256, 3] by value and channel."""
    tint = _TINT[action] * np.array(COLORS[action])
    values = np.arange(256)[:, None] * _BRIGHTNESS[action] + tint
    return np.asarray(values.round(), np.uint8)[None]


@lru_cache
def _age_colors() -> Picture:
    """Return the colours from new to old, uint8 [256, 3]: lightness grows evenly with age."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


# ---- legends ------------------------------------------------------------------------------------


class _Type:
    """Letters that fit a picture's width.

    Args:
        width: width of the picture in pixels.

    """

    def __init__(self, width: int) -> None:
        """Choose the size: 0.42 at 480 pixels, 0.67 at 960."""
        self.scale = 0.42 * (0.4 + 0.6 * width / WIDTHS[0])
        self.thickness = 1 if width < 800 else 2  # noqa: PLR2004 - thin letters fade there
        self.row = round(48 * self.scale)

    def width(self, text: str) -> int:
        """Return the width of a text in pixels."""
        (width, _), _ = cv2.getTextSize(text, FONT, self.scale, self.thickness)
        return int(width)

    def write(self, picture: Picture, text: str, x: int, y: int) -> None:
        """Write a text whose row begins at (x, y)."""
        base = y + round(0.68 * self.row)
        cv2.putText(picture, text, (x, base), FONT, self.scale, INK, self.thickness, cv2.LINE_AA)

    def wrap(self, text: str, width: int) -> list[str]:
        """Cut a text into lines of at most this width, between words."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.width(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines


@lru_cache
def plan_legend_height(width: int) -> int:
    """Return the rows of pixels that `draw_plan` adds below an image: enough for any reason."""
    letters = _Type(width)
    lines = max(len(letters.wrap(reason.value, width - letters.row)) for reason in Reason)
    return letters.row * (1 + lines) + letters.row // 4


def _plan_legend(plan: Plan, width: int) -> Picture:
    letters = _Type(width)
    row, edge = letters.row, letters.row // 2
    strip = _ground(plan_legend_height(width), width)
    x = edge
    for action in LEGEND_ORDER:
        chip = round(0.6 * row)
        top = (row - chip) // 2
        cv2.rectangle(strip, (x, top), (x + chip, top + chip), COLORS[action], -1)
        x += chip + edge // 2
        letters.write(strip, f"{action.name} {plan.fraction(action):.0%}", x, 0)
        x += letters.width(f"{action.name} 100%") + edge
    for number, line in enumerate(letters.wrap(plan.reason.value, width - row), 1):
        letters.write(strip, line, edge, number * row)
    return strip


def _age_legend(age_ms: NDArray[np.uint16], max_age_ms: float, width: int) -> Picture:
    letters = _Type(width)
    row, edge = letters.row, letters.row // 2
    strip = _ground(3 * row + row // 4, width)
    bar = _age_colors()[np.linspace(0, 255, width - 2 * edge).round().astype(np.uint8)]
    strip[row // 4 : row - row // 8, edge : width - edge] = bar
    middle, end = f"{max_age_ms / 2:.0f}", f"max_age_ms {max_age_ms:.0f}"
    letters.write(strip, "0 ms", edge, row)
    letters.write(strip, middle, (width - letters.width(middle)) // 2, row)
    letters.write(strip, end, width - edge - letters.width(end), row)
    told = f"oldest {int(age_ms.max())} ms, median {round(float(np.median(age_ms)))} ms"
    letters.write(strip, told, edge, 2 * row)
    return strip


def _ground(height: int, width: int) -> Picture:
    return np.full((height, width, 3), BACKGROUND, np.uint8)
