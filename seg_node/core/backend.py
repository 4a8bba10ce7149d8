"""The operations of the block engine that a faster backend replaces, and their plain torch form.

Pixels lie in tables, one a row: a batch of blocks in `channels_last` is one, and so is a whole
plane. An operation names the row of each pixel that it reads, halos included, and, where it writes
into a plane, the row of each that it writes. So nothing has to be gathered before a convolution or
scattered after it, whatever the blocks and their surroundings lie in.

`TorchKernels` is what every backend has to equal; `seg_node.kernels` is one for GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.attention import local_attention
from seg_node.core.borders import read_tiles
from seg_node.core.masks import decide_planes
from seg_node.core.matching import Matcher, TorchMatcher
from seg_node.core.tiles import as_rows, enlarged

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.borders import Moved
    from seg_node.core.masks import Planes

OUTSIDE = -1
"""In place of a row: the pixel lies outside the image."""


@dataclass(frozen=True)
class Source:
    """The pixels of K blocks and those around them, where they are.

    Attributes:
        table: pixels, [R, C].
        rows: row of each pixel, int32 [K, span, span]: in `table`, from R on in `more`; negative
            outside the image.
        more: pixels that are not in `table`, [m, C]; None if there are none.

    """

    table: Tensor
    rows: Tensor
    more: Tensor | None = None


@dataclass(frozen=True)
class Target:
    """Where the pixels of K blocks are written.

    Attributes:
        table: pixels, [S, C]; changed in place.
        rows: row of each pixel, int32 [K, side, side], none twice; negative ones are not written.

    """

    table: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution, padded by half its kernel.

    Attributes:
        weight: [O, C, k, k], k odd.
        bias: [O]; None for zeros.
        step: pixels read per pixel written, on each axis.
        dilation: pixels from one tap of the kernel to the next.

    """

    weight: Tensor
    bias: Tensor | None = None
    step: int = 1
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Pixels around a block that it reads."""
        return self.dilation * (int(self.weight.shape[-1]) // 2)

    def side(self, span: int) -> int:
        """Return the side of the blocks that it makes of blocks with what is around them."""
        return (span - 2 * self.reach) // self.step


class BlockKernels(Matcher, Protocol):
    """Operations on blocks, and those before and after a network, motion among them.

    Attributes:
        name: as in the setting `kernels`.

    """

    name: str

    def gather(self, source: Source, fill: float = 0.0) -> Tensor:
        """Copy blocks with what is around them together, [K, C, span, span].

        Args:
            source: the pixels.
            fill: value outside the image.

        """
        ...

    def convolve(
        self,
        source: Source,
        layer: Layer,
        *,
        residual: Tensor | None = None,
        relu: bool = False,
        target: Target | None = None,
    ) -> Tensor:
        """Convolve blocks, add a residual, and set what is negative to zero.

        Args:
            source: the pixels, with as many around each block as the layer reaches; zeros lie
                outside the image.
            layer: the convolution.
            residual: what to add, [S, O]: of the rows that are written.
            relu: whether negative results become zero.
            target: where to write; None for blocks one after the other.

        Returns:
            the blocks, [K, O, side, side], or the table of the target, [S, O].

        """
        ...

    def max_pool(self, source: Source, kernel: int, step: int) -> Tensor:
        """Return the maximum around each pixel, [K, C, side, side].

        Args:
            source: the pixels, with kernel // 2 around each block; none of those outside the
                image is the maximum.
            kernel: side of the window, odd.
            step: pixels read per pixel written, on each axis.

        """
        ...

    def enlarge(self, source: Source, factor: int) -> Tensor:
        """Upsample blocks bilinearly by a whole factor, [K, C, side, side].

        Args:
            source: the pixels, with one around each block; outside the image there is none:
                rows name the nearest pixel inside.
            factor: pixels written per pixel read, on each axis.

        """
        ...

    def attend(
        self,
        base: Tensor,
        operands: tuple[Tensor, Tensor, Tensor],
        valid: Tensor | None,
        window: int,
    ) -> Tensor:
        """Add what each pixel finds around it, as `attention.local_attention` does."""
        ...

    def decide(self, logits: Tensor, stride: int, size: tuple[int, int]) -> Planes:
        """Make logits a mask on the device, as `masks.decide_planes` does."""
        ...

    def read_tiles(self, planes: Planes, moved: Moved, stride: int, classes: int) -> Planes:
        """Decide pixels anew where classes meet, in place, as `borders.read_tiles` does."""
        ...


class TorchKernels(TorchMatcher):
    """The operations in plain torch, on any device: what every backend has to equal."""

    name = "torch"

    def gather(self, source: Source, fill: float = 0.0) -> Tensor:
        """Copy blocks with what is around them together."""
        table = source.table if source.more is None else torch.cat((source.table, source.more))
        rows = source.rows.flatten().long()
        found = table.index_select(0, rows.clamp(min=0))
        found[rows < 0] = fill
        return found.view(*source.rows.shape, -1).permute(0, 3, 1, 2)

    def convolve(
        self,
        source: Source,
        layer: Layer,
        *,
        residual: Tensor | None = None,
        relu: bool = False,
        target: Target | None = None,
    ) -> Tensor:
        """Gather, convolve, add, and scatter, one after the other."""
        around = self.gather(source)
        step, dilation = [layer.step] * 2, [layer.dilation] * 2
        # Not conv2d: the account of multiply-accumulates counts that where a network calls it.
        tiles = torch.convolution(
            around, layer.weight, layer.bias, step, [0, 0], dilation, False, [0, 0], 1
        )
        rows = as_rows(tiles)
        if target is None:
            rows = rows if residual is None else rows + residual
            shape = (len(tiles), *tiles.shape[2:], -1)
            return (rows.relu() if relu else rows).view(shape).permute(0, 3, 1, 2)
        places = target.rows.flatten().long()
        rows, places = rows[places >= 0], places[places >= 0]
        rows = rows if residual is None else rows + residual[places]
        return target.table.index_copy_(0, places, rows.relu() if relu else rows)

    def max_pool(self, source: Source, kernel: int, step: int) -> Tensor:
        """Gather, then pool."""
        return functional.max_pool2d(self.gather(source, float("-inf")), kernel, step)

    def enlarge(self, source: Source, factor: int) -> Tensor:
        """Gather, then upsample."""
        return enlarged(self.gather(source), factor)

    def attend(
        self,
        base: Tensor,
        operands: tuple[Tensor, Tensor, Tensor],
        valid: Tensor | None,
        window: int,
    ) -> Tensor:
        """Add what each pixel finds around it."""
        return local_attention(base, operands, valid, window)

    def decide(self, logits: Tensor, stride: int, size: tuple[int, int]) -> Planes:
        """Make logits a mask."""
        return decide_planes(logits, stride, size)

    def read_tiles(self, planes: Planes, moved: Moved, stride: int, classes: int) -> Planes:
        """Decide pixels anew where classes meet."""
        return read_tiles(planes, moved, stride, classes)


def plane_rows(
    places: tuple[Tensor, Tensor, Tensor],
    side: int,
    size: tuple[int, int],
    halo: int = 0,
    *,
    clamp: bool = False,
) -> Tensor:
    """Return where the pixels of blocks lie in a plane [N, C, h, w] as a table [N * h * w, C].

    Args:
        places: image, row and column of each block, int64 [K] each (`BlockLayout.places`).
        side: side of a block in pixels of the plane.
        size: (h, w) of the plane.
        halo: pixels around each block.
        clamp: outside the image name the nearest pixel inside instead of none.

    Returns:
        int32 [K, span, span].

    """
    image, *corners = places
    steps = torch.arange(-halo, side + halo, device=image.device)
    y, x = (corner[:, None] * side + steps for corner in corners)
    if clamp:
        y, x = y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)
    inside = ((y >= 0) & (y < size[0]))[:, :, None] & ((x >= 0) & (x < size[1]))[:, None]
    rows = (image[:, None, None] * size[0] + y[:, :, None]) * size[1] + x[:, None]
    return torch.where(inside, rows, OUTSIDE).int()
