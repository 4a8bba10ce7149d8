"""Blends what half resolution says of the classes with what memory says, pixel by pixel.

AR-Seg sharpens features (`core/fusion.py`). Here results meet: the head looks at single pixels, so
blending logits is blending features, with fewer channels; and the branch may be any network, for
nothing has to look like the features that are remembered. What decides is whether the two agree,
how sure each is, and whether the moved picture of the remembered frame still looks like the
present one: half resolution cannot know that nothing has changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from seg_node.core.tiles import halved

if TYPE_CHECKING:
    from torch import Tensor

CHANGES = 3
"""Numbers that tell how far a pixel has changed: itself, those around it, and the whole frame."""

HIDDEN = 16
"""Hidden units of the gate."""

AROUND = 5
"""Side of the window over which change is averaged."""


class Blend(nn.Module):
    """Chooses between LOW and moved logits: low + g (moved - low), g in 0..1.

    A new one believes both alike. Where memory is not valid, LOW logits stay as they are.

    Args:
        classes: number of classes.

    """

    def __init__(self, classes: int) -> None:
        """Build the gate."""
        super().__init__()
        self.look = nn.Conv2d(2 * classes + CHANGES, HIDDEN, 3, padding=1)
        self.share = nn.Conv2d(HIDDEN, 1, 1)
        for parameter in self.share.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, low: Tensor, moved: Tensor, change: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Return logits [N, classes, h, w].

        Args:
            low: logits of the present frame at half resolution, enlarged, [N, classes, h, w].
            moved: remembered logits where things are now, [N, classes, h, w].
            change: how far the remembered picture, moved, is from the present one; see
                `changed`, [N, 1, h, w].
            valid: where `moved` shows something, bool [N, 1, h, w]; None for everywhere.

        """
        low = low.to(moved.dtype)  # autocast may have made it in another
        around = functional.avg_pool2d(change, AROUND, 1, AROUND // 2, count_include_pad=False)
        # Where much has changed, what looks unchanged is believed less: it may be chance.
        frame = change.mean((2, 3), keepdim=True).expand_as(change)
        seen = torch.cat((low.softmax(1), moved.softmax(1), change, around, frame), 1)
        share: Tensor = self.share(torch.relu(self.look(seen))).sigmoid().to(moved.dtype)
        if valid is not None:
            share = share * valid.to(share.dtype)
        return torch.lerp(low, moved, share)


def shrunk(image: Tensor, times: int) -> Tensor:
    """Return a picture, 0..255, averaged to a pixel of so many times the side.

    Args:
        image: RGB, [N, 3, H, W].
        times: a power of two.

    """
    for _ in range(int(math.log2(times))):
        image = halved(image)
    return image


def changed(picture: Tensor, moved: Tensor) -> Tensor:
    """Return how far two pictures [N, 3, h, w] differ: ln(1 + mean grey levels), [N, 1, h, w]."""
    return (picture - moved).abs().mean(1, keepdim=True).log1p()
