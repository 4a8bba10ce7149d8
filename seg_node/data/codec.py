"""Decodes a stream of H.264 or H.265 packets as it arrives, and never shows a damaged picture.

Encoder nodes send one access unit per message, as Annex B, without B frames. Anything may be
missing: the listener joins between two key pictures, or a message is lost. libavcodec then repeats
or smears what it has and reports nothing (H.264) or fails (H.265), so the order of the pictures is
watched here as well. After a loss nothing comes out until a picture that does not depend on what
was lost: a key picture, or the end of an intra refresh.

Messages are lost whole, or arrive whole. Damage inside a packet is noticed in H.264; in H.265
libavcodec notices little of it.

MPEG-4 is not offered: its pictures carry no number by which a loss could be noticed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import cast, TYPE_CHECKING

import av
import numpy as np

from seg_node.core.types import DataError, Frame
from seg_node.data.codec_vectors import EXPORT
from seg_node.data.h264 import Link, nal_units
from seg_node.data.stream_vectors import StreamVectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.video.codeccontext import VideoCodecContext

STREAM_CODECS = {"h264": "h264", "h265": "hevc"}
"""Codecs of packet streams, and libavcodec's names of their decoders."""

_ALIASES = {"hevc": "h265", "avc": "h264", "h.264": "h264", "h.265": "h265", "x264": "h264",
            "x265": "h265"}  # fmt: skip


class StreamState(Enum):
    """What changed in a stream."""

    WAITING = "waiting for a key picture"
    LOST = "a picture is lost or damaged"
    RUNNING = "pictures come"
    RESIZED = "the pictures have another size"
    NO_MOTION = "the frames carry no motion"


@dataclass(frozen=True)
class StreamEvent:
    """Something that an operator should know of a stream.

    Attributes:
        state: what kind of thing happened.
        text: what happened, as a sentence.
        stamp_ns: stamp of the packet at which it was noticed.

    """

    state: StreamState
    text: str
    stamp_ns: int


@dataclass
class StreamCounts:
    """What became of the packets of a stream.

    Attributes:
        packets: packets received.
        frames: frames given out.
        losses: times that a picture was found lost or damaged.
        withheld: packets whose picture was not given out: damaged, or waiting for a key picture.

    """

    packets: int = 0
    frames: int = 0
    losses: int = 0
    withheld: int = 0


def stream_codec(format_text: str) -> str:
    """Return the codec, a key of `STREAM_CODECS`, that a message's format names; empty if none.

    Understands what encoder nodes write: `h264`, `hevc`, libavcodec's names of encoders such as
    `libx264` or `hevc_nvenc`, and the lists of ffmpeg_image_transport, `h264;yuv420p;bgr8;bgr8`.

    Args:
        format_text: `format` of a CompressedImage or CompressedVideo, `encoding` of an
            FFMPEGPacket.

    """
    word = format_text.partition(";")[0].strip().lower()
    word = word.removeprefix("lib").partition("_")[0]
    word = _ALIASES.get(word, word)
    return word if word in STREAM_CODECS else ""


