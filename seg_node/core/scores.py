"""Scores say of each block how much it deserves full resolution.

SegBlocks (papers.md section 3A) learns the score; the others here are what a learned score has to
beat.
"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.blocks import block_mean, grid_shape
from seg_node.core.costs import dense_macs
from seg_node.core.tiles import halved
from seg_node.core.types import ConfigError, IGNORE_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.execution import SegmentationNetwork

RESAMPLING = 4
"""Factor by which `Heuristic` shrinks the image and enlarges it again, as in SegBlocks' code."""


class BlockScore(Protocol):
    """Tells how much each block deserves full resolution."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Map an image uint8 [1, 3, H, W] to one finite score per block, [gh, gw]."""
        ...

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of scoring an image of a size (H, W) in blocks of a side."""
        ...


class _Free:
    """A score without convolutions."""

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0: convolutions and matrix products count, and there are none."""
        return 0


class Random(_Free):
    """Scores blocks by chance; the same for the n-th frame of every run.

    Args:
        seed: of the generator.

    """

    def __init__(self, seed: int = 0) -> None:
        """Seed the generator."""
        self._generator = np.random.default_rng(seed)

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return numbers in 0..1."""
        return self._generator.random(_grid_of(image, side))


class Middle(_Free):
    """Scores rows of blocks by their nearness to the middle row, where a road's far end lies."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return minus the distance to the middle row, in rows."""
        gh, gw = _grid_of(image, side)
        rows = -np.abs(np.arange(gh) - (gh - 1) / 2)
        return np.repeat(rows[:, None], gw, axis=1)


class Heuristic(_Free):
    """Scores blocks by what shrinking the image by four and enlarging it again loses."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return the mean absolute difference in grey values 0..255."""
        pixels = image.float().contiguous()  # channel by channel, which is faster here
        small = functional.avg_pool2d(pixels, RESAMPLING, ceil_mode=True, count_include_pad=False)
        back = functional.interpolate(small, pixels.shape[-2:], mode="bilinear")
        lost = back.sub_(pixels).abs_().unbind(1)
        return block_mean(((lost[0] + lost[1] + lost[2]) / 3)[0].cpu().numpy(), side)


class Oracle(_Free):
    """Scores blocks by what half resolution costs them; for evaluation only, it sees the labels.

    Args:
        net: the network that is used, in eval mode; see `execution.SegmentationNetwork`.

    Attributes:
        labels: true class per pixel of the next frame, int64 [H, W]; 255 = void.

    """

    def __init__(self, net: SegmentationNetwork) -> None:
        """Take the network."""
        self._net = net
        self.labels: Tensor | None = None

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return cross-entropy at half minus at full resolution, averaged over each block."""
        if self.labels is None:
            msg = "Oracle has no labels of this frame; set `labels` first"
            raise ConfigError(msg)
        low, high = (self._loss(pixels, image) for pixels in (halved(image), image))
        return block_mean((low - high).cpu().numpy(), side)

    def _loss(self, pixels: Tensor, image: Tensor) -> Tensor:
        """Return the loss of each pixel of the image, [H, W]; 0 where there is no label."""
        with torch.inference_mode():
            logits = self._net.head(self._net.features(pixels)).float()
        factor = self._net.stride * round(image.shape[-1] / pixels.shape[-1])
        full = functional.interpolate(logits, scale_factor=factor, mode="bilinear")
        full = full[..., : image.shape[-2], : image.shape[-1]]
        assert self.labels is not None
        target = self.labels[None].to(full.device)
        return functional.cross_entropy(full, target, ignore_index=IGNORE_LABEL, reduction="none")[
            0
        ]


class Complexity:
    """Scores blocks by a learned network: SegBlocks' policy.

    Args:
        net: maps an image [N, 3, H, W] of whole blocks and its grid (gh, gw) to logits
            [N, gh, gw]; `seg_node.nets.decision.ComplexityNet`.

    """

    def __init__(self, net: nn.Module) -> None:
        """Take the network."""
        self._net = net
        self._macs: dict[tuple[tuple[int, int], int], int] = {}

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return the network's logits."""
        with torch.inference_mode():
            logits = self._net(whole_blocks(image, side), _grid_of(image, side))[0]
        scores: NDArray[np.float64] = logits.double().cpu().numpy()
        return scores

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of the network."""
        key = (size, side)
        if key not in self._macs:
            grid = grid_shape(*size, side)
            shape = (grid[0] * side, grid[1] * side)
            self._macs[key] = dense_macs(self._net, *shape, grid)
        return self._macs[key]


def whole_blocks(image: Tensor, side: int) -> Tensor:
    """Pad an image [N, 3, H, W] at the bottom and right to whole blocks, by its last pixels."""
    gh, gw = _grid_of(image, side)
    below, right = gh * side - image.shape[-2], gw * side - image.shape[-1]
    if not below and not right:
        return image
    # By copies of the last row and column: picking every pixel takes far longer.
    wide = torch.cat((image, image[..., -1:].expand(*image.shape[:-1], right)), -1)
    return torch.cat((wide, wide[..., -1:, :].expand(*wide.shape[:-2], below, -1)), -2)


def _grid_of(image: Tensor, side: int) -> tuple[int, int]:
    return grid_shape(image.shape[-2], image.shape[-1], side)
