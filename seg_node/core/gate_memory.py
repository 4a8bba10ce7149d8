"""What one residual block left in every bin, each in the frame where it was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.blocks import block_mean, scaled
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.origins import Origins
from seg_node.core.pools import MARGIN, ResultPool
from seg_node.core.tiles import as_rows
from seg_node.core.warp import nearest, rescale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.residual import ResidualBlock
    from seg_node.core.types import Motion

FINEST = 8
"""Content is followed in pixels of this stride, or of the block's if that is finer."""


class GateMemory:
    """The memory of one residual block of one camera.

    Input and output are kept where the block keeps the shape, else the output alone, as tiles
    that stay in the frame where they were computed; pointers say where their content is now. For
    each frame: `follow` first; then `keep_all`, or `recall` and `keep`.

    Args:
        block: the residual block.
        size: height and width of the image, in pixels.
        side: side of a bin, in image pixels.

    """

    def __init__(self, block: ResidualBlock, size: tuple[int, int], side: int) -> None:
        """Remember nothing."""
        self.stride = min(block.stride, FINEST)
        self.size = scaled(size, self.stride)
        self._block = block
        self._plane_size = scaled(size, block.stride)
        self._origins = Origins(self.size, side // self.stride)
        self._planes = ResultPool(side // block.stride)
        self._greys = ResultPool(side // self.stride)

    def follow(self, steps: Mapping[tuple[int, int], NDArray[np.float32]]) -> None:
        """Follow the content to the next frame.

        Args:
            steps: motion to the frame before, by size of the plane, [h, w, 2] each.

        """
        self._origins.move(steps[self.size])

    def distortion(self, grey: Tensor, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return how far the image is from that in which each bin's content was computed.

        Args:
            grey: the present image, float32 [h, w], of this memory's size.
            valid: where the motion is known, bool [h, w] of any size.

        Returns:
            mean absolute difference in grey levels, float [gh, gw].

        """
        known = self._greys.read(self._origins.places(), self.size)[0, 0]
        difference = (known - grey).abs().cpu().numpy()
        difference[~nearest(valid, self.size)] = UNKNOWN_DISTORTION
        return block_mean(difference, self._origins.side)

    def oldest_ns(self) -> NDArray[np.int64]:
        """Return the stamp of the oldest computation behind each bin, int64 [gh, gw]."""
        stamps = self._planes.stamps_ns[self._origins.slot]
        starts = [np.arange(0, length, self._origins.side) for length in stamps.shape]
        rows = np.minimum.reduceat(stamps, starts[0], axis=0)
        return np.asarray(np.minimum.reduceat(rows, starts[1], axis=1))

    def keep_all(
        self, planes: Sequence[Tensor], grey: Tensor, stamps_ns: NDArray[np.int64]
    ) -> None:
        """Remember what was computed in all bins, in place of all before.

        Args:
            planes: input and output, or output alone, [1, C, h, w] each.
            grey: the image, float32 [h, w].
            stamps_ns: of what each bin was computed from, [gh, gw].

        """
        self._origins = Origins(self.size, self._origins.side)
        self._planes.restart(torch.cat(tuple(planes), 1), 0)
        self._greys.restart(grey[None, None], 0)
        self._planes.stamps_ns[:] = stamps_ns.ravel()

    def recall(self, pixels: NDArray[np.int64]) -> Tensor:
        """Return what is remembered for some pixels of the block's output, [k, C].

        Args:
            pixels: counted row by row, [k].

        """
        size = self._plane_size
        scale = self._block.stride / self.stride
        places = self._origins.places_at(*np.divmod(pixels, size[1]), size, scale)
        return as_rows(self._planes.read(places, (1, len(pixels))))

    def keep(
        self,
        planes: Sequence[Tensor],
        grey: Tensor,
        kept: NDArray[np.bool_],
        stamps_ns: NDArray[np.int64],
    ) -> None:
        """Remember the bins that were computed.

        Args:
            planes: input and output, or output alone, of all bins, [1, C, h, w] each.
            grey: the image, float32 [h, w].
            kept: the bins that were computed, bool [gh, gw].
            stamps_ns: of what each bin was computed from, [gh, gw].

        """
        blocks = np.argwhere(kept)
        used = np.bincount(self._origins.slot.ravel())
        for pool in (self._planes, self._greys):
            pool.free_all_but(used)
        # Both pools hand out the same numbers: they are asked for the same, always.
        at = torch.from_numpy(self._windows(blocks)).to(grey.device)
        tiles = torch.cat([as_rows(plane).index_select(0, at) for plane in planes], 1)
        slots = self._planes.put(tiles.view(len(blocks), -1, tiles.shape[1]), stamps_ns[kept])
        self._greys.add(grey[None, None], blocks, 0)
        self._origins.renew(blocks, slots)

    def _windows(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pixels of bins and those around, counted row by row, tile after tile."""
        b, (h, w) = self._planes.side, self._plane_size
        rows, columns = (
            _clamped(first * b, b, length) for first, length in zip(blocks.T, (h, w), strict=True)
        )
        pixels: NDArray[np.int64] = (rows[:, :, None] * w + columns[:, None]).ravel()
        return pixels


def _clamped(first: NDArray[np.int64], b: int, length: int) -> NDArray[np.int64]:
    """Return pixels of tiles and those around, on one axis, within the plane, [K, b + 2]."""
    pixels = first[:, None] + np.arange(-MARGIN, b + MARGIN)
    return np.asarray(np.clip(pixels, 0, length - 1), np.int64)


def steps_for(
    motion: Motion, sizes: set[tuple[int, int]]
) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Return a motion in the pixels of planes of several sizes, float32 [h, w, 2] each."""
    flow = torch.from_numpy(motion.flow)[None]
    return {size: rescale(flow, size)[0].numpy() for size in sizes}
