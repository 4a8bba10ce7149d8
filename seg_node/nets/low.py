"""The half-resolution branch of mode arseg: AR-Seg's kind, and one that blends results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from seg_node.core.blend import Blend, changed, shrunk
from seg_node.core.comparing import COLOURS
from seg_node.core.fusion import enlarge, FUSIONS
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class LowBranch(nn.Module):
    """Makes the features of a frame from half its resolution and from remembered features.

    Its network has the architecture of the one whose features are remembered; its last layer is
    that one's, and stays so (papers.md section 2, steps 5, 7 and 10).

    Args:
        net: network with the face of `core.execution.SegmentationNetwork`.
        fusion: key of `core.fusion.FUSIONS`.

    Raises:
        ModelError: there is no such fusion.

    """

    of_features = True

    def __init__(self, net: nn.Module, fusion: str = "gated") -> None:
        """Take the network, and put a fresh fusion behind it."""
        super().__init__()
        if fusion not in FUSIONS:
            msg = f"fusion is {fusion!r}; choose one of {', '.join((*FUSIONS, BLEND))}"
            raise ModelError(msg)
        self.net = net
        self.fusion = FUSIONS[fusion](net.feature_channels)  # type: ignore[arg-type]  # the face of a network says int

    def forward(self, image: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return features [N, C, h, w] as the full-resolution network would make them.

        Args:
            image: the frame at half resolution, RGB 0..255, [N, 3, H/2, W/2].
            memory: what was remembered, moved to this frame, [N, C, h, w].
            valid: where they are worth something, bool [N, 1, h, w]; None for everywhere.

        """
        low = enlarge(self.net.features(image), (memory.shape[-2], memory.shape[-1]))  # type: ignore[operator]  # features() is a method
        fused: Tensor = self.fusion(low, memory, valid)
        return fused

    def remembered(self, image: Tensor, features: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002 - others need them
        """Return the features; see `core.execution.HalfBranch`."""
        return features


class ResultBranch(nn.Module):
    """Makes the result of a frame from half its resolution and from a remembered result.

    Its network may be another than the one whose result is remembered, such as a narrower one;
    it has a last layer of its own.

    Args:
        net: network with the face of `core.execution.SegmentationNetwork`, of the stride and
            the classes of the one whose results are remembered.

    """

    of_features = False

    def __init__(self, net: nn.Module) -> None:
        """Take the network, and put a fresh blend behind it."""
        super().__init__()
        self.net = net
        self.fusion = Blend(net.classes)  # type: ignore[arg-type]  # the face of a network says int

    def forward(self, image: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return logits [N, classes, h, w].

        Args:
            image: the frame at half resolution, RGB 0..255, [N, 3, H/2, W/2].
            memory: what was remembered, moved to this frame, [N, classes + 3, h, w].
            valid: where it is worth something, bool [N, 1, h, w]; None for everywhere.

        """
        return self.blended(self.net(image), image, memory, valid)

    def blended(
        self, low: Tensor, image: Tensor, memory: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Return the same from the network's logits of the frame, [N, classes, h/2, w/2]."""
        moved, before = memory[:, :-COLOURS], memory[:, -COLOURS:]
        picture = shrunk(image, self._stride // 2).to(memory.dtype)
        wide = enlarge(low, (memory.shape[-2], memory.shape[-1]))
        logits: Tensor = self.fusion(wide, moved, changed(picture, before), valid)
        return logits

    def remembered(self, image: Tensor, features: Tensor, logits: Tensor) -> Tensor:  # noqa: ARG002 - others need them
        """Return logits and picture [N, classes + 3, h, w]; see `core.execution.HalfBranch`."""
        return torch.cat((logits, shrunk(image, self._stride).to(logits.dtype)), 1)

    @property
    def _stride(self) -> int:
        return int(self.net.stride)  # type: ignore[arg-type]  # the face of a network says int


AnyBranch = LowBranch | ResultBranch

BLEND = "blend"
"""The fusion of results; the others are `core.fusion.FUSIONS`."""


def build_branch(net: nn.Module, fusion: str) -> AnyBranch:
    """Return a branch with a fresh fusion behind a network.

    Args:
        net: see `LowBranch` and `ResultBranch`.
        fusion: key of `core.fusion.FUSIONS`, or `BLEND`.

    Raises:
        ModelError: there is no such fusion.

    """
    return ResultBranch(net) if fusion == BLEND else LowBranch(net, fusion)
