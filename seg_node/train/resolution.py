"""BatchNorm of its own for halved images: one set of convolutions, two sets of statistics.

Features of a halved image are distributed differently; sharing statistics costs both
resolutions (Zhu et al., Resolution Switchable Networks, ECCV 2020).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class ResolutionNorm(nn.Module):
    """Two BatchNorms, of which `is_low` chooses one."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Start with two copies of a BatchNorm."""
        super().__init__()
        self.high = norm
        self.low = copy.deepcopy(norm)
        self.is_low = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, h, w]."""
        out: Tensor = (self.low if self.is_low else self.high)(x)
        return out


def split_norms(net: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d by a `ResolutionNorm`; works in place and returns `net`."""
    for module in list(net.modules()):
        if isinstance(module, ResolutionNorm):
            continue
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, ResolutionNorm(child))
    return net


def use_resolution(net: nn.Module, *, low: bool) -> None:
    """Choose the BatchNorms for halved (`low`) or full images."""
    for module in net.modules():
        if isinstance(module, ResolutionNorm):
            module.is_low = low


def merge_norms(net: nn.Module, *, low: bool) -> nn.Module:
    """Return a copy with plain BatchNorms again: those for halved or for full images."""
    merged = copy.deepcopy(net)
    for module in list(merged.modules()):
        for name, child in module.named_children():
            if isinstance(child, ResolutionNorm):
                setattr(module, name, child.low if low else child.high)
    return merged
