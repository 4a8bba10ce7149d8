"""Sharpens LOW features with remembered full-resolution ones: AR-Seg's CReFF (arXiv 2303.07224).

`Fusion` lets each pixel of the LOW features look at the 7x7 memory pixels around it and add what
it finds there: local attention, a softmax over 49 products <query(p), key(p + o)> without a scale,
one head (papers.md, section 2, step 7). `GatedFusion` is ours: it chooses, pixel by pixel, how far
to believe the one or the other, where adding can only correct LOW features that know about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from seg_node.core.attention import local_attention
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Attention: TypeAlias = (
    "Callable[[Tensor, tuple[Tensor, Tensor, Tensor], Tensor | None, int], Tensor]"
)
"""A function with the face of `core.attention.local_attention`."""

WINDOW = 7
"""Side of the window in the paper."""
GATE_CHANNELS = 16


class Fusion(nn.Module):
    """Adds to LOW features what they find around them in the warped memory.

    A new fusion returns its LOW features as they are, because values start at zero: training
    begins at the network without fusion, where the paper's random values would begin by disturbing
    it. Queries and keys start as the features themselves, scaled so that the first
    logits are <low, memory> / sqrt(C).

    Args:
        channels: C of the features.
        window: side of the window, odd.

    Attributes:
        attend: computes the attention; another function of the same face may take its place.

    Raises:
        ModelError: the window has no centre.

    """

    def __init__(self, channels: int, window: int = WINDOW) -> None:
        """Build the three depthwise convolutions."""
        super().__init__()
        if window < 1 or window % 2 == 0:
            msg = f"window of fusion is {window}; it needs a centre: use an odd number"
            raise ModelError(msg)
        self.window = window
        self.attend: Attention = local_attention
        self.query, self.key, self.value = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(3)
        )
        for conv, centre in ((self.query, 1.0), (self.key, 1.0), (self.value, 0.0)):
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.weight[:, :, 1, 1], centre * channels**-0.25)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, low: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse LOW features with remembered ones.

        Args:
            low: features of the present image at half resolution, enlarged to the size of
                `memory` (`enlarge`), [N, C, h, w].
            memory: features of an earlier image at full resolution, warped, [N, C, h, w].
            valid: where `memory` shows something, bool [N, 1, h, w]; elsewhere it is not looked
                at. A pixel that sees no valid one keeps its LOW features. None: all of it, as in
                the paper.

        Returns:
            fused features, [N, C, h, w].

        Raises:
            ModelError: the shapes do not fit each other.

        """
        return self._added(low, low, memory, valid)

    def _added(self, base: Tensor, low: Tensor, memory: Tensor, valid: Tensor | None) -> Tensor:
        """Return `base` plus what the LOW features find around them."""
        _check(low, memory, valid)
        if valid is not None:
            memory = memory * valid
        keys, values = self.key(memory), self.value(memory)
        return self.attend(base, (self.query(low), keys, values), valid, self.window)


class GatedFusion(Fusion):
    """Blends LOW features with what they find around them in the warped memory.

    out = low + g (found - low), with `found` from local attention as in `Fusion` and g in 0..1
    from both, by two 1x1 convolutions. A pixel that sees no valid memory keeps its LOW features.
    A new one finds the memory as it is, weighted by likeness, and blends it half and half.

    Args:
        channels: C of the features.
        window: side of the window, odd.

    Raises:
        ModelError: the window has no centre.

    """

    def __init__(self, channels: int, window: int = WINDOW) -> None:
        """Build attention and gate."""
        super().__init__(channels, window)
        nn.init.constant_(self.value.weight[:, :, 1, 1], 1.0)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * channels, GATE_CHANNELS, 1), nn.ReLU(), nn.Conv2d(GATE_CHANNELS, 1, 1)
        )
        for parameter in self.gate[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, low: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse LOW features with remembered ones; see `Fusion.forward`."""
        found = self._added(torch.zeros_like(low), low, memory, valid)
        share: Tensor = self.gate(torch.cat((low, found), 1)).sigmoid()
        if valid is not None:
            share = share * self._seen(valid).to(share.dtype)
        return low + share * (found - low)

    def _seen(self, valid: Tensor) -> Tensor:
        """Return where any valid memory is within reach, [N, 1, h, w]."""
        return functional.max_pool2d(valid.float(), self.window, 1, self.window // 2)


FUSIONS = {"creff": Fusion, "gated": GatedFusion}
"""Ways to fuse, by the name that a manifest gives."""


def enlarge(low: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample features of the image at half resolution, exactly as all-LOW plans do (law 3).

    Args:
        low: [N, C, h2, w2], half of `size`, rounded up.
        size: (h, w) at full resolution.

    Returns:
        [N, C, h, w]. Centres of pixels lie as `tiles.halved` puts them, two by two; corners are
        not aligned.

    Raises:
        ModelError: `low` is not half of that size.

    """
    if tuple(low.shape[-2:]) != tuple(-(-length // 2) for length in size):
        msg = f"features {list(low.shape)} are not half of {list(size)}; halve the image first"
        raise ModelError(msg)
    full = functional.interpolate(low, scale_factor=2, mode="bilinear")
    return full[..., : size[0], : size[1]]


def macs(size: tuple[int, int], channels: int, window: int = WINDOW) -> int:
    """Count the MACs of `Fusion` on one image, which are those of the papers' count.

    Three depthwise 3x3 convolutions and two products per pixel of the window, also where the
    window leaves the image.

    Args:
        size: (h, w) of the features at full resolution.
        channels: C of the features.
        window: side of the window.

    """
    return size[0] * size[1] * channels * (3 * 9 + 2 * window * window)


def _check(low: Tensor, memory: Tensor, valid: Tensor | None) -> None:
    """Refuse features and masks of different sizes.

    Raises:
        ModelError: the shapes do not fit each other.

    """
    if low.shape != memory.shape:
        msg = (
            f"LOW features {list(low.shape)} do not fit memory {list(memory.shape)}: enlarge them "
            "to its size first"
        )
        raise ModelError(msg)
    expected = (low.shape[0], 1, *low.shape[-2:])
    if valid is not None and (valid.dtype != torch.bool or valid.shape != expected):
        msg = (
            f"valid of fusion is {valid.dtype} {list(valid.shape)}; it has to be torch.bool "
            f"{list(expected)}"
        )
        raise ModelError(msg)
