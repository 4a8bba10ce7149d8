"""What a camera's blocks left behind, each in the frame where it was computed."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import grid_shape, scaled, to_pixels
from seg_node.core.borders import moved_results, read_borders
from seg_node.core.comparing import block_max, COLOURS, compare
from seg_node.core.feature_pool import FeaturePool
from seg_node.core.mixing import mixed, shares
from seg_node.core.origins import Origins
from seg_node.core.policy import BlockPast, Past, Remembers
from seg_node.core.result_pool import ResultPool
from seg_node.core.tile_pictures import TilePictures
from seg_node.core.tiles import as_rows
from seg_node.core.tracking import OnHost, StepTracker
from seg_node.core.transfers import to_device
from seg_node.core.types import Action, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.backend import BlockKernels
    from seg_node.core.background import Background
    from seg_node.core.config import Config
    from seg_node.core.device_motion import AnyMotion
    from seg_node.core.masks import Planes
    from seg_node.core.tracking import AnyMethod
    from seg_node.core.types import Frame

_NS_PER_MS = 1_000_000
_MAX_MS = int(np.iinfo(np.uint16).max)


class BlockHistory:
    """The memory of one camera whose blocks are computed one by one.

    For every frame, in the order of their stamps: `look` first; then `recorder` and `keep_all`
    around a full computation, or `background` and `keep` around that of some blocks.

    Args:
        stride: image pixels per feature pixel of the network's results.
        side: side of a block, in image pixels.
        device: where the network runs.
        method: how motion is measured; None for the CPU's.

    """

    remembers = Remembers.BLOCKS

    def __init__(
        self, stride: int, side: int, device: torch.device, method: AnyMethod | None = None
    ) -> None:
        """Remember nothing."""
        self._method: AnyMethod = method or OnHost()
        self._stride, self._side, self._device = stride, side, device
        self._tracker: StepTracker[Any, Any] | None = None
        self._origins: Origins | None = None
        self._results = ResultPool(side // stride)
        self.features: FeaturePool | None = None
        self._pictures: TilePictures | None = None
        self._known: Tensor | None = None  # results where things are now, and their picture
        self._picture: Tensor | None = None  # in colour, as large as the results
        self._change: Tensor | None = None  # from the remembered to the present picture
        self._before_ns = 0
        self._recording = Recording()
        self._asked = False

    def forget(self) -> None:
        """Remember nothing, and keep the room for it: the next frame may be another camera's."""
        self._tracker = self._origins = None

    def ask(self) -> None:
        """Have the next frame computed in full."""
        self._asked = True

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        yield from self._results.tensors()
        if self.features is not None:
            yield from self.features.tensors()
        yield from (x for x in (self._known, self._picture) if x is not None)
        yield from self._recording.tensors

    # ---- before the plan -------------------------------------------------------------------

    def look(self, frame: Frame, config: Config) -> Past:
        """Follow the content to this frame, and return what of it can be used.

        Args:
            frame: the next frame, as the network will see it.
            config: settings in force.

        """
        if self._tracker is None or self._tracker.source != config.motion.source:
            self._tracker = StepTracker(config.motion.source, self._method)
            self._origins = None
        size = scaled((frame.image.shape[0], frame.image.shape[1]), self._stride)
        self._picture = self._method.colours(frame, size).to(self._device)
        found = self._tracker.track(frame)
        camera = frame.camera
        if isinstance(found, Reason):
            return Past(found, camera=camera)
        if self._origins is None:
            return Past(Reason.FIRST, camera=camera)
        if self._asked:
            return Past(Reason.ASKED, camera=camera)
        interval_ns, self._before_ns = frame.stamp_ns - self._before_ns, frame.stamp_ns
        return Past(None, 1, self._follow(found, frame, interval_ns), camera)

    def _follow(self, step: AnyMotion, frame: Frame, interval_ns: int) -> BlockPast:
        assert self._tracker is not None
        assert self._origins is not None
        assert self._picture is not None
        assert self._pictures is not None
        origins = self._origins
        flow, valid = self._method.step_at(step, origins.size)
        origins.move(flow)
        if not self._tracker.stated:
            off = self._pictures.off(frame.image, origins, self._tracker.correct)
            origins.move(off)
        self._known = self._results.read(origins)
        ages_ms = (frame.stamp_ns - self._results.stamps_ns) / _NS_PER_MS
        picture = self._picture
        found = compare(self._known, picture, valid, ages_ms, origins)
        self._change = found.change
        return BlockPast(
            found.distortion,
            found.doubt,
            found.risk,
            found.age_ms,
            found.oldest_ms,
            interval_ns / _NS_PER_MS,
        )

    # ---- what was computed -----------------------------------------------------------------

    def logits(self) -> Tensor:
        """Return the remembered results where things are now, [1, classes, h, w]."""
        assert self._known is not None
        return self._known[:, :-COLOURS]

    def recorder(self) -> Recorder:
        """Return what a full computation runs in."""
        self._recording = Recording()
        return Recorder(self._recording)

    def keep_all(self, frame: Frame, logits: Tensor) -> None:
        """Remember a frame that was computed in full, in place of all before.

        Args:
            frame: the frame that `look` saw last.
            logits: of the network, [1, classes, h, w].

        """
        assert self._tracker is not None
        assert self._picture is not None
        self._tracker.start(frame)
        size = (logits.shape[-2], logits.shape[-1])
        self._origins = Origins(size, self._side // self._stride)
        self._results.restart(self._with_picture(logits), frame.stamp_ns)
        image = frame.image
        grid = grid_shape(image.shape[0], image.shape[1], self._side)
        self._pictures = TilePictures((image.shape[0], image.shape[1]), self._stride, self._side)
        every = np.argwhere(np.ones(grid, np.bool_))
        self._pictures.add(image, every, np.arange(len(every)))
        if self.features is None or self.features.grid != grid:
            self.features = FeaturePool(grid, self._stride, self._side)
        self.features.restart(self._recording.tensors, self._origins)
        self._recording = Recording()  # the pool cuts the planes up, and then lets go of them
        self._before_ns, self._asked = frame.stamp_ns, False

    def background(self, grid: NDArray[np.uint8]) -> Background:
        """Return what the network finds around the blocks that it computes of a grid."""
        assert self._origins is not None
        assert self.features is not None
        used = np.bincount(self._origins.slot.ravel())
        self._results.free_all_but(used)
        self.features.claim(np.flatnonzero(grid == Action.HIGH), used)
        return self.features

    def mixed(self, logits: Tensor, high: Tensor, grid: NDArray[np.uint8]) -> Tensor:
        """Return logits in which computed blocks are mixed with what is remembered of them.

        Args:
            logits: of the whole frame, [1, classes, h, w].
            high: which of their pixels were computed, counted row by row, int64 [n].
            grid: `Action` of each block; not all are HIGH.

        """
        assert self._change is not None
        pixels = logits[0].permute(1, 2, 0)
        shown = pixels.clone(memory_format=torch.contiguous_format).flatten(0, 1)
        size = (logits.shape[-2], logits.shape[-1])
        computed = to_pixels(grid == Action.HIGH, self._side // self._stride, size)
        share = to_device(shares(computed), shown.device).flatten()
        rows = shown, as_rows(self.logits()), self._change.flatten(), share
        shown.index_copy_(0, high, mixed(*(row.index_select(0, high) for row in rows)))
        return shown.view(1, *logits.shape[-2:], -1).permute(0, 3, 1, 2)

    def sharpened(self, planes: Planes, kernels: BlockKernels | None = None) -> Planes:
        """Decide image pixels anew where moved results lost detail; see `seg_node.core.borders`.

        Args:
            planes: class and probability of every image pixel; they are changed in place.
            kernels: what does it on the device; None for the host.

        """
        assert self._origins is not None
        classes = self._results.channels - COLOURS
        if kernels is None:
            return read_borders(planes, self._results, self._origins, self._stride, classes)
        moved = moved_results(self._results, self._origins, planes[0].device)
        return kernels.read_tiles(planes, moved, self._stride, classes)

    def keep(self, frame: Frame, logits: Tensor, grid: NDArray[np.uint8]) -> None:
        """Remember the blocks that were computed of a frame.

        Args:
            frame: the frame that `look` saw last.
            logits: of the whole frame, as it is shown, [1, classes, h, w].
            grid: `Action` of each block.

        """
        assert self._origins is not None
        assert self.features is not None
        assert self._pictures is not None
        assert self._picture is not None
        blocks = np.argwhere(grid == Action.HIGH)
        planes = logits, self._picture[None].to(logits.dtype)
        slots = self._results.add(planes, blocks, frame.stamp_ns)
        self.features.name(slots)
        self._pictures.add(frame.image, blocks, slots)
        self._origins.renew(blocks, slots)

    def _with_picture(self, logits: Tensor) -> Tensor:
        assert self._picture is not None
        return torch.cat((logits, self._picture[None].to(logits.dtype)), 1)

    def age_ms(self, frame: Frame) -> NDArray[np.uint16]:
        """Return how old the oldest computation behind each block is, uint16 [gh, gw]."""
        assert self._origins is not None
        age_ns = frame.stamp_ns - self._results.stamps_ns[self._origins.slot]
        oldest = -(-block_max(age_ns, self._origins.side) // _NS_PER_MS)
        return np.asarray(np.clip(oldest, 0, _MAX_MS), np.uint16)
