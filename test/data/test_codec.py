"""Packet streams with losses: no picture that differs from the intact stream ever comes out."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.codec import stream_codec, StreamDecoder, StreamEvent, StreamState
from seg_node.data.encode import encode_packets, Encoding
from seg_node.data.h264 import nal_units
from seg_node.data.street import Street

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from seg_node.core.types import Frame

    Packets = list[tuple[int, bytes]]
    """Numbered packets of one stream."""

WAITING, LOST, RUNNING = StreamState.WAITING, StreamState.LOST, StreamState.RUNNING
KEYINT = 8
CODECS = ("h264", "h265")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Twenty-four frames of a street that moves."""
    return [x.frame.image for x in Street(3, 128, 96, 30.0).frames(24)]


@pytest.fixture(scope="module")
def streams(images: list[NDArray[np.uint8]]) -> Callable[[str], Packets]:
    """Return a function from a codec to its packets, each with its number."""
    made = {
        codec: list(enumerate(encode_packets(images, Encoding(codec, keyint=KEYINT))))
        for codec in CODECS
    }
    return made.__getitem__


def play(
    codec: str, packets: Iterable[tuple[int, bytes]], *, motion: bool = False
) -> tuple[list[Frame], list[StreamEvent], StreamDecoder]:
    """Decode packets stamped by their number."""
    events: list[StreamEvent] = []
    decoder = StreamDecoder(codec, camera="front", motion=motion, notify=events.append)
    frames = [y for i, data in packets for y in decoder.decode(data, i, "optical")]
    return frames, events, decoder


def assert_intact(frames: list[Frame], codec: str, packets: Packets) -> None:
    """Every frame is bit for bit what the intact stream shows at its stamp."""
    truth, _, _ = play(codec, packets)
    for frame in frames:
        assert np.array_equal(frame.image, truth[frame.stamp_ns].image), frame.stamp_ns


@pytest.mark.parametrize("codec", CODECS)
def test_every_packet_gives_its_frame_at_once(
    codec: str, streams: Callable[[str], Packets], images: list[NDArray[np.uint8]]
) -> None:
    decoder = StreamDecoder(codec, camera="front")
    for i, data in streams(codec):
        (frame,) = decoder.decode(data, 1000 + i, "optical")
        assert (frame.stamp_ns, frame.frame_id, frame.camera) == (1000 + i, "optical", "front")
        assert np.abs(frame.image.astype(int) - images[i]).mean() < 6
        assert frame.motion is None
    assert (decoder.counts.packets, decoder.counts.frames) == (24, 24)
    assert (decoder.counts.losses, decoder.counts.withheld) == (0, 0)


@pytest.mark.parametrize("codec", CODECS)
def test_joining_mid_stream_waits_for_a_key_picture(
    codec: str, streams: Callable[[str], Packets]
) -> None:
    frames, events, decoder = play(codec, streams(codec)[3:])
    assert [x.stamp_ns for x in frames] == list(range(8, 24))
    assert [(x.state, x.stamp_ns) for x in events] == [(WAITING, 3), (RUNNING, 8)]
    assert decoder.counts.withheld == 5
    assert_intact(frames, codec, streams(codec))


@pytest.mark.parametrize("codec", CODECS)
def test_after_a_loss_nothing_comes_until_a_key_picture(
    codec: str, streams: Callable[[str], Packets]
) -> None:
    packets = streams(codec)
    frames, events, decoder = play(codec, packets[:11] + packets[12:])
    assert [x.stamp_ns for x in frames] == [*range(11), *range(16, 24)]
    assert [(x.state, x.stamp_ns) for x in events] == [(RUNNING, 0), (LOST, 12), (RUNNING, 16)]
    assert (decoder.counts.losses, decoder.counts.withheld) == (1, 4)
    assert_intact(frames, codec, packets)


@pytest.mark.parametrize("codec", CODECS)
def test_random_losses_never_show_a_damaged_picture(
    codec: str, streams: Callable[[str], Packets]
) -> None:
    """Every pattern of losses: what comes out is intact, and what was intact comes out."""
    packets = streams(codec)
    for seed in range(12):
        rng = random.Random(seed)
        lost = {i for i, _ in packets if rng.random() < 0.12}
        frames, _, decoder = play(codec, [x for x in packets if x[0] not in lost])
        assert_intact(frames, codec, packets)
        whole = [i for i in range(24) if not lost & set(range(i - i % KEYINT, i + 1))]
        assert [x.stamp_ns for x in frames] == whole
        assert decoder.counts.packets == decoder.counts.frames + decoder.counts.withheld


@pytest.mark.parametrize("codec", CODECS)
def test_cut_and_garbled_packets_are_survived(codec: str, images: list[NDArray[np.uint8]]) -> None:
    """Bad data is told and withheld, and the stream recovers at the next key picture."""
    packets = list(enumerate(encode_packets(images[:12], Encoding(codec, keyint=KEYINT))))
    whole = packets[2][1]
    middle = len(whole) // 3
    bad = [b"", b"garbage", b"\0\0\1", bytes(500)]
    if codec == "h264":
        bad += [whole[:middle] + bytes(40) + whole[middle + 40 :], whole[:middle], whole[:-9]]
    for data in bad:
        frames, events, decoder = play(codec, [*packets[:2], (2, data), *packets[3:]])
        assert [x.stamp_ns for x in frames] == [0, 1, *range(8, 12)], data[:9]
        assert_intact(frames, codec, packets)
        assert LOST in {x.state for x in events}
        assert decoder.counts.losses >= 1


