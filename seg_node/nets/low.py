"""The half-resolution branch of mode arseg: AR-Seg's second network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

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

    def __init__(self, net: nn.Module, fusion: str = "gated") -> None:
        """Take the network, and put a fresh fusion behind it."""
        super().__init__()
        if fusion not in FUSIONS:
            msg = f"fusion is {fusion!r}; choose one of {', '.join(FUSIONS)}"
            raise ModelError(msg)
        self.net = net
        self.fusion = FUSIONS[fusion](net.feature_channels)  # type: ignore[arg-type]  # the face of a network says int

    def forward(self, image: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return features [N, C, h, w] as the full-resolution network would make them.

        Args:
            image: the frame at half resolution, RGB 0..255, [N, 3, H/2, W/2].
            memory: remembered features, moved to this frame, [N, C, h, w].
            valid: where they are worth something, bool [N, 1, h, w]; None for everywhere.

        """
        low = enlarge(self.net.features(image), (memory.shape[-2], memory.shape[-1]))  # type: ignore[operator]  # features() is a method
        fused: Tensor = self.fusion(low, memory, valid)
        return fused
