"""Policies choose the action of every block; execution does not know who chose.

A policy that ranks blocks needs one score per block, "this block deserves full resolution", and a
share of blocks that get it. SegBlocks (papers.md section 3A) learns the score; the others here
are what a learned score has to beat.
"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.blocks import block_mean, quantise
from seg_node.core.types import Action, Plan, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

RESAMPLING = 4
"""Factor by which `Heuristic` shrinks the image and enlarges it again, as in SegBlocks' code."""


class BlockPolicy(Protocol):
    """Chooses a plan for a frame."""

    def plan(self, image: Tensor, side: int) -> Plan:
        """Return the plan of one frame.

        Args:
            image: RGB 0..255, uint8 [1, 3, H, W], as the network will see it.
            side: pixels on each side of a block; the grid covers the image.

        """
        ...


class AllHigh:
    """Computes every block at full resolution: mode `dense`."""

    def plan(self, image: Tensor, side: int) -> Plan:
        """Return a grid of HIGH."""
        return Plan(np.full(_grid_of(image, side), Action.HIGH, np.uint8), Reason.DENSE)


class AllLow:
    """Computes every block at half resolution."""

    def plan(self, image: Tensor, side: int) -> Plan:
        """Return a grid of LOW."""
        return Plan(np.full(_grid_of(image, side), Action.LOW, np.uint8), Reason.BLOCKS)


class BlockScore(Protocol):
    """Tells how much each block deserves full resolution."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Map an image uint8 [1, 3, H, W] to one finite score per block, [gh, gw]."""
        ...


class Ranked:
    """Gives full resolution to the blocks with the highest scores and half to the others.

    The share is exact in every frame (up to quantising, which adds blocks): so the cost of a
    frame is known before it is computed, and an operator who asks for a share gets it.

    Args:
        score: ranks the blocks.
        high_fraction: share of HIGH blocks, 0..1; may be changed between frames.

    """

    def __init__(self, score: BlockScore, high_fraction: float) -> None:
        """Take score and share."""
        self.score = score
        self.high_fraction = high_fraction

    def plan(self, image: Tensor, side: int) -> Plan:
        """Return a grid of HIGH and LOW."""
        scores = self.score(image, side)
        count = round(self.high_fraction * scores.size)
        wanted = np.zeros(scores.shape, np.bool_)
        wanted.flat[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
        high = quantise(wanted, scores)
        return Plan(np.where(high, Action.HIGH, Action.LOW).astype(np.uint8), Reason.BLOCKS)


class Random:
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


class Middle:
    """Scores rows of blocks by their nearness to the middle row, where a road's far end lies."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return minus the distance to the middle row, in rows."""
        gh, gw = _grid_of(image, side)
        rows = -np.abs(np.arange(gh) - (gh - 1) / 2)
        return np.repeat(rows[:, None], gw, axis=1)


class Heuristic:
    """Scores blocks by what shrinking the image by four and enlarging it again loses."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return the mean absolute difference in grey values 0..255."""
        pixels = image.float()
        small = functional.avg_pool2d(pixels, RESAMPLING, ceil_mode=True, count_include_pad=False)
        back = functional.interpolate(small, pixels.shape[-2:], mode="bilinear")
        return block_mean((pixels - back).abs().mean(1)[0].cpu().numpy(), side)


class Complexity:
    """Scores blocks by a learned network: SegBlocks' policy.

    Args:
        net: maps an image [1, 3, H, W] of whole blocks and a grid (gh, gw) to logits [1, gh, gw],
            such as `seg_node.nets.decision.ComplexityNet`.

    """

    def __init__(self, net: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
        """Take the network."""
        self._net = net

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return the network's logits."""
        grid = _grid_of(image, side)
        with torch.inference_mode():
            logits = self._net(whole_blocks(image, side), grid)[0]
        scores: NDArray[np.float64] = logits.double().cpu().numpy()
        return scores


def whole_blocks(image: Tensor, side: int) -> Tensor:
    """Pad an image [N, 3, H, W] at the bottom and right to whole blocks, by its last pixels."""
    gh, gw = _grid_of(image, side)
    below, right = gh * side - image.shape[-2], gw * side - image.shape[-1]
    if not below and not right:
        return image
    rows = torch.arange(gh * side, device=image.device).clamp(max=image.shape[-2] - 1)
    columns = torch.arange(gw * side, device=image.device).clamp(max=image.shape[-1] - 1)
    return image[:, :, rows[:, None], columns]


def _grid_of(image: Tensor, side: int) -> tuple[int, int]:
    return -(-image.shape[-2] // side), -(-image.shape[-1] // side)
