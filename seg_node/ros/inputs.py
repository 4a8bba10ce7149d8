"""Video messages: their packets, and the pictures that are decoded from them.

Encoder nodes send `sensor_msgs/CompressedImage` with the format `h264` or `h265`, one access unit
each; others have messages of their own, see `seg_node.ros.image_topics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ImageError
from seg_node.data.codec import stream_codec, StreamDecoder, StreamState
from seg_node.data.image_conversion import stamp_to_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.types import Frame
    from seg_node.data.codec import StreamCounts, StreamEvent


@dataclass(frozen=True)
class Packet:
    """What a video message says.

    Attributes:
        codec: `h264` or `h265`.
        data: one access unit as Annex B.
        stamp_ns: stamp of its picture.
        frame_id: coordinate frame of the camera.

    """

    codec: str
    data: bytes
    stamp_ns: int
    frame_id: str


def is_video(message: Any) -> bool:
    """Tell whether a message is part of a video rather than a picture of its own."""
    if hasattr(message, "format"):
        return hasattr(message, "timestamp") or bool(stream_codec(message.format))
    return hasattr(message, "pts")


def packet_of(message: Any, topic: str = "") -> Packet:
    """Read a video message.

    Args:
        message: a CompressedImage, FFMPEGPacket or CompressedVideo, or what has their fields.
        topic: where it came from, for errors.

    Raises:
        ImageError: the codec is not decoded here, or the stamp is not a time.

    """
    format_text = message.format if hasattr(message, "format") else message.encoding
    codec = stream_codec(format_text)
    if not codec:
        problem = "this video codec is not decoded here; encode h264 or h265"
        raise ImageError(problem, topic=topic, encoding=format_text)
    # CompressedVideo has the fields of a header, but no header.
    has_header = hasattr(message, "header")
    stamp = message.header.stamp if has_header else message.timestamp
    frame_id = message.header.frame_id if has_header else message.frame_id
    stamp_ns = stamp_to_ns(stamp, topic, (format_text, 0, 0))
    return Packet(codec, bytes(message.data), stamp_ns, frame_id)


class VideoInput:
    """Decodes the video messages of one topic, all of them, in the order they came.

    Attributes:
        counts: what became of the packets, None before the first.
        trouble: why no pictures come, empty while they do.

    """

    def __init__(self, topic: str, warn: Callable[[str, str], None]) -> None:
        """Begin before the first message.

        Args:
            topic: where the messages come from, and the camera's name.
            warn: called with a subject and a text when something happens to the stream.

        """
        self.counts: StreamCounts | None = None
        self.trouble = ""
        self._topic = topic
        self._warn = warn
        self._codec = ""
        self._decoder: StreamDecoder | None = None

    def frames(self, message: Any, *, motion: bool) -> list[Frame]:
        """Return the frames that a message completes, mostly one.

        Args:
            message: see `packet_of`.
            motion: whether they shall carry the stream's motion.

        Raises:
            ImageError: the message cannot be decoded here.

        """
        packet = packet_of(message, self._topic)
        decoder = self._decoder
        if decoder is None or packet.codec != self._codec:
            decoder = StreamDecoder(packet.codec, camera=self._topic, notify=self._on_event)
            self._decoder, self._codec, self.counts = decoder, packet.codec, decoder.counts
        decoder.motion = motion
        return decoder.decode(packet.data, packet.stamp_ns, packet.frame_id)

    def _on_event(self, event: StreamEvent) -> None:
        if event.state is StreamState.RUNNING:
            if self.trouble:
                self._warn("video running", f"video on {self._topic}: {event.text} again")
            self.trouble = ""
            return
        if event.state in {StreamState.LOST, StreamState.WAITING}:
            self.trouble = event.text
        if event.state is not StreamState.RESIZED:  # told of every camera
            self._warn(f"video {event.state.name}", f"video on {self._topic}: {event.text}")
