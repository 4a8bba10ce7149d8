"""Vectors of a stream from packet to picture: nothing reaches over what was lost."""

from __future__ import annotations

import av
import pytest

from seg_node.data.codec_vectors import EXPORT
from seg_node.data.encode import encode_packets, Encoding
from seg_node.data.h264 import Link
from seg_node.data.stream_vectors import StreamVectors
from seg_node.data.street import Street


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Eight packets with one key picture."""
    images = (x.frame.image for x in Street(3, 96, 64, 30.0).frames(8))
    return list(encode_packets(images, Encoding(references=2)))


class Player:
    """A decoder and the vectors of its stream."""

    def __init__(self) -> None:
        """Begin before the first packet."""
        self.vectors = StreamVectors("h264", pytest.fail)
        self._decoder = av.CodecContext.create("h264", "r")
        self._decoder.thread_count, self._decoder.options = 1, EXPORT

    def play(self, data: bytes, pts: int, *, wanted: bool = True) -> tuple[Link, int | None]:
        """Return the link of a packet and the stamp that its motion is since."""
        link = self.vectors.expect(data, pts)
        packet = av.Packet(data)
        packet.pts = pts
        (picture,) = self._decoder.decode(packet)
        if not wanted:
            self.vectors.skip(picture.pts)
            return link, None
        motion = self.vectors.motion(picture, pts)
        return link, None if motion is None else motion.since_ns


def test_connected_pictures_have_motion(packets: list[bytes]) -> None:
    player = Player()
    assert [player.play(x, i) for i, x in enumerate(packets[:3])] == [
        (Link.KEY, None),
        (Link.NEXT, 0),
        (Link.NEXT, 1),
    ]


def test_a_missing_packet_cuts_the_motion(packets: list[bytes]) -> None:
    player = Player()
    found = [player.play(packets[i], i) for i in (0, 1, 3, 4)]
    assert found[2:] == [(Link.GAP, None), (Link.NEXT, 3)]


def test_a_packet_without_picture_cuts_the_motion(packets: list[bytes]) -> None:
    """Told by the caller, whose decoder failed; its frame number was read all the same."""
    player = Player()
    player.play(packets[0], 0)
    player.vectors.expect(packets[1], 1)
    player.vectors.broken()
    assert player.play(packets[2], 2) == (Link.GAP, None)
    assert player.play(packets[3], 3) == (Link.NEXT, 2)


def test_after_a_loss_everything_is_expected(packets: list[bytes]) -> None:
    player = Player()
    player.play(packets[0], 0)
    player.vectors.lost()
    assert player.play(packets[2], 2) == (Link.NEXT, None)


def test_a_picture_whose_motion_nobody_wants_cuts_it(packets: list[bytes]) -> None:
    """Else the next motion would claim to be since an older picture."""
    player = Player()
    player.play(packets[0], 0)
    player.play(packets[1], 1)
    player.play(packets[2], 2, wanted=False)
    assert player.play(packets[3], 3) == (Link.NEXT, None)
    assert player.play(packets[4], 4) == (Link.NEXT, 3)