class StreamDecoder:
    """Turns packets, one access unit each and in the order they were sent, into frames.

    Decoding is done in the calling thread, and a frame comes out with its own packet.

    Attributes:
        counts: what became of the packets so far.
        waiting: whether packets are withheld until a key picture comes.
        motion: whether frames get the motion since the frame before that the vectors of H.264
            state (see `codec_vectors`); H.265 has none. It may be changed at any time, and costs
            two milliseconds for 960x720.

    """

    def __init__(
        self,
        codec: str,
        *,
        camera: str = "",
        motion: bool = False,
        notify: Callable[[StreamEvent], None] = lambda _: None,
    ) -> None:
        """Begin before the first packet.

        Args:
            codec: `h264` or `h265`.
            camera: name of the camera, for the frames.
            motion: see the attribute.
            notify: called with every event.

        Raises:
            DataError: the codec is not offered.

        """
        if codec not in STREAM_CODECS:
            msg = f"cannot decode a stream of {codec!r}: use {' or '.join(STREAM_CODECS)}"
            raise DataError(msg)
        self.counts = StreamCounts()
        self.waiting = True
        self.motion = motion
        self._codec = codec
        self._camera = camera
        self._notify = notify
        self._stamp_ns = 0
        self._running = False
        self._told = False
        self._size = (0, 0)
        self._decoder = _open(STREAM_CODECS[codec])
        self._vectors = StreamVectors(
            STREAM_CODECS[codec], lambda text: self._tell(StreamState.NO_MOTION, text)
        )

    def decode(self, data: bytes, stamp_ns: int = 0, frame_id: str = "") -> list[Frame]:
        """Take the next packet; return the frames that it completes, mostly one.

        Bad data is no error: it is counted and told, and its picture withheld.

        Args:
            data: one access unit as Annex B.
            stamp_ns: stamp of its picture.
            frame_id: coordinate frame of the camera.

        """
        self.counts.packets += 1
        self._stamp_ns = stamp_ns
        frames = self._frames(data, frame_id)
        self.counts.frames += len(frames)
        return frames

    def _frames(self, data: bytes, frame_id: str) -> list[Frame]:
        if not self._may_decode(data):
            return []
        try:
            pictures = self._pictures(data)
        except av.FFmpegError as error:
            self._lose(f"libavcodec refuses a packet ({error.strerror})")
            return []
        if any(picture.is_corrupt for picture in pictures):
            self._lose("libavcodec reports a damaged picture")
            return []
        if not pictures and not self._running:
            self.counts.withheld += 1  # the intra refresh goes on
        return [self._frame(picture, frame_id) for picture in pictures]

    def _may_decode(self, data: bytes) -> bool:
        """Look at a packet's place in the stream; False if it shows no picture."""
        link = self._link(data)
        if link is Link.GAP and not self.waiting:
            self._lose("a packet is missing", withheld=0)
            link = self._link(data)
        if link is Link.NONE:
            self._learn(data)
            return False
        if link is Link.KEY or not self.waiting:
            self.waiting = False
            return True
        self.counts.withheld += 1
        if not self._told:
            self._told = True
            self._tell(
                StreamState.WAITING, "joined between two key pictures: waiting for the next"
            )
        return False

    def _link(self, data: bytes) -> Link:
        if self.waiting:
            self._vectors.lost()
        return self._vectors.expect(data, self._stamp_ns)

    def _learn(self, data: bytes) -> None:
        """Give the decoder parameter sets that come in a packet of their own."""
        if next(nal_units(data), None) is None:
            self._lose(f"a packet holds no {self._codec} units; it must be Annex B")
            return
        with suppress(av.FFmpegError):  # it learns them, then complains that there is no picture
            self._pictures(data)

    def _pictures(self, data: bytes) -> list[av.VideoFrame]:
        packet = av.Packet(data)
        packet.pts = self._stamp_ns
        return self._decoder.decode(packet)

    def _frame(self, picture: av.VideoFrame, frame_id: str) -> Frame:
        size = (picture.width, picture.height)
        if not self._running:
            self._tell(StreamState.RUNNING, f"pictures of {size[0]}x{size[1]} come")
        elif size != self._size:
            text = (
                f"the stream changed from {self._size[0]}x{self._size[1]} to {size[0]}x{size[1]}"
            )
            self._tell(StreamState.RESIZED, text)
        self._running = self._told = True
        self._size = size
        stamp_ns = self._stamp_ns if picture.pts is None else picture.pts
        motion = None
        if self.motion:
            motion = self._vectors.motion(picture, stamp_ns)
        else:
            self._vectors.skip(picture.pts)
        rgb = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        return Frame(rgb, stamp_ns, frame_id, self._camera, motion)

    def _lose(self, reason: str, withheld: int = 1) -> None:
        """Empty the decoder, so that nothing damaged is left in it, and wait."""
        self.counts.losses += 1
        self.counts.withheld += withheld
        self.waiting = self._told = True
        self._running = False
        self._decoder.flush_buffers()
        self._vectors.lost()
        self._tell(StreamState.LOST, f"{reason}: waiting for the next key picture")

    def _tell(self, state: StreamState, text: str) -> None:
        self._notify(StreamEvent(state, text, self._stamp_ns))


def _open(name: str) -> VideoCodecContext:
    decoder = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    # Frame threads would hold back as many pictures as there are threads.
    decoder.thread_count = 1
    decoder.options = {"err_detect": "+explode", **EXPORT}
    return decoder
