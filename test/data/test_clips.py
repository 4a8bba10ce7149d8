"""The street and a video as sources: samples, clips and random access."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.data.clips import StreetClip, VideoFile
from seg_node.data.datasets import open_source
from seg_node.data.sources import estimate_rate, Indexed
from seg_node.data.street import Street
from seg_node.data.video import VideoReader, VideoWriter
from test.data.miniatures import picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_video(path: Path, frames: int = 5) -> Path:
    """Write frames of growing brightness at 20 Hz."""
    with VideoWriter(path, 20.0) as video:
        for index in range(frames):
            video.write(picture(20 * index, 32, 48))
    return path


def test_street_is_labelled_and_repeats() -> None:
    """Two passes yield the same frames; every second one is the same as in a whole pass."""
    clip = StreetClip(3, count=4, size=(64, 48))
    first, again, half = list(clip), list(clip), list(clip.every(2))
    assert [s.name for s in first] == ["000000", "000001", "000002", "000003"]
    for one, other in zip(first + first[::2], again + half, strict=True):
        assert np.array_equal(one.frame.image, other.frame.image)
        assert one.labels is not None
        assert other.labels is not None
        assert np.array_equal(one.labels, other.labels)
        assert one.frame.stamp_ns == other.frame.stamp_ns
    assert clip.fingerprint() is None
    assert clip.classes == CAMVID_CLASSES


class WatchedStreet(Street):
    """A street that notices two threads at once, which would share what it keeps."""

    visitors = 0
    crowded = False

    def picture(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Render like any street, slowly."""
        self.visitors += 1
        self.crowded |= self.visitors > 1
        time.sleep(0.002)
        made = super().picture(index)
        self.visitors -= 1
        return made


def test_street_frames_load_in_any_order_and_thread() -> None:
    """Four threads that jump along the street get what a pass yields, one after the other."""
    clip = StreetClip(3, count=400, size=(32, 24))
    clip.street = watched = WatchedStreet(3, 32, 24)
    assert isinstance(clip, Indexed)
    frames = clip.frames()
    order = [399, 0, 201, 97, 300, 1, 200, 98]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda index: frames[index].load(), order))
    assert not watched.crowded
    calm = StreetClip(3, count=400, size=(32, 24))
    for index, sample in zip(order, loaded, strict=True):
        expected = calm.load(index)
        assert sample.name == frames[index].name == expected.name
        assert sample.frame.stamp_ns == frames[index].stamp_ns
        assert np.array_equal(sample.frame.image, expected.frame.image)


def test_street_is_one_clip() -> None:
    """15 Hz, all labelled."""
    (clip,) = StreetClip(3, count=4, size=(64, 48)).clips()
    assert (clip.rate_hz, len(clip.frames)) == (15.0, 4)
    assert all(frame.labelled for frame in clip.frames)


def test_video_yields_every_frame(tmp_path: Path) -> None:
    """A video counts its frames and has a fingerprint."""
    source = open_source(f"video:{write_video(tmp_path / 'clip.mp4')}")
    assert [s.frame.stamp_ns for s in source] == [i * 50_000_000 for i in range(5)]
    assert [s.name for s in source.every(2)] == ["000000", "000002", "000004"]
    assert not source.skipped
    assert len(str(source.fingerprint())) == 64
    assert estimate_rate(source) == pytest.approx(20.0)


def test_video_clip_loads_what_a_pass_yields(tmp_path: Path) -> None:
    """Forward, backward and twice: each frame is the one that its name and stamp say."""
    source = VideoFile(write_video(tmp_path / "clip.mp4"))
    (clip,) = source.clips()
    assert (clip.rate_hz, len(clip.frames)) == (20.0, 5)
    assert not any(frame.labelled for frame in clip.frames)
    expected = list(source)
    for index in (1, 3, 3, 4, 0, 2):
        sample = clip.frames[index].load()
        assert sample.name == expected[index].name
        assert sample.frame.stamp_ns == expected[index].frame.stamp_ns
        assert np.array_equal(sample.frame.image, expected[index].frame.image)


def test_listing_a_video_decodes_nothing_and_agrees(tmp_path: Path) -> None:
    """The stamps of the packets are those of the frames, with reordered frames as well."""
    reader = VideoReader(write_video(tmp_path / "clip.mp4", 12))
    assert reader.stamps_ns() == tuple(frame.stamp_ns for frame in reader.frames())


def test_frame_that_a_video_lost_is_named(tmp_path: Path) -> None:
    """A file cut since it was listed: its last frame is an error with its name."""
    path = tmp_path / "clip.mkv"
    write_video(tmp_path / "clip.mp4", 12).rename(path)
    (clip,) = VideoFile(path).clips()
    write_video(tmp_path / "short.mp4", 6).rename(path)
    assert clip.frames[5].load().name == "000005"
    with pytest.raises(DataError, match=r"frame 000011 of video .*clip\.mkv .* is damaged"):
        clip.frames[11].load()


def test_a_video_is_sought_in_and_shows_the_frames_of_a_pass() -> None:
    """From a key frame on, pixels and stamps are those of playing from the start."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "video" / "gopro_walk.mp4"
    if not path.is_file():
        pytest.skip("gopro_walk.mp4 not found at ../shared/data/video")
    first = next(VideoReader(path).frames(5_000_000_000))
    assert 4_000_000_000 < first.stamp_ns <= 5_000_000_000
    source = VideoFile(path)
    played = {sample.name: sample.frame for sample in source.every(50)}
    frames = {ref.name: ref for clip in source.clips() for ref in clip.frames}
    for name in ("000250", "000050", "000300", "000000", "000200"):
        shown = frames[name].load().frame
        assert shown.stamp_ns == played[name].stamp_ns
        assert np.array_equal(shown.image, played[name].image)
