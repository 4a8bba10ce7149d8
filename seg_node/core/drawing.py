"""Pictures of results for people: overlays, legends and contact sheets. Colours are RGB."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo

BACKGROUND = (24, 24, 28)
INK = (235, 235, 235)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LEGEND_ROW = 22
"""Height of one legend row in pixels."""


def color_table(classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Return RGB per label, uint8 [256, 3]; labels without a class are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = [c.color for c in classes]
    return table


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], colors: NDArray[np.uint8], opacity: float
) -> NDArray[np.uint8]:
    """Blend class colours over an RGB image.

    Args:
        image: uint8 [H, W, 3].
        labels: class ids, uint8 [H, W].
        colors: RGB per id, uint8 [256, 3], see `color_table`.
        opacity: weight of the colours, 0..1.

    """
    blended = cv2.addWeighted(colors[labels], opacity, image, 1.0 - opacity, 0.0)
    return np.asarray(blended, np.uint8)


def legend(classes: Sequence[ClassInfo], width: int) -> NDArray[np.uint8]:
    """Return a strip of named colour chips, uint8 [rows * 22, width, 3], wrapped to the width."""
    cell = 120
    columns = max(1, width // cell)
    rows = math.ceil(len(classes) / columns)
    strip = np.full((rows * LEGEND_ROW, width, 3), BACKGROUND, np.uint8)
    for index, item in enumerate(classes):
        row, column = divmod(index, columns)
        x, y = column * cell, row * LEGEND_ROW
        cv2.rectangle(strip, (x + 5, y + 5), (x + 17, y + 17), item.color, -1)
        cv2.putText(strip, item.name, (x + 23, y + 16), FONT, 0.42, INK, 1, cv2.LINE_AA)
    return strip


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]], columns: int, cell_width: int
) -> NDArray[np.uint8]:
    """Arrange RGB pictures in rows, each scaled to a width, on a dark ground.

    Args:
        pictures: uint8 [H, W, 3] each, sizes may differ; at least one.
        columns: pictures per row.
        cell_width: width of each picture in pixels.

    """
    gap = 6
    scaled = [to_width(p, cell_width) for p in pictures]
    height = max(p.shape[0] for p in scaled)
    columns = min(columns, len(scaled))
    rows = math.ceil(len(scaled) / columns)
    shape = (rows * (height + gap) + gap, columns * (cell_width + gap) + gap, 3)
    sheet = np.full(shape, BACKGROUND, np.uint8)
    for index, picture in enumerate(scaled):
        row, column = divmod(index, columns)
        y, x = gap + row * (height + gap), gap + column * (cell_width + gap)
        sheet[y : y + picture.shape[0], x : x + cell_width] = picture
    return sheet


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put RGB pictures beside each other, tops aligned, on a dark ground."""
    gap = 6
    height = max(p.shape[0] for p in pictures)
    width = sum(p.shape[1] + gap for p in pictures) - gap
    row = np.full((height, width, 3), BACKGROUND, np.uint8)
    x = 0
    for picture in pictures:
        row[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + gap
    return row


def to_width(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Scale an RGB picture to a width, its shape kept; one that has it is returned as it is."""
    if picture.shape[1] == width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    how = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)
