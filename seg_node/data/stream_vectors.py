"""The vectors of one stream from packet to picture, aware of what was lost in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.data.codec_vectors import VectorTrack
from seg_node.data.h264 import Link, PictureOrder
from seg_node.data.hevc import hevc_link

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

    from seg_node.core.types import Motion


class StreamVectors:
    """Follows one stream: tell it each packet before decoding, ask it for each picture after.

    Decode without frame threads, so that an error belongs to the packet that was just given.
    """

    def __init__(
        self, codec: str, note: Callable[[str], None], extradata: bytes | None = None
    ) -> None:
        """Begin before the first packet.

        Args:
            codec: libavcodec's name of the decoder.
            note: told, once, why a stream's vectors are not used.
            extradata: parameter sets that stand apart from the stream.

        """
        self._order = PictureOrder(extradata) if codec == "h264" else None
        self._read = hevc_link if codec == "hevc" else _any_link
        self._track = VectorTrack(codec, note)
        self._links: dict[int | None, Link] = {}
        self._gap = False

    def expect(self, data: bytes, pts: int | None) -> Link:
        """Read how the picture of a packet follows the one before.

        Args:
            data: the packet.
            pts: its presentation time, which its picture will carry.

        """
        link = self._order.take(data) if self._order else self._read(data)
        if link is Link.NONE:
            return link
        if self._gap:
            link, self._gap = Link.GAP, False
        self._links[pts] = link
        if self._order:
            self._track.references = self._order.references
        return link

    def broken(self) -> None:
        """Note that the packet told last will show no picture."""
        self._gap = True

    def lost(self) -> None:
        """Expect nothing: the decoder was emptied, or the picture it gave last is withheld."""
        self._links.clear()
        self._track.lost()
        if self._order:
            self._order.forget()

    def skip(self, pts: int | None) -> None:
        """Note that a picture was shown whose motion nobody asks for."""
        self._links.pop(pts, None)
        self._track.lost()

    def motion(self, picture: av.VideoFrame, stamp_ns: int) -> Motion | None:
        """Return the motion since the picture of the call before; see `VectorTrack.follow`.

        Args:
            picture: the next picture in the order of display.
            stamp_ns: its stamp.

        """
        link = self._links.pop(picture.pts, Link.NEXT)
        connected = link in {Link.NEXT, Link.KEY}
        return self._track.follow(picture, stamp_ns, connected=connected)


def _any_link(data: bytes) -> Link:
    return Link.NEXT if data else Link.NONE
