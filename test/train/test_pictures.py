"""Pools read what is drawn, keep what fits, and say what is missing."""

from __future__ import annotations

from collections import Counter
import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError, Frame
from seg_node.data.clips import StreetClip, VideoFile
from seg_node.data.sources import FrameRef, Sample, Source
from seg_node.data.video import VideoWriter
from seg_node.train.pictures import frame_refs, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def test_memory_is_bounded_and_what_came_first_stays() -> None:
    shelf = Shelf()
    pool = Pool(shelf.frames, kept_bytes=2 * BYTES)
    for index in (0, 1, 2, 0, 1, 2):
        assert int(pool[index].labels[0, 0]) == index
    assert shelf.reads == {0: 1, 1: 1, 2: 2}


def test_processes_share_the_memory() -> None:
    shelf = Shelf()
    pool = Pool(shelf.frames, kept_bytes=2 * BYTES + 1, processes=2)
    for index in (0, 1, 0, 1):
        assert int(pool[index].labels[0, 0]) == index
    assert shelf.reads == {0: 1, 1: 2}


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


FRAME_BYTES = 48 * 64 * 3
"""Memory of one image of the video below."""


@pytest.fixture
def video(tmp_path: Path) -> VideoFile:
    """Return nine frames that grow brighter."""
    with VideoWriter(tmp_path / "ride.mp4", 10.0) as writer:
        for index in range(9):
            writer.write(np.full((48, 64, 3), 25 * index, np.uint8))
    return VideoFile(tmp_path / "ride.mp4")


def test_frames_of_a_video_are_read_in_any_order(
    video: VideoFile, caplog: pytest.LogCaptureFixture
) -> None:
    refs = frame_refs(video, 2)
    assert [ref.name for ref in refs] == ["000000", "000002", "000004", "000006", "000008"]
    assert [brightness(refs[i]) for i in (4, 0, 2)] == pytest.approx([200, 0, 100], abs=3)
    video.path.unlink()
    assert brightness(refs[1]) == pytest.approx(50, abs=3)  # all of them fit into memory
    assert not caplog.records


def test_a_video_beyond_the_memory_is_played_anew(
    video: VideoFile, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        refs = frame_refs(video, 2, held_bytes=2 * FRAME_BYTES)
    assert "its later frames are slow to read" in caplog.text
    assert [ref.name for ref in refs] == ["000000", "000002", "000004", "000006", "000008"]
    assert [brightness(refs[i]) for i in (4, 0, 2, 4)] == pytest.approx([200, 0, 100, 200], abs=3)
    video.path.unlink()
    assert brightness(refs[1]) == pytest.approx(50, abs=3)
    with pytest.raises(DataError, match=r"ride\.mp4"):
        refs[2].load()


class Heard(Source):
    """Three frames that come once, such as from a stream."""

    def __init__(self) -> None:
        """Name it."""
        self.spec = "heard:somewhere"
        self.skipped = Counter()

    def __len__(self) -> int:
        """Return the number of frames."""
        return 3

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield frames."""
        return (Shelf().read(index) for index in range(0, 3, stride))


def test_what_neither_fits_nor_can_be_played_anew_is_refused() -> None:
    assert len(frame_refs(Heard(), held_bytes=3 * 360)) == 3
    with pytest.raises(DataError, match=r"frame 2 of heard:somewhere .* cut the data into pict"):
        frame_refs(Heard(), held_bytes=2 * 360)


def brightness(ref: FrameRef) -> float:
    return float(ref.load().frame.image.mean())
