"""What one camera's newest full computation left: features, image and the age of every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.blocks import grid_shape
from seg_node.core.motion import block_starts, same_view
from seg_node.core.transfers import to_device
from seg_node.core.types import DataError
from seg_node.core.warp import move, origin, rescale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.device_motion import AnyMotion
    from seg_node.core.types import Frame

_NS_PER_MS = 1_000_000
_MAX_MS = int(np.iinfo(np.uint16).max)


@dataclass(frozen=True)
class Kept:
    """What is remembered of one frame.

    Attributes:
        frame: the frame, with its image and stamp.
        features: its features, float [1, C, h, w].
        side: side B of a block, in pixels of the image.
        stamps_ns: stamp of the full computation behind each block, int64 [gh, gw].

    """

    frame: Frame
    features: Tensor
    side: int
    stamps_ns: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the features."""
        return self.features.shape[-2], self.features.shape[-1]


class Memory:
    """Remembers the features of one frame of one camera, in the pixels of that frame.

    Attributes:
        kept: what is remembered; None while there is nothing.

    """

    def __init__(self) -> None:
        """Start empty."""
        self.kept: Kept | None = None

    def reset(self) -> None:
        """Forget everything."""
        self.kept = None

    def store(
        self,
        frame: Frame,
        features: Tensor,
        side: int,
        stamps_ns: NDArray[np.int64] | None = None,
    ) -> None:
        """Remember the features of a frame in place of all before.

        Args:
            frame: the frame.
            features: float [1, C, h, w]; kept, not copied.
            side: side B of a block, in pixels of the image.
            stamps_ns: stamp of the full computation behind each block, int64 [gh, gw]; None where
                all blocks were computed from this frame.

        Raises:
            DataError: features or stamps have another shape.

        """
        grid = grid_shape(frame.image.shape[0], frame.image.shape[1], side)
        if stamps_ns is None:
            stamps_ns = np.full(grid, frame.stamp_ns, np.int64)
        if stamps_ns.shape != grid or features.ndim != 4 or features.shape[0] != 1:  # noqa: PLR2004 - [1, C, h, w]
            msg = (
                f"features {list(features.shape)} and stamps {list(stamps_ns.shape)} cannot be "
                f"remembered: expected [1, C, h, w] and {list(grid)}"
            )
            raise DataError(msg)
        self.kept = Kept(frame, features, side, stamps_ns)

    def matches(self, frame: Frame) -> bool:
        """Return whether something of the same camera, frame_id and image size is remembered."""
        return self.kept is not None and same_view(self.kept.frame, frame)

    def warped(self, motion: AnyMotion) -> tuple[Tensor, Tensor]:
        """Return the features where things are now, and where that is known.

        Args:
            motion: from the present frame to the remembered one, of any pixel grid.

        Returns:
            features float [1, C, h, w]; valid bool [1, 1, h, w], on the same device.

        Raises:
            DataError: nothing is remembered.

        """
        return moved(self._kept().features, motion)

    def age_ms(self, now_ns: int, motion: AnyMotion) -> NDArray[np.uint16]:
        """Return the age of the oldest full computation behind each block of the present frame.

        Args:
            now_ns: stamp of the present frame.
            motion: from it to the remembered one, of any pixel grid.

        Returns:
            uint16 [gh, gw], in ms, rounded up: 0 where the stamp lies in the future, 65535 also
            where it is more than that.

        Raises:
            DataError: nothing is remembered.

        """
        kept = self._kept()
        if kept.stamps_ns.min() == kept.stamps_ns.max():  # then it does not matter what moved
            return np.full_like(kept.stamps_ns, _age_ms(now_ns, kept.stamps_ns.max()), np.uint16)
        size = (kept.frame.image.shape[0], kept.frame.image.shape[1])
        starts = block_starts(size, kept.side, kept.size)
        flow = rescale(torch.as_tensor(motion.flow)[None], kept.size)[0].cpu().numpy()
        stamps_ns = np.minimum.reduce(
            [kept.stamps_ns[blocks] for blocks in _blocks_read(flow, starts)]
        )
        oldest = np.minimum.reduceat(np.minimum.reduceat(stamps_ns, starts[0], 0), starts[1], 1)
        return np.asarray(_age_ms(now_ns, oldest), np.uint16)

    def _kept(self) -> Kept:
        if self.kept is None:
            msg = "nothing is remembered: store the features of a full computation first"
            raise DataError(msg)
        return self.kept


def _age_ms(now_ns: int, stamps_ns: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """Return ages in ms, rounded up, as far as uint16 holds them."""
    age: NDArray[np.int64] = np.clip(-(-(now_ns - stamps_ns) // _NS_PER_MS), 0, _MAX_MS)
    return age


def _blocks_read(
    flow: NDArray[np.float32], starts: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield row and column of the blocks of the four pixels that `warp` reads for each pixel."""
    block_of = [
        np.searchsorted(start, np.arange(length), side="right") - 1
        for start, length in zip(starts, flow.shape, strict=False)
    ]
    x, y = origin(flow)
    for round_y in (np.floor, np.ceil):
        rows = block_of[0][np.clip(round_y(y), 0, flow.shape[0] - 1).astype(np.intp)]
        for round_x in (np.floor, np.ceil):
            yield rows, block_of[1][np.clip(round_x(x), 0, flow.shape[1] - 1).astype(np.intp)]


def moved(features: Tensor, motion: AnyMotion) -> tuple[Tensor, Tensor]:
    """Return features where things are now, and where that is known; see `Memory.warped`."""
    flow, valid = (torch.as_tensor(x)[None] for x in (motion.flow, motion.valid))
    device = features.device
    return move(features, to_device(flow, device), to_device(valid, device))
