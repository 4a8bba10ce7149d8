"""Residual blocks computed in some bins, their remembered results in the others: mode stmg.

After STMG (Rhee et al., arXiv 2206.09604), from its abstract: see docs/gates.md. The output of
every residual block is complete: computed in the bins that its gate keeps, elsewhere what it made
of the same content before, moved to where that is now and transformed. So the next block reads
true or transformed neighbours, and the rest of the network runs as it is.

Where a block keeps the shape, the transform passes on what the skip connection brings: to the
remembered output it adds the change of the input since. Where the input is the same the output is
the remembered one, bit for bit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.blocks import block_mean, BlockLayout, grid_shape, to_pixels
from seg_node.core.gate_memory import GateMemory, steps_for
from seg_node.core.motion import StepTracker
from seg_node.core.policy import GatePast, Past, Remembers
from seg_node.core.residual import compute_bins, in_place_of, plain
from seg_node.core.tiles import as_rows
from seg_node.core.types import Action, Motion, Reason
from seg_node.core.warp import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.config import Config
    from seg_node.core.residual import ResidualBlock
    from seg_node.core.types import Frame, Plan

DOUBT_STRIDE = 8
"""Doubt is looked at in pixels of this stride, or of the results' if that is coarser."""

_NS_PER_MS = 1_000_000
_MAX_MS = int(np.iinfo(np.uint16).max)