@pytest.mark.parametrize("codec", CODECS)
def test_a_key_picture_without_parameter_sets_is_no_entry(
    codec: str, streams: Callable[[str], Packets]
) -> None:
    """Until the sets have come; they may come in a packet of their own."""
    packets = streams(codec)
    units = list(nal_units(packets[8][1]))
    is_set = [(x[0] & 31 in {7, 8}) if codec == "h264" else 32 <= x[0] >> 1 <= 34 for x in units]
    joined = [
        b"".join(b"\0\0\0\1" + x for x, y in zip(units, is_set, strict=True) if y == kind)
        for kind in (True, False)
    ]
    frames, _, _ = play(codec, [(8, joined[1]), *packets[9:]])
    assert [x.stamp_ns for x in frames] == list(range(16, 24))
    frames, _, decoder = play(codec, [(7, joined[0]), (8, joined[1]), *packets[9:]])
    assert [x.stamp_ns for x in frames] == list(range(8, 24))
    assert decoder.counts.losses == 0
    # Sets between pictures disturb nothing.
    frames, _, _ = play(codec, [*packets[:3], (3, joined[0]), *packets[3:]])
    assert len(frames) == 24


@pytest.mark.parametrize("codec", CODECS)
def test_another_size_mid_stream(codec: str, streams: Callable[[str], Packets]) -> None:
    """New parameter sets and a key picture change the size; the frames follow, told once."""
    small = [x.frame.image for x in Street(1, 96, 64, 30.0).frames(6)]
    second = [(10 + i, x) for i, x in enumerate(encode_packets(small, Encoding(codec)))]
    frames, events, _ = play(codec, streams(codec)[:8] + second, motion=True)
    assert [x.image.shape[:2] for x in frames] == [(96, 128)] * 8 + [(64, 96)] * 6
    sizes = [x for x in events if x.state is StreamState.RESIZED]
    assert [(x.stamp_ns, "128x96 to 96x64" in x.text) for x in sizes] == [(10, True)]
    assert frames[8].motion is None


def test_motion_names_the_frame_before(streams: Callable[[str], Packets]) -> None:
    """Also after a loss: the first frame has none, the next one's is since that."""
    packets = streams("h264")
    frames, _, _ = play("h264", packets[:3] + packets[4:], motion=True)
    since = [x.motion and x.motion.since_ns for x in frames]
    assert since == [None, 0, 1, None, *range(8, 23)]


def test_motion_of_h265_is_refused_once(streams: Callable[[str], Packets]) -> None:
    frames, events, _ = play("h265", streams("h265"), motion=True)
    assert [x.motion for x in frames] == [None] * 24
    assert [x.state for x in events].count(StreamState.NO_MOTION) == 1


def test_an_intra_refresh_is_entered_only_when_it_is_complete(
    images: list[NDArray[np.uint8]],
) -> None:
    """Such a stream has one key picture; a column of fresh blocks wanders over the rest."""
    encoding = Encoding(keyint=6, options={"intra-refresh": "1"})
    packets = list(enumerate(encode_packets(images, encoding)))
    for kept in (packets[3:], packets[:4] + packets[5:]):
        frames, events, decoder = play("h264", kept)
        assert frames[-1].stamp_ns == 23
        assert_intact(frames, "h264", packets)
        assert events[-1].state is RUNNING
        assert events[-1].stamp_ns > 8
        assert decoder.counts.withheld >= 5
        assert decoder.counts.packets == decoder.counts.frames + decoder.counts.withheld


def test_an_intra_refresh_is_entered_at_its_start_after_any_loss(
    images: list[NDArray[np.uint8]],
) -> None:
    """Also when the packet before the entry, not needed any more, was lost."""
    encoding = Encoding(keyint=6, options={"intra-refresh": "1"})
    packets = list(enumerate(encode_packets(images, encoding)))
    whole, _, _ = play("h264", packets[:2] + packets[3:])
    holed, _, _ = play("h264", packets[:2] + packets[3:5] + packets[6:])
    assert [x.stamp_ns for x in holed] == [x.stamp_ns for x in whole]


def test_formats_as_encoder_nodes_write_them() -> None:
    for text in ("h264", "H264", "libx264", "h264_nvenc", "h264;yuv420p;bgr8;bgr8", "x264"):
        assert stream_codec(text) == "h264", text
    for text in ("h265", "hevc", "hevc_vaapi", "libx265", "hevc;nv12;rgb8;rgb8"):
        assert stream_codec(text) == "h265", text
    for text in ("", "jpeg", "rgb8; jpeg compressed bgr8", "av1", "mpeg4"):
        assert stream_codec(text) == "", text
    with pytest.raises(DataError, match="'mpeg4': use h264 or h265"):
        StreamDecoder("mpeg4")
