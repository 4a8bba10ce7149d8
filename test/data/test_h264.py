"""Order of H.264 pictures: real streams with packets taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import pytest

from seg_node.data.encode import encode_clip, encode_packets, Encoding
from seg_node.data.h264 import Link, nal_units, PictureOrder
from seg_node.data.street import Street

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

KEY, NEXT, ASIDE, GAP, NONE = Link.KEY, Link.NEXT, Link.ASIDE, Link.GAP, Link.NONE


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Twenty frames of a small street."""
    return [x.frame.image for x in Street(3, 96, 64).frames(20)]


@pytest.fixture(scope="module")
def packets(images: list[NDArray[np.uint8]]) -> list[bytes]:
    """Those, as packets with a key picture every tenth."""
    return list(encode_packets(images, Encoding(keyint=10)))


def links(packets: list[bytes]) -> list[Link]:
    """Return how each packet follows."""
    order = PictureOrder()
    return [order.take(x) for x in packets]


def test_an_intact_stream_is_connected(packets: list[bytes]) -> None:
    assert links(packets) == ([KEY] + [NEXT] * 9) * 2


def test_a_lost_packet_is_a_gap(packets: list[bytes]) -> None:
    """One gap for one loss, however many packets; after it the order is followed again."""
    assert links(packets[:3] + packets[5:8]) == [KEY, NEXT, NEXT, GAP, NEXT, NEXT]
    assert links(packets[:1] + packets[9:12]) == [KEY, GAP, KEY, NEXT]


def test_a_repeated_packet_is_a_gap(packets: list[bytes]) -> None:
    assert links([*packets[:3], packets[2], packets[3]]) == [KEY, NEXT, NEXT, GAP, NEXT]


def test_a_loss_that_ends_in_a_key_picture_is_harmless(packets: list[bytes]) -> None:
    assert links(packets[:3] + packets[10:12]) == [KEY, NEXT, NEXT, KEY, NEXT]


def test_forgetting_expects_nothing_but_keeps_the_parameters(packets: list[bytes]) -> None:
    order = PictureOrder()
    order.take(packets[0])
    order.forget()
    assert order.take(packets[4]) is NEXT
    assert order.take(packets[7]) is GAP


def test_frame_numbers_wrap_around(images: list[NDArray[np.uint8]]) -> None:
    """With short numbers (4 bits for keyint 1..15) a long stream of P pictures wraps."""
    packets = list(encode_packets(images * 4, Encoding(keyint=250, options={"scenecut": "0"})))
    assert links(packets) == [KEY] + [NEXT] * 79


def test_a_picture_without_reference_stands_aside(images: list[NDArray[np.uint8]]) -> None:
    """B pictures do not count, so losing one is no gap; what follows refers past it."""
    encoding = Encoding(b_frames=1, options={"b-adapt": "0", "scenecut": "0"})
    packets = list(encode_packets(images[:7], encoding))
    assert links(packets) == [KEY, NEXT, NEXT, ASIDE, NEXT, ASIDE, NEXT]
    assert links(packets[:2] + packets[3:]) == [KEY, NEXT, NEXT, NEXT, ASIDE, NEXT]


@pytest.mark.parametrize(
    "options",
    [{"cqm": "jvt"}, {"bluray-compat": "1"}, {"slices": "3"}, {"aud": "1"}, {"weightp": "2"}],
)
def test_all_kinds_of_headers_are_read(
    images: list[NDArray[np.uint8]], options: dict[str, str]
) -> None:
    """Scaling lists, several slices and delimiters stand in front of frame_num or beside it."""
    packets = list(encode_packets(images[:6], Encoding(keyint=10, options=options)))
    assert links(packets) == [KEY] + [NEXT] * 5
    assert links(packets[:2] + packets[3:]) == [KEY, NEXT, GAP, NEXT, NEXT]


def exp(*numbers: int) -> str:
    """Write Exp-Golomb numbers."""
    return "".join(f"{x + 1:b}".zfill(2 * (x + 1).bit_length() - 1) for x in numbers)


def unit(head: int, bits: str) -> bytes:
    """Write a NAL unit as Annex B, escape bytes put in."""
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    for last in (3, 2, 1, 0):  # the 3 first, or what is put in would be escaped too
        payload = payload.replace(bytes([0, 0, last]), bytes([0, 0, 3, last]))
    return b"\0\0\1" + bytes([head]) + payload


@pytest.mark.parametrize("lists", ["0" * 12, "1" + exp(1, 2) * 8 + "1" + exp(16) + "0" * 10])
@pytest.mark.parametrize("order", [exp(0, 4), exp(2), exp(1) + "1" + exp(0, 0, 2, 5, 5)])
def test_headers_that_x264_never_writes(lists: str, order: str) -> None:
    """4:4:4 in separate planes, escaped bytes, scaling lists, other picture order counts."""
    head = f"{244:08b}" + "0" * 16 + exp(63, 3) + "1" + exp(0, 0) + "0" + "1" + lists
    sets = unit(0x67, head + exp(12) + order + exp(3) + "0") + unit(0x68, exp(0, 63))

    assert b"\0\0\3" in sets

    def picture(kind: int, number: int) -> bytes:
        return unit(kind, exp(0, 5, 0) + "01" + f"{number:016b}" + "0" * 40)

    order_of = PictureOrder()
    numbers = [order_of.take(sets + picture(0x65, 0)), *[
        order_of.take(picture(0x61, x)) for x in (1, 2, 4, 5)
    ]]  # fmt: skip
    assert numbers == [KEY, NEXT, NEXT, GAP, NEXT]
    assert order_of.references == 3


def test_a_refreshing_stream_may_be_entered_at_a_recovery_point(
    images: list[NDArray[np.uint8]],
) -> None:
    """Intra refresh sends one key picture only; later entries are marked by a message."""
    encoding = Encoding(keyint=6, options={"intra-refresh": "1"})
    found = links(list(encode_packets(images, encoding)))
    assert found[0] is KEY
    assert found.count(KEY) > 1


def test_files_say_how_long_their_units_are(
    tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    """In an mp4 the parameter sets stand apart, and lengths replace the start codes."""
    path = encode_clip(images[:8], tmp_path / "clip.mp4", Encoding(references=2))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        order = PictureOrder(stream.codec_context.extradata)
        packets = [bytes(x) for x in container.demux(stream) if x.size]
    assert order.references == 2
    found = [order.take(x) for x in packets[:3] + packets[4:]]
    assert found == [KEY, NEXT, NEXT, GAP, NEXT, NEXT, NEXT]


def test_damage_never_raises(packets: list[bytes]) -> None:
    """Cut and empty packets are the decoder's business; here they are at worst a gap."""
    assert links([b"", b"\0\0\1", b"hello", b"\0\0\1\x67", b"\0\0\1\x68"])[:3] == [NONE] * 3
    for end in range(0, len(packets[0]), 7):
        order = PictureOrder()
        order.take(packets[0][:end])
        order.take(packets[1][:end])
        PictureOrder(packets[0][:end])
        PictureOrder(b"\1" + packets[0][:end])
    assert list(nal_units(b"\0\0\0\0", 4)) == []
    assert list(nal_units(b"\0\0\0\2ab\0\0\0\1", 4)) == [b"ab"]
