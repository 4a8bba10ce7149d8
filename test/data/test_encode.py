"""Encoding with stated settings: what was asked for is what the stream is."""

from __future__ import annotations

from fractions import Fraction
from typing import cast, TYPE_CHECKING

import av
import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.encode import encode_clip, encode_packets, Encoding
from seg_node.data.h264 import Link, PictureOrder
from seg_node.data.street import Street
from seg_node.data.video import VideoReader

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Thirteen frames of a small street."""
    return [x.frame.image for x in Street(3, 160, 128).frames(13)]


def kinds(path: Path) -> str:
    """Return the picture types of a file, one letter each."""
    with av.open(str(path)) as container:
        return "".join(" IPB"[x.pict_type] for x in container.decode(video=0))


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_packets_are_one_per_image_with_the_keys_where_they_were_asked_for(
    codec: str, images: list[NDArray[np.uint8]]
) -> None:
    packets = list(encode_packets(images, Encoding(codec, keyint=6)))
    assert len(packets) == len(images)
    assert all(x.startswith((b"\0\0\1", b"\0\0\0\1")) for x in packets)
    decoder = cast(
        "VideoCodecContext", av.CodecContext.create({"h265": "hevc"}.get(codec, codec), "r")
    )
    pictures = [y for x in packets for y in decoder.decode(av.Packet(x))]
    pictures += decoder.decode(None)
    assert [i for i, x in enumerate(pictures) if x.key_frame] == [0, 6, 12]


def test_references_and_b_frames_are_as_asked(
    tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    order = PictureOrder()
    links = [order.take(x) for x in encode_packets(images, Encoding(references=2))]
    assert order.references == 2
    assert links[:2] == [Link.KEY, Link.NEXT]
    assert "B" not in kinds(encode_clip(images, tmp_path / "p.mp4", Encoding()))
    assert "B" in kinds(encode_clip(images, tmp_path / "b.mp4", Encoding(b_frames=2)))


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_bitrate_is_kept(codec: str, images: list[NDArray[np.uint8]]) -> None:
    """Five times the bits per second make a stream that is much larger."""
    sizes = [
        sum(map(len, encode_packets(images, Encoding(codec, rate_hz=30, bitrate_kbps=rate))))
        for rate in (100, 500)
    ]
    assert sizes[1] > 2 * sizes[0]


def test_the_codec_experiment_of_ar_seg_can_be_said(images: list[NDArray[np.uint8]]) -> None:
    """The x265 that runs writes its settings into the stream, where they can be read."""
    encoding = Encoding(
        "h265", rate_hz=30, bitrate_kbps=3000, keyint=12, options={"rect": "1", "amp": "1"}
    )
    first = next(encode_packets(images, encoding))
    assert all(
        word in first
        for word in (b" rect", b" amp", b"bframes=0", b"keyint=12", b"bitrate=3000", b"fps=30/1")
    )


def test_a_file_has_the_rate_and_the_colours(
    tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    path = encode_clip(images, tmp_path / "new" / "clip.mp4", Encoding(rate_hz=15, quality=4))
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    assert reader.rate_hz == 15
    assert frames[1].stamp_ns == round(Fraction(1_000_000_000, 15))
    assert np.abs(frames[0].image.astype(int) - images[0]).mean() < 4


def test_what_cannot_be_encoded_is_refused_by_name(tmp_path: Path) -> None:
    small = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(DataError, match="'vp9'"):
        Encoding("vp9")
    with pytest.raises(DataError, match="keyint is 0"):
        Encoding(keyint=0)
    with pytest.raises(DataError, match="image 1 of 32x16 after 16x16"):
        list(encode_packets([small, np.zeros((16, 32, 3), np.uint8)], Encoding()))
    with pytest.raises(DataError, match="even sides"):
        list(encode_packets([np.zeros((15, 16, 3), np.uint8)], Encoding()))
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\], got float64"):
        list(encode_packets([np.zeros((16, 16, 3))], Encoding()))  # type: ignore[list-item]  # the point
    with pytest.raises(DataError, match="settings"):
        list(encode_packets([small], Encoding(preset="nix")))
    with pytest.raises(DataError, match="no image"):
        encode_clip([], tmp_path / "none.mp4", Encoding())
    with pytest.raises(DataError, match=r"cannot write video .*clip\.nix"):
        encode_clip([small], tmp_path / "clip.nix", Encoding())
