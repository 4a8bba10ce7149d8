"""What the gated modules of a network left in every bin, each in the frame it was computed.

`Content` says where and when what a bin shows was computed; `StageMemory` holds what one stage
made of it. Stages that have kept the same bins since all was computed share a content.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.bins import areas_of
from seg_node.core.blocks import plane_means, scaled
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.origins import Origins
from seg_node.core.reading import Reads
from seg_node.core.result_pool import ResultPool, tile_pixels
from seg_node.core.tile_pictures import TilePictures
from seg_node.core.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.bins import Part
    from seg_node.core.deferred import Area
    from seg_node.core.gated_modules import GatedModule
    from seg_node.core.tile_pictures import Correct

STRIDE = 8
"""Content is followed in pixels of this stride, for finer and coarser features alike."""


class Content:
    """Where and when the content of every bin was computed.

    Tiles stay in the frame where they were computed; pointers say where their content is now. For
    each frame: `follow` first, then `renew`.

    Args:
        size: height and width of the image, in pixels.
        side: side of a bin, in image pixels.

    Attributes:
        size: of the plane in which content is followed (h, w).
        origins: the pointers; slots are numbered alike in all pools of tiles of this content.

    """

    def __init__(self, size: tuple[int, int], side: int) -> None:
        """Remember nothing."""
        self.size = scaled(size, STRIDE)
        self.origins = Origins(self.size, side // STRIDE)
        self._greys = ResultPool(side // STRIDE)
        self._pictures = TilePictures(size, STRIDE, side)

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        yield from self._greys.tensors()

    def follow(self, flow: NDArray[np.float32]) -> None:
        """Follow the content to the next frame.

        Args:
            flow: from it back to this one, in pixels of this plane, [h, w, 2].

        """
        self.origins.move(flow)

    def correct(self, image: NDArray[np.uint8], correct: Correct) -> None:
        """Correct where content is by what it looked like when it was computed.

        Args:
            image: the present one, RGB, uint8 [H, W, 3].
            correct: finds what is left of motion; see `seg_node.core.tracking.StepTracker`.

        """
        self.origins.move(self._pictures.off(image, self.origins, correct))

    def distortion(self, grey: Tensor, valid: Tensor) -> NDArray[np.float64]:
        """Return how far the image is from that in which each bin's content was computed.

        Args:
            grey: the present image, float32 [h, w].
            valid: where the motion is known, bool [h, w], on the same device.

        Returns:
            mean absolute difference in grey levels, float [gh, gw].

        """
        known = self._greys.read(self.origins)[0, 0]
        difference = torch.where(valid, (known - grey).abs(), UNKNOWN_DISTORTION)
        mean: NDArray[np.float64] = (
            plane_means(difference[None], self.origins.side)[0].cpu().numpy()
        )
        return mean

    def oldest_ns(self) -> NDArray[np.int64]:
        """Return the stamp of the oldest computation behind each bin, int64 [gh, gw]."""
        stamps = self._greys.stamps_ns[self.origins.slot]
        starts = [np.arange(0, length, self.origins.side) for length in stamps.shape]
        rows = np.minimum.reduceat(stamps, starts[0], axis=0)
        return np.asarray(np.minimum.reduceat(rows, starts[1], axis=1))

    def used(self) -> NDArray[np.int64]:
        """Return how many pixels stem from each tile, [slots or fewer]."""
        return np.bincount(self.origins.slot.ravel())

    def renew(
        self,
        kept: NDArray[np.bool_],
        image: NDArray[np.uint8],
        grey: Tensor,
        stamps_ns: NDArray[np.int64],
    ) -> None:
        """Make this frame the one in which bins were computed.

        Args:
            kept: these bins, bool [gh, gw].
            image: RGB, uint8 [H, W, 3].
            grey: the same in this plane, float32 [h, w].
            stamps_ns: of what each bin was computed from, [gh, gw].

        """
        bins = np.argwhere(kept)
        if kept.all():
            self.origins = Origins(self.size, self.origins.side)
            self._greys.restart(grey[None, None], stamps_ns.ravel())
            self._pictures.add(image, bins, np.arange(len(bins)))
        elif kept.any():
            self._greys.free_all_but(self.used())
            slots = self._greys.add((grey[None, None],), bins, stamps_ns[kept])
            self._pictures.add(image, bins, slots)
            self.origins.renew(bins, slots)

    def copy(self) -> Content:
        """Return another one that is the same until bins are renewed."""
        return copy.deepcopy(self)


class Placed(NamedTuple):
    """Where what stages of one stride remember lies in a frame, and where its computed bins go.

    Attributes:
        reads: what to read of tiles for every pixel of the plane.
        used: pixels that stem from each tile, int64 [slots or fewer].
        areas: of the plane that are computed: the kept bins.
        around: pixels of the plane in kept bins and around them, int64 [K * span * span].
        bins: K, the number of kept bins.

    """

    reads: Reads
    used: NDArray[np.int64]
    areas: Sequence[Area]
    around: Tensor
    bins: int


class StageMemory:
    """What one stage of one camera made, as tiles: its branches, or its results without a skip.

    Of a network's last module it may be the network's results; see `GatedModule.ends`.

    For each frame: `start`; then, module by module, `keep_all` or `mixed`.

    Args:
        stage: its modules, of one stride, in the order in which they run.
        size: height and width of the image, in pixels.
        side: side of a bin, in image pixels.
        device: where the network runs.

    Attributes:
        stride: image pixels per pixel of what it made.

    """

    def __init__(
        self,
        stage: Sequence[GatedModule],
        size: tuple[int, int],
        side: int,
        device: torch.device,
    ) -> None:
        """Remember nothing."""
        self.stride = stage[0].stride
        self._size, self._scale = scaled(size, self.stride), self.stride / STRIDE
        self._side, self._device = side // self.stride, device
        self._pools = [ResultPool(self._side) for _ in stage]

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        for pool in self._pools:
            yield from pool.tensors()

    def placed(self, kept: NDArray[np.bool_], content: Content) -> Placed:
        """Return where what it remembers lies; the same for all stages of its stride.

        Args:
            kept: the bins that are computed, bool [gh, gw].
            content: where that of the others is; it has been followed to this frame.

        """
        height, width = self._size
        reads = self._pools[0].reads_at(
            np.arange(height * width), self._size, self._scale, content.origins
        )
        bins = np.argwhere(kept)
        around = tile_pixels(bins, self._side, self._size)
        return Placed(
            Reads(*(to_device(part, self._device) for part in reads)),
            content.used(),
            areas_of(kept, self._side, self._size),
            to_device(around, self._device),
            len(bins),
        )

    def start(self, placed: Placed) -> None:
        """Begin a frame in which some bins are reused."""
        self._placed = placed

    @property
    def areas(self) -> Sequence[Area]:
        """What is computed of the plane in this frame: its kept bins."""
        return self._placed.areas

    def keep_all(self, number: int, made: Tensor) -> None:
        """Remember what a module made in all bins.

        Args:
            number: of it within the stage.
            made: [1, C, h, w].

        """
        self._pools[number].restart(made, 0)

    def mixed(self, number: int, parts: Sequence[Part]) -> Tensor:
        """Return what a module made, where it was computed and elsewhere, and remember the former.

        Args:
            number: of it within the stage.
            parts: what it made in kept bins.

        Returns:
            [1, C, h, w], channels_last; nothing else holds it.

        """
        pool, placed = self._pools[number], self._placed
        # Also for pixels of bins that are computed: reading a few more costs less than putting
        # two lists of pixels together.
        rows = pool.take(placed.reads)
        plane = rows.view(1, *self._size, -1).permute(0, 3, 1, 2)
        for part in parts:
            part.area.of(plane).copy_(part.values)
        if parts:
            around = rows.index_select(0, placed.around)
            pool.free_all_but(placed.used)
            pool.put(around.view(placed.bins, -1, around.shape[1]), 0)
        return plane
