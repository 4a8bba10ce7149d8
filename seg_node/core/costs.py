"""Exact multiply-accumulate counts (MACs, not twice as many floating-point operations)."""

from __future__ import annotations

import copy
from typing import Any, TYPE_CHECKING

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.sparse import BlockTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn


def dense_macs(net: nn.Module, height: int, width: int, *more: object) -> int:
    """Count the MACs of one forward pass on one image, without computing it.

    Convolutions and matrix products count, as in the papers; normalisation, activations,
    pooling and resizing do not.

    Args:
        net: called as net(image) with an image [1, 3, height, width].
        height: image height in pixels.
        width: image width in pixels.
        more: what else the network is called with.

    """
    shadow = copy.deepcopy(net).to("meta").eval()
    image = torch.empty((1, 3, height, width), device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        shadow(image, *more)
    return counter.get_total_flops() // 2


class MacCounter(TorchFunctionMode):
    """Counts the MACs of what runs inside `with`, on blocks and on plain tensors alike.

    It looks at shapes only and costs microseconds, so the account of a frame is what the frame
    executed, not a model of it. Halos cost nothing: they are copied, and a convolution computes
    the pixels of its blocks alone; blocks that stick out of the image count as a whole.

    Attributes:
        macs: multiply-accumulates so far.
        of_blocks: those of them that were spent on blocks, not on what concerns whole planes.

    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.macs = self.of_blocks = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function and count it."""
        result = func(*args, **(kwargs or {}))
        if func in WEIGHTED:
            # One weight each: [cout, cin / groups, kh, kw] of a convolution, [out, in] of a layer.
            weights_per_output = args[1][0].numel()
            blocks = isinstance(result, BlockTensor)
            parts = (result.high, result.low) if blocks else (result,)
            macs = sum(part.numel() for part in parts) * weights_per_output
            self.macs += macs
            self.of_blocks += macs if blocks else 0
        elif func in PRODUCTS:
            self.macs += result.numel() * args[0].shape[-1]
        elif func in ADDED_PRODUCTS:
            self.macs += result.numel() * args[1].shape[-1]
        elif func in PRICED:
            self.macs += PRICED[func](*args)
        return result

    def shares(self, blocks: Sequence[int]) -> list[int]:
        """Return the MACs of each image of a batch.

        Args:
            blocks: that were computed of each, all of one size.

        """
        planes = self.macs - self.of_blocks
        return [self.of_blocks * own // sum(blocks) + planes // len(blocks) for own in blocks]


WEIGHTED = {torch.conv1d, torch.conv2d, functional.linear}
"""Functions whose second argument holds, for each output channel, the weights of one output."""

PRODUCTS = {
    *(torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__),
}
"""Products of matrices."""

PRICED: dict[Callable[..., Any], Callable[..., int]] = {}
"""What one call of a kernel costs, by its arguments: nothing that it does inside can be seen."""

ADDED_PRODUCTS = {torch.addmm, torch.baddbmm}
"""Products of the second and third argument that are added to the first."""
