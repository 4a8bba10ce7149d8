"""What tiles looked like when they were computed: pictures that motion is corrected by.

Motion from frame to frame is composed over all the frames that a tile is remembered, and its
errors add up. The picture that a tile was computed from does not change: moved along, it shows
how far content has come to lie beside itself, in every frame anew and without any drift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.blocks import grid_shape, scaled
from seg_node.core.flow import WORK_PIXELS
from seg_node.core.warp import rescale
from seg_node.loops import compiling, pointing
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seg_node.core.origins import Origins

    Grey = NDArray[np.uint8]
    Correct = Callable[[Grey, Grey], NDArray[np.float32]]

MOST_PIXELS = 2 * WORK_PIXELS
"""Most pixels of the pictures, where the stride of the results allows so few."""

_COLUMNS = 16
"""Tiles beside each other in the atlas; OpenCV reads from images of up to 32767 pixels a side."""


class TilePictures:
    """Grey pictures of tiles, each in the frame where it was computed.

    Tiles have the numbers that they have among the results; see
    `seg_node.core.result_pool.ResultPool`.

    Args:
        size: of the images (H, W).
        stride: image pixels per pixel of the results.
        side: side of a tile, in image pixels.

    """

    def __init__(self, size: tuple[int, int], stride: int, side: int) -> None:
        """Choose the resolution; there are no pictures yet."""
        self.step = 1
        while self.step < stride and np.prod(scaled(size, self.step)) > MOST_PIXELS:
            self.step *= 2
        self._finer = stride // self.step  # pixels per pixel of the results
        self._pad = self._finer // 2 + 2
        self._side = side // self.step
        self._span = self._side + 2 * self._pad
        self._block = side
        self._atlas = np.zeros((0, _COLUMNS * self._span), np.uint8)
        # What `off` saw, until `add`: the same frame is compared first, and then cut up.
        self._seen: tuple[NDArray[np.uint8], Grey] | None = None

    def reduced(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an RGB image [H, W, 3] in grey at the resolution of the pictures."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.step > 1:
            size = scaled((grey.shape[0], grey.shape[1]), self.step)
            grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(grey, np.uint8)

    def add(
        self, image: NDArray[np.uint8], blocks: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> None:
        """Keep what blocks of an image look like.

        Args:
            image: RGB, uint8 [H, W, 3].
            blocks: rows and columns of the blocks, [K, 2].
            slots: the numbers of their tiles, [K].

        """
        span, side, pad = self._span, self._side, self._pad
        rows = int(slots.max(initial=-1)) // _COLUMNS + 1
        missing = rows * span - len(self._atlas)
        if missing > 0:
            self._atlas = np.pad(self._atlas, ((0, missing), (0, 0)))
        seen, self._seen = self._seen, None
        grey = seen[1] if seen is not None and seen[0] is image else self.reduced(image)
        grid = grid_shape(image.shape[0], image.shape[1], self._block)
        down, right = (
            count * side - length + pad for count, length in zip(grid, grey.shape, strict=True)
        )
        wide = cv2.copyMakeBorder(grey, pad, down, pad, right, cv2.BORDER_REPLICATE)
        for (row, column), slot in zip((blocks * side).tolist(), slots.tolist(), strict=True):
            y, x = (part * span for part in divmod(slot, _COLUMNS))
            cut = wide[row : row + span, column : column + span]
            self._atlas[y : y + span, x : x + span] = cut

    def off(
        self, image: NDArray[np.uint8], origins: Origins, correct: Correct
    ) -> NDArray[np.float32]:
        """Return how far content is shown from where the pointers of the results have it.

        Args:
            image: the present one, RGB, uint8 [H, W, 3].
            origins: the tile and place of every pixel of the results, [h, w].
            correct: finds it; see `seg_node.core.tracking.StepTracker.correct`.

        Returns:
            flow to where content is shown, in pixels of the results, float32 [h, w, 2].

        """
        now = self.reduced(image)
        self._seen = image, now
        moved = self.moved(origins)[: now.shape[0], : now.shape[1]]
        flow = correct(np.ascontiguousarray(moved), now)
        return rescale(torch.from_numpy(flow)[None], origins.size)[0].numpy()

    def moved(self, origins: Origins) -> NDArray[np.uint8]:
        """Return the pictures where their content is now, by the pointers of the results.

        Args:
            origins: the tile and place of every pixel of the results, [h, w].

        Returns:
            uint8 [h * finer, w * finer], of the size of `reduced` or a little more.

        """
        finer, (h, w) = self._finer, origins.size
        if compiling.AVAILABLE:
            y, x = (np.empty((h * finer, w * finer), np.float32) for _ in range(2))
            layout = _COLUMNS, self._span, self._side, self._pad
            where = origins.slot, origins.place, origins.corners
            pointing.picture_maps(threads(), finer, layout, *where, y, x)
            return self._shown(y, x)
        corners = np.divmod(origins.slot, _COLUMNS)
        inner = np.arange(finer, dtype=np.float32) - (finer - 1) / 2
        maps = []
        for corner, place, tile in zip(
            corners, origins.place, origins.corners[origins.slot].transpose(2, 0, 1), strict=True
        ):
            # Beyond its own tile, content is shown as the tile's edge; the rim is for `inner`.
            within = np.clip((place - tile + 0.5) * finer - 0.5, -1, self._side)
            at = (corner * self._span + self._pad + within).astype(np.float32)
            maps.append(cv2.resize(at, (w * finer, h * finer), interpolation=cv2.INTER_NEAREST))
        y, x = maps
        y += np.tile(inner, h)[:, None]
        x += np.tile(inner, w)
        return self._shown(y, x)

    def _shown(self, y: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the atlas at rows and columns of it."""
        return np.asarray(cv2.remap(self._atlas, x, y, cv2.INTER_LINEAR), np.uint8)
