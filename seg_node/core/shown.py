"""What was shown last: the newest result of a camera, where its content is in the next frame.

It says where the network is in doubt, and is mixed with the next result (`core.mixing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.mixing import around, mixed, SHARE
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.warp import warp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Shown:
    """The newest result of one camera, and the picture that it is of.

    For each frame: `follow` first, then `mixed` where some of it is reused, then `keep`.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._logits, self._picture = torch.zeros(0), torch.zeros(0)
        self._change = torch.zeros(0)

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        yield from (self._logits, self._picture, self._change)

    def keep(self, logits: Tensor, picture: Tensor) -> None:
        """Remember what is shown.

        Args:
            logits: [1, C, h, w].
            picture: the image in this size, RGB 0..255, float32 [3, h, w], on the same device.

        """
        self._logits, self._picture = logits, picture

    def follow(self, flow: Tensor, valid: Tensor, picture: Tensor) -> Tensor:
        """Move it to where its content is in the next frame, and return how uncertain it is.

        Args:
            flow: from the next frame back to this one, in pixels, float32 [h, w, 2].
            valid: where that is known, bool [h, w].
            picture: the next image, float32 [3, h, w].

        Returns:
            1 - the probability of its class, 0..1, float [h, w].

        """
        wide = torch.promote_types(self._logits.dtype, torch.float32)
        planes = torch.cat((self._logits.to(wide), self._picture[None].to(wide)), 1)
        sizes = [self._logits.shape[1], len(self._picture)]
        # Both, or a frame that fails before `keep` would leave the two apart.
        self._logits, (self._picture,) = torch.split(warp(planes, flow[None]), sizes, 1)
        change = (self._picture - picture).abs().amax(0)
        self._change = around(torch.where(valid, change, UNKNOWN_DISTORTION))
        return 1 - torch.softmax(self._logits[0], 0).amax(0)

    def mixed(self, logits: Tensor, computed: Tensor) -> Tensor:
        """Return the next result mixed with this one.

        Args:
            logits: the next one, [1, C, h, w].
            computed: where it is new: bool [h, w]. Elsewhere, where nothing changed, what was
                shown is shown again.

        Returns:
            [1, C, h, w].

        """
        # Views: planes that were moved lie class by class, which is what mixing reads.
        new, old = (each[0].flatten(1).t() for each in (logits, self._logits))
        share = torch.where(computed.flatten(), SHARE, 1.0)
        rows = mixed(new, old, self._change.flatten(), share)
        return rows.view(1, *logits.shape[-2:], -1).permute(0, 3, 1, 2)
