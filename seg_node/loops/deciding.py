"""Makes logits a mask: the class of each pixel, and how probable it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.loops.compiling import compiled
from seg_node.loops.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO, ONE = np.float32(0), np.float32(1)
HALF = np.float32(0.5)
FULL = np.float32(255)
LOG2_E = np.float32(1.4426950408889634)
LEAST = np.float32(-125)
"""Powers of two below this are not normal numbers."""
BIAS, MANTISSA = np.int32(127), np.int32(1 << 23)
"""Of the bits of a float32, which is how a whole power of two is made."""
C0, C1, C2 = np.float32(9.9999994e-1), np.float32(6.9315308e-1), np.float32(2.4015361e-1)
C3, C4, C5 = np.float32(5.5826318e-2), np.float32(8.9893397e-3), np.float32(1.8775767e-3)
"""2 ** r = C0 + C1 r + ... + C5 r ** 5 for 0 <= r < 1, to 2e-7 of it."""


@compiled
def decide(
    threads: int,
    logits: NDArray[np.float32],
    stride: int,
    labels: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
) -> None:
    """Enlarge logits bilinearly and choose the class of most probability.

    A row of image pixels is made of those that lie alike between two columns of logits, so that
    every inner loop goes over neighbours in memory.

    Args:
        threads: on which it runs.
        logits: [classes, h, w].
        stride: image pixels per logit, on each axis.
        labels: class id of each pixel, to be written, [H, W], at most stride times (h, w).
        confidence: probability times 255, likewise.

    """
    share(decide_rows, threads, len(labels), (logits, stride, labels, confidence))


@compiled
def decide_rows(
    first: int,
    last: int,
    logits: NDArray[np.float32],
    stride: int,
    labels: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
) -> None:
    """Do it for some rows of the image."""
    classes, h, w = logits.shape
    width = labels.shape[1]
    low = np.empty((classes, w + 2), np.float32)
    value = np.empty((classes, w), np.float32)
    best, total = np.empty(w, np.float32), np.empty(w, np.float32)
    label = np.empty(w, np.int32)
    each = ONE / np.float32(stride)
    for row in range(first, last):
        at = (np.float32(row) + HALF) * each - HALF
        at = min(max(at, ZERO), np.float32(h - 1))
        above = int(at)
        below, down = min(above + 1, h - 1), at - np.float32(above)
        for c in range(classes):
            for x in range(w):
                upper = logits[c, above, x]
                low[c, x + 1] = upper + (logits[c, below, x] - upper) * down
            low[c, 0] = low[c, 1]
            low[c, w + 1] = low[c, w]
        for phase in range(stride):
            across = (np.float32(phase) + HALF) * each - HALF
            blend(low, 2 if across >= 0 else 0, abs(across), value)
            best_of(value, best, label)
            add_up(value, best, total)
            for x in range((width - phase + stride - 1) // stride):
                labels[row, x * stride + phase] = np.uint8(label[x])
                confidence[row, x * stride + phase] = np.uint8(FULL / total[x] + HALF)


@compiled
def blend(
    low: NDArray[np.float32], side: int, across: np.float32, value: NDArray[np.float32]
) -> None:
    """Write logits of pixels that all lie alike between two columns.

    Args:
        low: logits of n columns and of one more on each side, [classes, n + 2].
        side: 2 if the other column is the next one, 0 if it is the one before.
        across: share of the other column.
        value: to be written, [classes, n].

    """
    count = value.shape[1]
    for c in range(len(low)):
        here, beside, found = low[c, 1 : 1 + count], low[c, side : side + count], value[c]
        for x in range(count):
            found[x] = here[x] + (beside[x] - here[x]) * across


@compiled
def best_of(
    value: NDArray[np.float32], best: NDArray[np.float32], label: NDArray[np.int32]
) -> None:
    """Write the largest logits and their classes.

    Args:
        value: logits, [classes, n].
        best: to be written, [n]; so is `label`.
        label: see above.

    """
    best[:] = -np.inf
    label[:] = 0
    for c in range(len(value)):
        found = value[c]
        for x in range(len(best)):
            label[x] = np.int32(c) if found[x] > best[x] else label[x]
        for x in range(len(best)):
            best[x] = max(found[x], best[x])


@compiled
def add_up(
    value: NDArray[np.float32], best: NDArray[np.float32], total: NDArray[np.float32]
) -> None:
    """Sum up the exponentials of logits, relative to the largest.

    Args:
        value: logits, [classes, n].
        best: the largest of each n.
        total: to be written, [n].

    """
    part, bits = np.empty(len(best), np.float32), np.empty(len(best), np.int32)
    power = bits.view(np.float32)
    total[:] = 0
    for c in range(len(value)):
        found = value[c]
        for x in range(len(best)):
            t = max((found[x] - best[x]) * LOG2_E, LEAST)
            whole = np.floor(t)
            r = t - whole
            part[x] = C0 + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * C5))))
            bits[x] = (np.int32(whole) + BIAS) * MANTISSA
        for x in range(len(best)):
            total[x] += part[x] * power[x]


@compiled
def middles(plane: NDArray[np.uint8], stride: int, h: int, w: int) -> NDArray[np.uint8]:
    """Return what lies in the middle of each pixel of the results, of a plane [H, W]: [h, w]."""
    height, width = plane.shape
    middle = np.empty((h, w), np.uint8)
    for y in range(h):
        row = min(y * stride + stride // 2, height - 1)
        for x in range(w):
            middle[y, x] = plane[row, min(x * stride + stride // 2, width - 1)]
    return middle


@compiled
def meets_another(middle: NDArray[np.uint8], y: int, x: int) -> bool:
    """Return whether one of the eight neighbours of a pixel has another class."""
    h, w = middle.shape
    meets = False
    for other in range(max(y - 1, 0), min(y + 2, h)):
        for beside in range(max(x - 1, 0), min(x + 2, w)):
            meets |= middle[other, beside] != middle[y, x]
    return meets


@compiled
def decide_borders(
    threads: int,
    labels: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    table: NDArray[np.float32],
    span: int,
    slot: NDArray[np.int32],
    place: NDArray[np.float32],
    corners: NDArray[np.float32],
    form: tuple[int, int, int, int],
) -> None:
    """Decide image pixels anew where classes meet and content has moved; see `core.borders`.

    Args:
        threads: on which it runs.
        labels: class of every image pixel, [H, W]; changed.
        confidence: its probability times 255, likewise.
        table: pixels of all tiles, [tiles * span * span, C]; the first channels are logits.
        span: pixels of a tile on each side, with those around it.
        slot: tile of each pixel of the results, [h, w].
        place: row and column of its content in the frame of its tile, [2, h, w].
        corners: row and column of each tile there, [tiles or more, 2].
        form: image pixels per pixel of the results, classes, pixels around a tile, and the least
            confidence of a class that is sure.

    """
    h, w = slot.shape
    before = middles(labels, form[0], h, w), middles(confidence, form[0], h, w)
    given = (labels, confidence, before, table, span, (slot, place, corners), form)
    share(decide_border_rows, threads, h, given)


@compiled
def decide_border_rows(
    first: int,
    last: int,
    labels: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    before: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    table: NDArray[np.float32],
    span: int,
    origins: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]],
    form: tuple[int, int, int, int],
) -> None:
    """Do it for some rows of the results."""
    middle, sureness = before
    slot, place, corners = origins
    stride, classes, margin, sure = form
    height, width = labels.shape
    w = slot.shape[1]
    each = ONE / np.float32(stride)
    parts = stride * stride
    value = np.empty((classes, parts), np.float32)
    best, total = np.empty(parts, np.float32), np.empty(parts, np.float32)
    label = np.empty(parts, np.int32)
    for y in range(first, last):
        for x in range(w):
            if place[0, y, x] == np.float32(y) and place[1, y, x] == np.float32(x):
                continue
            if sureness[y, x] >= sure and not meets_another(middle, y, x):
                continue
            tile = slot[y, x]
            from_top = place[0, y, x] - corners[tile, 0] + np.float32(margin)
            from_left = place[1, y, x] - corners[tile, 1] + np.float32(margin)
            for part in range(parts):
                down = from_top + (np.float32(part // stride) + HALF) * each - HALF
                across = from_left + (np.float32(part % stride) + HALF) * each - HALF
                down = min(max(down, ZERO), np.float32(span - 1))
                across = min(max(across, ZERO), np.float32(span - 1))
                above, left = int(down), int(across)
                down, across = down - np.float32(above), across - np.float32(left)
                a, b = (ONE - down) * (ONE - across), (ONE - down) * across
                d, e = down * (ONE - across), down * across
                at = (tile * span + above) * span + left
                below, right = span if above + 1 < span else 0, 1 if left + 1 < span else 0
                one, two = table[at], table[at + right]
                three, four = table[at + below], table[at + below + right]
                for c in range(classes):
                    value[c, part] = a * one[c] + b * two[c] + d * three[c] + e * four[c]
            best_of(value, best, label)
            add_up(value, best, total)
            for part in range(parts):
                row, column = y * stride + part // stride, x * stride + part % stride
                if row < height and column < width:
                    labels[row, column] = np.uint8(label[part])
                    confidence[row, column] = np.uint8(FULL / total[part] + HALF)
