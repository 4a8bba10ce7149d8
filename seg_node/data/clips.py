"""Clips that are not made of picture files: a video, and a ride along the synthetic street."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
import hashlib
from threading import Lock
from typing import TYPE_CHECKING

from seg_node.core.types import CAMVID_CLASSES, DataError, Frame
from seg_node.data.sources import Clip, cut_clips, FrameRef, Indexed, Sample, Source
from seg_node.data.street import Street
from seg_node.data.video import VideoReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREET_RATE_HZ = 15.0
_PLAYED_NS = 1_000_000_000
"""Distance up to which a video is played on rather than sought in."""
_HASH_CHUNK = 1 << 20
"""Bytes that a fingerprint reads at a time."""


class StreetClip(Indexed):
    """A labelled clip of the synthetic street."""

    classes = CAMVID_CLASSES

    def __init__(self, seed: int, count: int = 150, size: tuple[int, int] = (480, 360)) -> None:
        """Prepare the street of a seed; size is (width, height) in pixels."""
        self.spec, self.seed = f"street:{seed}", seed
        self.skipped = Counter()
        self.count = count
        self.street = Street(seed, *size, rate_hz=STREET_RATE_HZ)
        self._lock = Lock()  # the street keeps what it has built for the next frame

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Render and yield every `stride`-th frame."""
        return (self.load(index) for index in range(0, self.count, stride))

    def load(self, index: int) -> Sample:
        """Render one frame; safe in any thread."""
        with self._lock:
            image, labels = self.street.picture(index)
        frame = Frame(image, _street_stamp_ns(index), "street_camera", "street")
        return Sample(f"{index:06d}", frame, labels)

    def frames(self) -> tuple[FrameRef, ...]:
        """Return all frames, not rendered yet."""
        return tuple(
            FrameRef(f"{index:06d}", _street_stamp_ns(index), True, partial(self.load, index))
            for index in range(self.count)
        )

    def clips(self) -> tuple[Clip, ...]:
        """Return the one clip of 15 Hz."""
        return cut_clips(self.frames(), STREET_RATE_HZ)


class VideoFile(Source):
    """Frames of one video file, without labels."""

    def __init__(self, path: Path) -> None:
        """Open the file once to learn its length.

        Raises:
            DataError: the file cannot be opened or has no video stream.

        """
        self.spec = f"video:{path}"
        self.skipped = Counter()
        self.path = path
        with VideoReader(path) as reader:
            self.count = reader.frame_count or 0

    def __len__(self) -> int:
        """Return the number of frames that the container promises; 0 if it does not say."""
        return self.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th frame in display order."""
        self.skipped = Counter()
        with VideoReader(self.path) as reader:
            for index, frame in enumerate(reader.frames()):
                if index % stride == 0:
                    yield Sample(f"{index:06d}", frame, None)
            if reader.damaged:
                self.skipped["damaged frame of the video"] = reader.damaged

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def clips(self) -> tuple[Clip, ...]:
        """Return the frames by the container's times, cut where the rate changes.

        Their frames are quick to load in order; going elsewhere decodes from the key frame before.
        """
        playhead = _Playhead(self.path)
        with VideoReader(self.path) as reader:
            stamps_ns, rate_hz = reader.stamps_ns(), reader.rate_hz
        frames = [
            FrameRef(name, stamp_ns, False, partial(playhead.load, name, stamp_ns))
            for name, stamp_ns in ((f"{i:06d}", stamp) for i, stamp in enumerate(stamps_ns))
        ]
        return cut_clips(frames, rate_hz)


class _Playhead:
    """Plays a video up to the frame that is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._frames: Iterator[Frame] = iter(())
        self._shown: Frame | None = None

    def load(self, name: str, stamp_ns: int) -> Sample:
        """Return the frame of this stamp as a sample of this name; safe in any thread.

        Raises:
            DataError: the frame cannot be decoded, or the file has gone.

        """
        with self._lock:
            frame = self._play_to(stamp_ns)
        if frame.stamp_ns != stamp_ns:
            msg = f"frame {name} of video {self._path} ({stamp_ns} ns) is damaged"
            raise DataError(msg)
        return Sample(name, replace(frame), None)

    def _play_to(self, stamp_ns: int) -> Frame:
        """Return the first frame at or after this time; the last one where there is none."""
        shown = self._shown
        if shown is None or not shown.stamp_ns <= stamp_ns < shown.stamp_ns + _PLAYED_NS:
            shown = self._seek(stamp_ns)
        while shown.stamp_ns < stamp_ns:
            following = next(self._frames, None)
            if following is None:
                break
            shown = following
        self._shown = shown
        return shown

    def _seek(self, stamp_ns: int) -> Frame:
        """Return the key frame before this time, or the first frame of the file."""
        for start_ns in (stamp_ns, 0):
            self._frames = VideoReader(self._path).frames(start_ns)
            shown = next(self._frames, None)
            if shown is not None and shown.stamp_ns <= stamp_ns:
                return shown
        assert shown is not None  # the reader has decoded a frame
        return shown


def _street_stamp_ns(index: int) -> int:
    return round(index * 1e9 / STREET_RATE_HZ)
