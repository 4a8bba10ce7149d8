"""Runs the network on what a plan says: whole frames, or blocks amid what is remembered."""

from __future__ import annotations

from typing import cast, NamedTuple, Protocol, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.block_graphs import BlockGraphs, BUCKETS
from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import BlockLayout, scaled
from seg_node.core.costs import dense_macs
from seg_node.core.fused import on_kernels
from seg_node.core.fusion import enlarge
from seg_node.core.gated import GatedHistory
from seg_node.core.history import History
from seg_node.core.joining import Joined
from seg_node.core.sparse import split
from seg_node.core.tiles import halved
from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import nn, Tensor

    from seg_node.core.backend import BlockKernels
    from seg_node.core.background import Background
    from seg_node.core.config import Config
    from seg_node.core.graphs import Graphs
    from seg_node.core.sparse import BlockTensor
    from seg_node.core.types import Frame, Plan

AnyHistory = History | BlockHistory | GatedHistory
"""What is remembered of a camera."""


class SegmentationNetwork(Protocol):
    """The face of a network; every network of `nets/` has it, and a user's own (`nets/plugin.py`).

    A network is also a `torch.nn.Module`, and calling it on an image is `head(features(image))`.
    In eval mode it works at any image size and is deterministic.

    Attributes:
        classes: number of classes.
        stride: image pixels per feature pixel of `features`, an exact power of two.
        feature_channels: channels of `features`.

    """

    classes: int
    stride: int
    feature_channels: int

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W], uint8 or float, to features [N, feature_channels, h, w].

        h = H / stride and w = W / stride, rounded up. They are what the last 1x1 convolution
        sees; scaling of the pixels is part of the network.
        """
        ...

    def head(self, features: Tensor) -> Tensor:
        """Map features [N, feature_channels, h, w] to logits [N, classes, h, w]."""
        ...


class HalfBranch(Protocol):
    """What computes a frame from half its resolution and a memory; see `seg_node.nets.low`.

    Attributes:
        of_features: whether it makes features, for the network's head, or logits.

    """

    of_features: bool

    def __call__(self, image: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map an image [N, 3, H/2, W/2] and what was remembered, moved, to features or logits."""
        ...

    def remembered(self, image: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Return what is to be remembered of a frame in full resolution, [N, K, h, w].

        Args:
            image: RGB 0..255, [N, 3, H, W].
            features: of the network, [N, C, h, w].
            logits: likewise, [N, classes, h, w].

        """
        ...


class Refresh(NamedTuple):
    """A frame of which some blocks are computed, the others being remembered."""

    frame: Frame
    image: Tensor  # [1, 3, H, W]
    plan: Plan
    history: BlockHistory


class Executor:
    """Runs a network as plans say.

    Args:
        net: network in eval mode, where and in the number format in which it runs.
        low: its half-resolution branch likewise; see `seg_node.core.pipeline.Segmenter`.
        config: settings in force.
        kernels: what computes blocks; None for plain torch.
        graphs: what records device work and replays it; None for running it anew each time.

    Attributes:
        net: see above.
        face: the same, as what it must have.
        config: see above; to be replaced between frames.
        graphs: see above.
        blocks: networks on blocks that were recorded; None where nothing is.

    """

    def __init__(
        self,
        net: nn.Module,
        low: HalfBranch | None,
        config: Config,
        kernels: BlockKernels | None,
        graphs: Graphs | None,
    ) -> None:
        """Record nothing yet."""
        self.net, self.config, self.graphs = net, config, graphs
        self.face = cast("SegmentationNetwork", net)
        self._low, self._kernels = low, kernels
        self.blocks: BlockGraphs | None = None
        if graphs is not None and kernels is not None:
            self.blocks = BlockGraphs(net, kernels, graphs)
        self._macs: dict[tuple[int, int], int] = {}

    def run(self, frame: Frame, image: Tensor, plan: Plan, history: AnyHistory | None) -> Tensor:
        """Return the logits of a plan, [1, classes, h, w] at the network's stride.

        What is computed is remembered. A whole frame of one action takes the way without blocks.

        Args:
            frame: as the network sees it.
            image: the same on the device, RGB 0..255, uint8 [1, 3, H, W].
            plan: what of it to compute.
            history: what is remembered of its camera; None in modes that remember nothing.

        """
        if isinstance(history, GatedHistory):
            return history.logits(frame, image, plan, self.net)
        if isinstance(history, BlockHistory):
            return self._refresh(Refresh(frame, image, plan, history))
        if (plan.grid == Action.HIGH).all():
            remembered, logits = self._recorded("whole frames", self._whole, image)
            if history is not None:
                side = self.config.block_side((image.shape[-2], image.shape[-1]))
                history.keep(frame, remembered, logits, side)
            return logits
        if (plan.grid == Action.REUSE).all() and history is not None:
            return history.logits()
        if (plan.grid == Action.LOW).all():
            return self._at_half_resolution(image, history)
        return self._on_blocks(image, self._layout([plan], image)).combined()

    def together(self, parts: Sequence[Refresh]) -> list[Tensor]:
        """Return the logits of frames of one size, and remember what was computed of each.

        The network runs once for the blocks of all of them.
        """
        images = joined([part.image for part in parts])
        layout = self._layout([part.plan for part in parts], images)
        known = [part.history.background(part.plan.grid) for part in parts]
        background = Joined(known, [part.plan.high for part in parts]) if parts[1:] else known[0]
        computed = self._on_blocks(images, layout, background)
        planes = computed.combined(base=joined([part.history.logits() for part in parts]))
        each = []
        for part, logits in zip(parts, torch.split(planes, 1), strict=True):
            own = self._layout([part.plan], part.image) if parts[1:] else layout
            plane = logits.shape[-2], logits.shape[-1]
            inside = own.inside(Action.HIGH, self.face.stride, plane)
            each.append(part.history.mixed(logits, inside, part.plan.grid))
            part.history.keep(part.frame, each[-1], part.plan.grid)
        return each

    @property
    def buckets(self) -> int:
        """How many numbers of blocks there may be; 0 for any."""
        return self.config.block_buckets or (0 if self.blocks is None else BUCKETS)

    def dense_macs(self, height: int, width: int) -> int:
        """Return the MACs of the whole network on an image of that size."""
        size = height, width
        if size not in self._macs:
            self._macs[size] = dense_macs(self.net, *size)
        return self._macs[size]

    def keep_graphs(self, memories: Collection[object]) -> None:
        """Forget what was recorded over other memories than these."""
        if self.blocks is not None:
            self.blocks.keep(memories)

    def forget_graphs(self) -> None:
        """Forget all that was recorded."""
        if self.blocks is not None:
            self.blocks.clear()
        if self.graphs is not None:
            self.graphs.clear()

    # ---- whole frames ----------------------------------------------------------------------

    def _whole(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what is to be remembered of a whole frame, and its logits."""
        features = self.face.features(image)
        logits = self.face.head(features)
        if self._low is not None:
            return self._low.remembered(image, features, logits), logits
        return features, logits

    def _at_half_resolution(self, image: Tensor, history: History | None) -> Tensor:
        if history is not None and self._low is not None:
            operands = image, *history.features()
            return self._recorded("sharpened frames", self._sharpened, *operands)[0]
        size = scaled((image.shape[-2], image.shape[-1]), self.face.stride)
        return enlarge(self.net(halved(image)), size)

    def _sharpened(self, image: Tensor, memory: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of a frame at half resolution, sharpened by what is remembered."""
        assert self._low is not None
        made = self._low(halved(image), memory, valid)
        return (self.face.head(made) if self._low.of_features else made,)

    def _recorded(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Run a function that depends on nothing but tensors, as a graph where there are some."""
        if self.graphs is None:
            return function(*inputs)
        return self.graphs.run(name, function, *inputs)

    # ---- blocks ----------------------------------------------------------------------------

    def _refresh(self, part: Refresh) -> Tensor:
        """Return the logits of a plan of HIGH and REUSE blocks, and remember what was computed."""
        grid, history = part.plan.grid, part.history
        if (grid == Action.HIGH).all():
            with history.recorder():
                logits: Tensor = self.net(part.image)
            history.keep_all(part.frame, logits)
            return logits
        if (grid == Action.REUSE).all():
            return history.logits()
        return self.together([part])[0]

    def _layout(self, plans: Sequence[Plan], images: Tensor) -> BlockLayout:
        """Return where the blocks of the plans of some images lie."""
        grids = np.stack([plan.grid for plan in plans])
        size = images.shape[-2], images.shape[-1]
        side = self.config.block_side(size)
        return BlockLayout(grids, side, size, device=images.device, buckets=self.buckets)

    def _on_blocks(
        self, image: Tensor, layout: BlockLayout, background: Background | None = None
    ) -> BlockTensor:
        """Return what the network makes of the blocks of an image."""
        if self.blocks is not None:
            return self.blocks.run(image, layout, background)
        if self._kernels is None:
            of_blocks: BlockTensor = self.net(split(image, layout, background))
        else:
            of_blocks = self.net(on_kernels(image, layout, background, self._kernels))
        return of_blocks


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one batch; a single one as it is."""
    return torch.cat(list(tensors)) if tensors[1:] else tensors[0]