class GatedHistory:
    """The memory of one camera whose residual blocks are gated, and what runs on it.

    For every frame, in the order of their stamps: `look` first, then `logits`.

    Args:
        blocks: the residual blocks of the network, in the order in which they run.
        weights: for each of them how much of the input's change is passed on, by channel, [C].
        stride: image pixels per pixel of the network's results.
        side: side of a bin, in image pixels.
        device: where the network runs.

    """

    remembers = Remembers.GATED

    def __init__(
        self,
        blocks: Sequence[ResidualBlock],
        weights: Sequence[Tensor],
        stride: int,
        side: int,
        device: torch.device,
    ) -> None:
        """Remember nothing."""
        self._blocks, self._side, self._device = blocks, side, device
        self._every = max(1, DOUBT_STRIDE // stride)
        self._doubt_stride = self._every * stride
        self._doubt = np.zeros((0, 0), np.float32)
        self._weights = [weight.to(device) for weight in weights]
        self._tracker: StepTracker | None = None
        self._memories: list[GateMemory] = []
        self._greys: dict[tuple[int, int], Tensor] = {}
        self._size = (0, 0)
        self._content_ns = np.zeros((0, 0), np.int64)
        self._asked = False

    def ask(self) -> None:
        """Have the next frame computed in full."""
        self._asked = True

    # ---- before the plan -------------------------------------------------------------------

    def look(self, frame: Frame, config: Config) -> Past:
        """Follow the content to this frame, and return what of it can be used.

        Args:
            frame: the next frame, as the network will see it.
            config: settings in force.

        """
        if self._tracker is None or self._tracker.source != config.motion.source:
            self._tracker = StepTracker(config.motion.source)
            self._memories = []
        found = self._tracker.track(frame)
        lost = found if isinstance(found, Reason) else Reason.ASKED if self._asked else None
        if lost is None and not self._memories:
            lost = Reason.FIRST
        if lost is not None:
            self._forget((frame.image.shape[0], frame.image.shape[1]))
        self._greys = {
            memory.size: _grey(frame.image, memory.size).to(self._device)
            for memory in self._memories
        }
        if lost is not None or isinstance(found, Reason):
            self._tracker.start(frame)
            return Past(lost)
        return Past(None, 1, gates=self._follow(found, frame.stamp_ns))

    def _forget(self, size: tuple[int, int]) -> None:
        self._size, self._asked = size, False
        self._memories = [GateMemory(block, size, self._side) for block in self._blocks]

    def _follow(self, step: Motion, now_ns: int) -> GatePast:
        size = self._doubt.shape[0], self._doubt.shape[1]
        steps = steps_for(step, {size, *self._greys})
        doubt = pull(self._doubt, steps[size])
        distortion, oldest_ms = [], []
        for memory in self._memories:
            memory.follow(steps)
            distortion.append(memory.distortion(self._greys[memory.size], step.valid))
            oldest_ms.append((now_ns - memory.oldest_ns()) / _NS_PER_MS)
        doubts = block_mean(doubt, self._side // self._doubt_stride)
        return GatePast(np.stack(distortion), np.stack(oldest_ms), doubts)

    # ---- the network -----------------------------------------------------------------------

    def logits(self, frame: Frame, image: Tensor, plan: Plan, net: nn.Module) -> Tensor:
        """Run the network with its gates, [1, classes, h, w], and remember what was computed.

        Args:
            frame: the frame that `look` saw last.
            image: the same, RGB 0..255, uint8 [1, 3, H, W].
            plan: its gates.
            net: the network of the residual blocks.

        """
        assert plan.gates is not None
        grid = grid_shape(*self._size, self._side)
        self._content_ns = np.full(grid, frame.stamp_ns, np.int64)
        gates = [partial(self.run, i, kept=kept) for i, kept in enumerate(plan.gates)]
        with in_place_of(self._blocks, gates):
            logits: Tensor = net(image)
        self._doubt = _doubt(logits, self._every)
        return logits

    def run(self, index: int, x: Tensor, *, kept: NDArray[np.bool_]) -> Tensor:
        """Return the output of a residual block, computed where it is kept.

        Args:
            index: number of the block.
            x: its input, [1, C, h, w].
            kept: bins in which it is computed, bool [gh, gw].

        """
        block, memory = self._blocks[index], self._memories[index]
        grey = self._greys[memory.size]
        if kept.all():
            out: Tensor = plain(block)(x)
            memory.keep_all(_remembered(block, x, out), grey, self._content_ns)
            return out
        # Nothing is younger than what it was reused from.
        oldest = np.minimum(self._content_ns, memory.oldest_ns())
        self._content_ns = np.where(kept, self._content_ns, oldest)
        out = self._mixed(index, x, kept)
        if kept.any():
            memory.keep(_remembered(block, x, out), grey, kept, self._content_ns)
        return out

    def _mixed(self, index: int, x: Tensor, kept: NDArray[np.bool_]) -> Tensor:
        block = self._blocks[index]
        size = tuple(-(-side // block.stride) for side in self._size)
        b = self._side // block.stride
        here = to_pixels(kept, b, (size[0], size[1])).ravel()
        dropped = np.flatnonzero(here == 0)
        out = x.new_empty((here.size, block.channels))
        out.index_copy_(0, torch.from_numpy(dropped).to(x.device), self._reused(index, x, dropped))
        if kept.any():
            actions = np.where(kept, Action.HIGH, Action.REUSE).astype(np.uint8)
            layout = BlockLayout(actions[None], self._side, self._size, device=x.device)
            tiles = compute_bins(plain(block), x, layout, block.stride_in)
            pixels = _pixels(np.argwhere(kept), b, (size[0], size[1]))
            inside = np.flatnonzero(pixels >= 0)
            rows = as_rows(tiles)
            if len(inside) < len(pixels):
                rows = rows.index_select(0, torch.from_numpy(inside).to(x.device))
            out.index_copy_(0, torch.from_numpy(pixels[inside]).to(x.device), rows)
        return out.view(1, *size, -1).permute(0, 3, 1, 2)

    def _reused(self, index: int, x: Tensor, pixels: NDArray[np.int64]) -> Tensor:
        """Return what some pixels show where the block is dropped, [k, C]."""
        block = self._blocks[index]
        known = self._memories[index].recall(pixels)
        if not block.keeps_shape:
            return known
        now = as_rows(x).index_select(0, torch.from_numpy(pixels).to(x.device))
        before, made = known[:, : block.channels], known[:, block.channels :]
        out = torch.addcmul(made, now.sub_(before), self._weights[index].to(made.dtype))
        return out.relu_() if block.rectified else out

    def age_ms(self, frame: Frame) -> NDArray[np.uint16]:
        """Return how old the oldest computation behind each bin is, uint16 [gh, gw]."""
        age = -(-(frame.stamp_ns - self._content_ns) // _NS_PER_MS)
        return np.asarray(np.clip(age, 0, _MAX_MS), np.uint16)


def _remembered(block: ResidualBlock, x: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    """Return what is remembered: input and output, or output alone."""
    return (x, out) if block.keeps_shape else (out,)


def _pixels(bins: NDArray[np.int64], b: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the pixels of bins, counted row by row in the plane; -1 beyond it. [K * b * b]."""
    side = np.arange(b)
    y = (bins[:, 0, None] * b + side)[:, :, None]
    x = (bins[:, 1, None] * b + side)[:, None]
    pixel = np.where((y < size[0]) & (x < size[1]), y * size[1] + x, -1)
    return pixel.ravel()


def _doubt(logits: Tensor, every: int) -> NDArray[np.float32]:
    """Return how uncertain results are, 0..1, at every n-th pixel, float32 [h, w]."""
    probability = torch.softmax(logits[0, :, ::every, ::every].float(), 0).amax(0)
    return np.asarray((1 - probability).cpu().numpy(), np.float32)


def _grey(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Return an RGB image in grey at a size, float32 [h, w]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.asarray(small, np.float32))
