"""Block-sparse execution, slow and plain: what `core.sparse` has to equal.

Nothing is gathered. For each set of blocks, the whole plane is put together at the resolution of
the set, with what the other set and the background show in its place; then a function of torch
runs densely on that plane, and only the pixels inside the blocks of the set count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.sparse import BlockTensor

    # An operation, and a plane that it may join: of the size of the result, at full resolution.
    Operation = Callable[[Tensor, Tensor], Tensor]


def repeated(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Show every pixel of [N, C, h, w] twice in each direction, cut to a size."""
    rows = torch.arange(size[0]) // 2
    columns = torch.arange(size[1]) // 2
    return plane[:, :, rows][..., columns]


def averaged(plane: Tensor) -> Tensor:
    """Average [N, C, h, w] two by two; an odd last row or column counts as if it came twice."""
    odd = (0, plane.shape[-1] % 2, 0, plane.shape[-2] % 2)
    wide = functional.pad(plane, odd, mode="replicate")
    return (
        wide[..., ::2, ::2] + wide[..., 1::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, 1::2]
    ) / 4


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return half of a size, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


@dataclass(frozen=True)
class SlowBlocks:
    """A feature map as whole planes, of which only the pixels inside the blocks count.

    Attributes:
        grids: `Action` per block, uint8 [N, gh, gw].
        side: side of a block, in image pixels.
        stride: image pixels per feature pixel at full resolution.
        high: plane at full resolution, [N, C, h, w].
        low: plane at half resolution.
        back: what REUSE blocks show, at full or half resolution; None without them.

    """

    grids: NDArray[np.uint8]
    side: int
    stride: int
    high: Tensor
    low: Tensor
    back: Tensor | None = None

    def mask(self, action: Action, size: tuple[int, int], stride: int) -> Tensor:
        """Return which pixels of a plane, each of `stride` image pixels, are in a set."""
        rows, columns = (np.arange(length) * stride // self.side for length in size)
        return torch.from_numpy(self.grids[:, rows][:, :, columns] == action)[:, None]

    @property
    def full(self) -> tuple[int, int]:
        """Size of the plane at full resolution."""
        return self.high.shape[-2], self.high.shape[-1]

    def seen_by_high(self) -> Tensor:
        """Return the plane at full resolution; LOW blocks are repeated."""
        in_low = self.mask(Action.LOW, self.full, self.stride)
        plane = torch.where(in_low, repeated(self.low, self.full), self.high)
        if self.back is None:
            return plane
        is_half = self.back.shape[-2:] != self.high.shape[-2:]
        shown = repeated(self.back, self.full) if is_half else self.back
        return torch.where(self.mask(Action.REUSE, self.full, self.stride), shown, plane)

    def seen_by_low(self) -> Tensor:
        """Return the plane at half resolution; HIGH blocks are averaged."""
        size = half(self.full)
        in_high = self.mask(Action.HIGH, size, 2 * self.stride)
        plane = torch.where(in_high, averaged(self.high), self.low)
        if self.back is None:
            return plane
        is_half = self.back.shape[-2:] == plane.shape[-2:]
        shown = self.back if is_half else averaged(self.back)
        return torch.where(self.mask(Action.REUSE, size, 2 * self.stride), shown, plane)

    def after(self, operation: Operation, stride: int, plane: Tensor) -> SlowBlocks:
        """Apply an operation that gives features of a stride, with a plane that it may join."""
        high = operation(self.seen_by_high(), plane)
        low = operation(self.seen_by_low(), averaged(plane))
        back = self.back
        if back is not None:
            is_half = back.shape[-2:] != self.high.shape[-2:]
            back = operation(back, averaged(plane) if is_half else plane)
        return SlowBlocks(self.grids, self.side, stride, high, low, back)

    def combined(self) -> Tensor:
        """Return one plane at full resolution; LOW blocks are upsampled bilinearly."""
        smooth = functional.interpolate(self.seen_by_low(), scale_factor=2, mode="bilinear")
        smooth = smooth[..., : self.full[0], : self.full[1]]
        in_low = self.mask(Action.LOW, self.full, self.stride)
        return torch.where(in_low, smooth, self.seen_by_high())

    def check(self, x: BlockTensor) -> None:
        """Compare the pixels inside the image and inside the blocks, to 1e-9."""
        assert x.stride == self.stride
        finest = self.high if x.layout.finest == 1 else self.low
        assert x.shape == finest.shape
        for action, plane, scale in ((Action.HIGH, self.high, 1), (Action.LOW, self.low, 2)):
            size = (plane.shape[-2], plane.shape[-1])
            inside = self.mask(action, size, self.stride * scale)
            if inside.any():
                found = pasted(x.cut().of(action), self.grids == action, plane)
                expected = torch.where(inside, plane, 0.0)
                torch.testing.assert_close(
                    torch.where(inside, found, 0.0), expected, rtol=1e-9, atol=1e-9
                )


def pasted(tiles: Tensor, chosen: NDArray[np.bool_], like: Tensor) -> Tensor:
    """Put tiles [K, C, b, b] where the chosen blocks are, in a plane like [N, C, h, w]."""
    places = np.argwhere(chosen).tolist()
    b = tiles.shape[-1]
    assert tiles.shape == (len(places), like.shape[1], b, b)
    wide = like.new_full((*like.shape[:2], chosen.shape[1] * b, chosen.shape[2] * b), np.nan)
    for tile, (n, row, column) in zip(tiles, places, strict=True):
        wide[n, :, row * b : (row + 1) * b, column * b : (column + 1) * b] = tile
    return wide[..., : like.shape[-2], : like.shape[-1]]
