"""Memories of several cameras as one background: their blocks run through a network together.

A network on few blocks is many small operations, each with a price of its own. With the blocks of
all cameras in every operation, that price is paid once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from seg_node.core.background import Background, Found, Plane
    from seg_node.core.blocks import Window


class Joined:
    """The backgrounds of single images, as that of a batch of them.

    Args:
        backgrounds: of each image, in the order of the batch, of the same network.
        counts: HIGH blocks of each image, at least 1.

    """

    def __init__(self, backgrounds: Sequence[Background], counts: Sequence[int]) -> None:
        """Take the parts."""
        self._backgrounds = backgrounds
        self.counts = counts
        # By identity of the pixels, which all operations of a window share; they are held, so
        # that no other tensor can be taken for them.
        self._parts: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def planes(self) -> Iterator[Plane]:
        """Return what each operation finds, from the first on."""
        several = (background.planes() for background in self._backgrounds)
        return (_JoinedPlane(self, planes) for planes in zip(*several, strict=True))

    def parts(self, pixels: Tensor, area: int) -> list[Tensor]:
        """Return the pixels of each image, counted from its own first.

        Args:
            pixels: counted row by row through all images, those of an image together, int64 [k].
            area: pixels of a plane.

        """
        if id(pixels) not in self._parts:
            image = pixels.numpy() // area
            ends = np.searchsorted(image, np.arange(len(self._backgrounds)), side="right")
            cut = torch.tensor_split(pixels, ends[:-1].tolist())
            own = [part - index * area for index, part in enumerate(cut)]
            self._parts[id(pixels)] = pixels, own
        return self._parts[id(pixels)][1]


class _JoinedPlane:
    """What one operation reads of several images.

    Args:
        joined: the background that it belongs to.
        planes: of each image.

    """

    def __init__(self, joined: Joined, planes: tuple[Plane, ...]) -> None:
        """Take the parts."""
        self._joined = joined
        self._planes = planes

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:
        """Look up where pixels are, image by image."""
        parts: Sequence[Tensor | None] = [None] * len(self._planes)
        if pixels is not None:
            height, width = (-(-side // 2) if halve else side for side in window.size)
            parts = self._joined.parts(pixels, height * width)
        found = zip(self._planes, parts, strict=True)
        return tuple(x for plane, part in found for x in plane.find(part, window, halve=halve))

    def _each(self, found: Found) -> Iterator[tuple[Plane, Found]]:
        """Return every image's plane with what is its part of lists."""
        each = len(found) // len(self._planes)
        for index, plane in enumerate(self._planes):
            yield plane, found[index * each : (index + 1) * each]

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:
        """Return the pixels that were found, [k, C]."""
        return torch.cat([p.rows(own, window, halve=halve) for p, own in self._each(found)])

    def whole(self, found: Found, window: Window) -> Tensor:
        """Return all pixels, [N, C, h, w]."""
        return torch.cat([plane.whole(own, window) for plane, own in self._each(found)])

    def _shares(self, count: int) -> list[int]:
        """Return how many of the blocks each image has; repeated ones are the last one's."""
        counts = list(self._joined.counts)
        counts[-1] += count - sum(counts)
        return counts

    def room(self, count: int) -> Found:
        """Look up where `keep` is to put so many blocks."""
        shares = zip(self._planes, self._shares(count), strict=True)
        return tuple(x for plane, share in shares for x in plane.room(share))

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Have each image take note of its blocks."""
        parts = torch.split(tiles, self._shares(len(tiles)))
        for (plane, own), part in zip(self._each(room), parts, strict=True):
            plane.keep(part, window, own)
