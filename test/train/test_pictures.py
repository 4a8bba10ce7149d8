"""Pools read what is drawn, keep what fits, and say what is missing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from seg_node.core.types import DataError, Frame
from seg_node.data.clips import StreetClip
from seg_node.data.sources import FrameRef, Sample
from seg_node.train.pictures import frame_refs, Pool

BYTES = 10 * 12 * 4
"""Memory of one picture below: image and labels."""


class Shelf:
    """Ten frames that count how often each is read."""

    def __init__(self, *, labelled: bool = True) -> None:
        """Put them up."""
        self.reads: Counter[int] = Counter()
        self.frames = [
            FrameRef(str(i), i, labelled, lambda i=i: self.read(i))  # type: ignore[misc]  # bound
            for i in range(10)
        ]

    def read(self, index: int) -> Sample:
        """Return a frame and count it."""
        self.reads[index] += 1
        image = np.full((10, 12, 3), index, np.uint8)
        return Sample(str(index), Frame(image), np.full((10, 12), index, np.uint8))


def test_frames_are_read_when_drawn_and_kept() -> None:
    shelf = Shelf()
    pool = Pool(shelf.frames)
    assert not shelf.reads
    assert [int(pool[i].labels[0, 0]) for i in (3, 3, 5)] == [3, 3, 5]
    assert shelf.reads == {3: 1, 5: 1}
    assert [int(p.image[0, 0, 0]) for p in pool[2:4]] == [2, 3]


def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    shelf = Shelf()
    pool = Pool(shelf.frames, kept_bytes=2 * BYTES)
    for index in (0, 1, 0, 2, 0, 1):
        assert int(pool[index].labels[0, 0]) == index
    assert shelf.reads == {0: 1, 1: 2, 2: 1}


def test_frames_without_labels_are_refused_where_labels_are_wanted() -> None:
    shelf = Shelf(labelled=False)
    with pytest.raises(DataError, match="frame 0 has no labels to train on"):
        Pool(shelf.frames)
    assert (Pool(shelf.frames, labelled=False)[4].labels == 255).all()


def test_a_teacher_is_shown_the_image() -> None:
    def teach(image: np.ndarray) -> np.ndarray:
        return np.full((3, 3, 2), 2 * int(image[0, 0, 0]), np.uint8)

    soft = Pool(Shelf().frames, teach)[7].soft
    assert soft is not None
    assert (soft == 14).all()


def test_every_stride_th_frame_of_a_source() -> None:
    clip = StreetClip(3, count=7, size=(64, 48))
    assert [ref.name for ref in frame_refs(clip, 3)] == ["000000", "000003", "000006"]
