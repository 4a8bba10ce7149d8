"""Networks on blocks without gaps between launches: recorded once for each number of blocks.

How many blocks a frame computes is rounded up (`block_buckets`), so few numbers occur. For each of
them the network's launches are recorded with the first frame's lists of rows (`core/lists.py`);
for a later frame the lists are overwritten in place, and the launches are replayed. The tables in
which blocks and their surroundings are remembered stay where they are (`core/feature_pool.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from seg_node.core.fused import KernelBlocks, on_kernels
from seg_node.core.graphs import replay
from seg_node.core.lists import Lists
from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.backend import BlockKernels
    from seg_node.core.background import Background
    from seg_node.core.blocks import BlockLayout
    from seg_node.core.graphs import Graphs, Recorded

BUCKETS = 32
"""Numbers of blocks where the setting names none."""

MOST = 4 * BUCKETS
"""Records that are kept, the last used: of every number of blocks for four cameras."""


class Kind(NamedTuple):
    """What records are the same for.

    Attributes:
        background: identity of what REUSE blocks show, or of None.
        size: height and width of the image, in pixels.
        side: of a block, in pixels.
        high: number of HIGH blocks, with those that are repeated.
        low: number of LOW blocks, likewise.
        reuse: whether there are REUSE blocks.

    """

    background: int
    size: tuple[int, int]
    side: int
    high: int
    low: int
    reuse: bool


def every_count(
    shape: tuple[int, int], buckets: int, other: Action
) -> Iterator[NDArray[np.uint8]]:
    """Yield a grid [gh, gw] for each number of HIGH blocks that occurs, but none and all.

    Args:
        shape: rows and columns of the grid.
        buckets: how many numbers occur at most (`BlockLayout`).
        other: action of the other blocks.

    """
    total = shape[0] * shape[1]
    step = -(-total // buckets)
    counts = {min(count, total - 1) for count in range(step, total + step, step)}
    for count in sorted(counts - {0}):
        yield first_blocks(shape, count, other)


def first_blocks(shape: tuple[int, int], count: int, other: Action) -> NDArray[np.uint8]:
    """Return a grid [gh, gw] of which so many blocks, the first ones, are HIGH."""
    grid = np.full(shape, other, np.uint8)
    grid.flat[:count] = Action.HIGH
    return grid


@dataclass(frozen=True)
class _Step:
    """A network on so many blocks, recorded.

    Attributes:
        lists: what it reads by.
        recorded: maps an image to the HIGH and the LOW blocks of the result.
        stride: of the result, in image pixels.
        full: size of the result's whole plane, in its own pixels.
        background: what REUSE blocks show; held, so that no other has its identity.

    """

    lists: Lists
    recorded: Recorded
    stride: int
    full: tuple[int, int]
    background: Background | None


class BlockGraphs:
    """A network on blocks, by records.

    Args:
        net: the network.
        kernels: what computes its blocks.
        graphs: what records; whoever clears it calls `clear` here, too.

    """

    def __init__(self, net: nn.Module, kernels: BlockKernels, graphs: Graphs) -> None:
        """Record nothing yet."""
        self._net, self._kernels, self._graphs = net, kernels, graphs
        self._steps: dict[Kind, _Step] = {}

    @property
    def count(self) -> int:
        """How many are recorded."""
        return len(self._steps)

    def run(
        self, image: Tensor, layout: BlockLayout, background: Background | None
    ) -> KernelBlocks:
        """Run the network on the blocks of an image.

        Args:
            image: RGB 0..255, [1, 3, H, W].
            layout: what is computed; of one image.
            background: what REUSE blocks show, the same object in every frame.

        """
        counts = layout.count(Action.HIGH), layout.count(Action.LOW)
        reuse = layout.count(Action.REUSE) > 0
        kind = Kind(id(background), layout.size, layout.side, *counts, reuse)
        if kind in self._steps:
            step = self._steps[kind] = self._steps.pop(kind)  # now it is the last used
            step.lists.fill(layout)

        def record() -> Recorded:
            if kind not in self._steps:
                self._steps[kind] = self._record(image, layout, background)
            return self._steps[kind].recorded

        high, low = replay(record, image)
        step = self._steps[kind]
        while len(self._steps) > MOST:
            del self._steps[next(iter(self._steps))]
        return KernelBlocks(
            layout, step.stride, step.full, high, low, kernels=self._kernels, lists=Lists(layout)
        )

    def _record(self, image: Tensor, layout: BlockLayout, background: Background | None) -> _Step:
        lists = Lists(layout)
        results: list[KernelBlocks] = []

        def compute(image: Tensor) -> tuple[Tensor, ...]:
            blocks = on_kernels(image, layout, background, self._kernels, lists)
            found: KernelBlocks = self._net(blocks)
            results[:] = [found]
            return found.high, found.low

        name = f"{layout.count(Action.HIGH)} blocks"
        recorded = self._graphs.record(name, compute, (image,))
        found = results.pop()
        return _Step(lists, recorded, found.stride, found.full, background)

    def keep(self, backgrounds: Collection[object]) -> None:
        """Forget records over any other background."""
        alive = {id(None), *map(id, backgrounds)}
        self._steps = {k: step for k, step in self._steps.items() if k.background in alive}

    def clear(self) -> None:
        """Forget all."""
        self._steps.clear()
