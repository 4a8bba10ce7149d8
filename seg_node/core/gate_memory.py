"""What the residual blocks of one stage left in every bin, each in the frame it was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.blocks import block_mean, scaled, to_pixels
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
"""Content is followed in pixels of this stride, or of the stage's if that is finer."""


class StageMemory:
    """The memory of the residual blocks of one stage of one camera.

    They keep and drop the same bins, so their content was computed in the same frames. What each
    branch made is kept as tiles that stay in the frame where they were computed; pointers say
    where their content is now. For each frame: `follow` and `start` first; then, block by block,
    `mixed`, and `finish`.

    Args:
        stage: its residual blocks, of one stride, in the order in which they run.
        size: height and width of the image, in pixels.
        side: side of a bin, in image pixels.
        device: where the network runs.

    Attributes:
        size: of the plane in which content is followed (h, w).
        plane_size: of what the blocks make.
        kept: the bins that are computed in this frame, bool [gh, gw].

    """

    def __init__(
        self,
        stage: Sequence[ResidualBlock],
        size: tuple[int, int],
        side: int,
        device: torch.device,
    ) -> None:
        """Remember nothing."""
        own = stage[0].stride
        self._device, self._side = device, side // own
        self.kept = np.zeros((0, 0), np.bool_)
        self.stride = min(own, FINEST)
        self.size = scaled(size, self.stride)
        self.plane_size = scaled(size, own)
        self._scale = own / self.stride
        self._origins = Origins(self.size, side // self.stride)
        self._made = [ResultPool(side // own) for _ in stage]
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
        stamps = self._greys.stamps_ns[self._origins.slot]
        starts = [np.arange(0, length, self._origins.side) for length in stamps.shape]
        rows = np.minimum.reduceat(stamps, starts[0], axis=0)
        return np.asarray(np.minimum.reduceat(rows, starts[1], axis=1))

    # ---- one frame -------------------------------------------------------------------------

    def start(self, kept: NDArray[np.bool_], stamps_ns: NDArray[np.int64]) -> None:
        """Begin a frame whose content was followed.

        Args:
            kept: the bins that its blocks compute, bool [gh, gw]; all of them in a first frame.
            stamps_ns: of what each bin is computed from, [gh, gw].

        """
        self.kept, self._stamps_ns = kept, stamps_ns
        if kept.all():
            return
        size = self.plane_size
        here = to_pixels(kept, self._side, size).ravel()
        dropped = np.flatnonzero(here == 0)
        places = self._origins.places_at(*np.divmod(dropped, size[1]), size, self._scale)
        self._dropped, self._reads = self._indices(dropped), self._made[0].reads(places)
        self._used = np.bincount(self._origins.slot.ravel())
        self._bins = np.argwhere(kept)
        rows, columns = (at[:, None] * self._side + np.arange(self._side) for at in self._bins.T)
        inside = (rows < size[0])[:, :, None] & (columns < size[1])[:, None]
        self._inside = None if inside.all() else self._indices(np.flatnonzero(inside))
        self._pixels = self._indices((rows[:, :, None] * size[1] + columns[:, None])[inside])
        self._around = self._indices(self._windows(self._bins))

    def keep_all(self, number: int, made: Tensor) -> None:
        """Remember what a branch made in all bins.

        Args:
            number: of its block within the stage.
            made: [1, C, h, w].

        """
        self._made[number].restart(made, 0)

    def mixed(self, number: int, tiles: Tensor | None) -> Tensor:
        """Return what a branch made, where it was computed and elsewhere, and remember the former.

        Args:
            number: of its block within the stage.
            tiles: what it made in kept bins, [K, C, b, b]; None if there are none.

        Returns:
            [1, C, h, w], channels_last.

        """
        pool = self._made[number]
        rows = known = pool.take(self._reads)
        if tiles is not None:
            new = as_rows(tiles)
            if self._inside is not None:
                new = new.index_select(0, self._inside)
            rows = known.new_empty((len(known) + len(new), known.shape[1]))
            rows.index_copy_(0, self._dropped, known).index_copy_(0, self._pixels, new)
            around = rows.index_select(0, self._around)
            pool.free_all_but(self._used)
            pool.put(around.view(len(tiles), -1, around.shape[1]), 0)
        return rows.view(1, *self.plane_size, -1).permute(0, 3, 1, 2)

    def finish(self, grey: Tensor) -> None:
        """End a frame: content in kept bins is from now on that of this frame.

        Args:
            grey: the image, float32 [h, w], of this memory's size.

        """
        if self.kept.all():
            self._origins = Origins(self.size, self._origins.side)
            self._greys.restart(grey[None, None], 0)
            self._greys.stamps_ns[:] = self._stamps_ns.ravel()
        elif len(self._bins):
            # All pools hand out the same numbers: they are asked for the same, always.
            self._greys.free_all_but(self._used)
            stamps_ns = self._stamps_ns[self.kept]
            slots = self._greys.add(grey[None, None], self._bins, stamps_ns)
            self._origins.renew(self._bins, slots)

    def _indices(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def _windows(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pixels of bins and those around, counted row by row, tile after tile."""
        rows, columns = (
            _clamped(first * self._side, self._side, length)
            for first, length in zip(bins.T, self.plane_size, strict=True)
        )
        pixels: NDArray[np.int64] = (
            rows[:, :, None] * self.plane_size[1] + columns[:, None]
        ).ravel()
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
