"""Data in another size than their own."""

from __future__ import annotations

from dataclasses import replace
import re
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import ConfigError
from seg_node.data.clips import StreetClip
from seg_node.data.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seg_node.data.sources import Sample

SIDES = (16, 8192)
"""Smallest and largest side of an image, in pixels."""


def check_size(size: tuple[int, int]) -> None:
    """Refuse a (width, height) that no image may have.

    Raises:
        ConfigError: a side is out of range.

    """
    low, high = SIDES
    if not all(low <= side <= high for side in size):
        width, height = size
        msg = f"size is {width}x{height}; each side may be {low} to {high} pixels"
        raise ConfigError(msg)


def parse_size(text: str) -> tuple[int, int]:
    """Read a size such as `960x720`: width and height in pixels.

    Raises:
        ConfigError: it is none.

    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text, re.ASCII)
    if match is None:
        msg = f"size is {text!r}; expected WIDTHxHEIGHT in pixels, such as 960x720"
        raise ConfigError(msg)
    return int(match[1]), int(match[2])


def size_of(sample: Sample) -> tuple[int, int]:
    """Return (width, height) in pixels."""
    height, width = sample.frame.image.shape[:2]
    return width, height


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample in (width, height): of labels the nearest pixel, of the image a mean.

    Motion that came with the frame is left out: it is in pixels of the image as it was.
    """
    image, labels = sample.frame.image, sample.labels
    if size_of(sample) == size:
        return sample
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    if labels is not None:
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    frame = replace(sample.frame, image=image, motion=None)
    return replace(sample, frame=frame, labels=labels)


class Resized(Source):
    """The samples of another source, all in one size.

    Args:
        source: the data.
        size: (width, height) in pixels.

    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        """Take the source."""
        self.spec, self.classes, self.skipped = source.spec, source.classes, source.skipped
        self._source, self._size = source, size

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th sample."""
        for sample in self._source.every(stride):
            self.skipped = self._source.skipped
            yield resized(sample, self._size)
        self.skipped = self._source.skipped

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._source)

    def shortfall(self) -> str | None:
        """Tell what the source did not deliver."""
        return self._source.shortfall()

    def fingerprint(self) -> str | None:
        """Return the hash of the data as they are."""
        return self._source.fingerprint()


def in_size(source: Source, size: tuple[int, int] | None) -> Source:
    """Return a source in another size, (width, height) in pixels; None leaves it as it is.

    A street is drawn in that size.

    Raises:
        ConfigError: a side is out of range.

    """
    if size is None:
        return source
    check_size(size)
    if isinstance(source, StreetClip):
        return StreetClip(source.seed, source.count, size)
    return Resized(source, size)
