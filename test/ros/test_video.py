"""Compressed video into a real node: losses, a start mid-stream, overload, a real clip.

The node is the real one, but its `Segmenter.step` notes what motion each frame has, and waits
while the file HOLD exists.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import av
import numpy as np
import pytest

from seg_node.core.types import ConfigError, ImageError
from seg_node.data.codec import StreamDecoder
from seg_node.data.encode import encode_packets, Encoding
from seg_node.data.street import Street
from test.ros.rig import pixels_of, Rig, ROOT, set_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from seg_node.core.pipeline import Segmenter
    from seg_node.core.types import Frame
    from test.ros.rig import Client, NodeProcess

KEYINT = 10
CHUNK = 20
"""Packets sent at once; the node's subscription holds 64."""

DASH_CAM = ROOT.parent / "shared" / "data" / "video" / "udacity_solidWhiteRight.mp4"

PROGRAM = """\
import os, pathlib, sys, time
from seg_node.core import pipeline
from seg_node.ros import node

folder = pathlib.Path(os.environ["TEST_FOLDER"])
step = pipeline.Segmenter.step

def noting(self, frame, *more):
    if frame.camera.endswith("compressed"):
        since = frame.motion.since_ns if frame.motion else None
        with (folder / "motion").open("a") as file:
            print(frame.stamp_ns, since, file=file)
        (folder / "BUSY").touch()
        while (folder / "HOLD").exists():
            time.sleep(0.01)
    return step(self, frame, *more)

pipeline.Segmenter.step = noting
sys.exit(node.main())
"""

PARAMETERS = """\
/**:
  ros__parameters:
    mode: dense
    input.transport: compressed
    input.stale_s: 600.0
    qos_overrides:
      /film/image/compressed:
        subscription:
          reliability: reliable
"""


# ---- messages, without a node -------------------------------------------------------------------


def stamp(nanosec: int = 7) -> Any:
    return SimpleNamespace(sec=2, nanosec=nanosec)


def header(nanosec: int = 7) -> Any:
    return SimpleNamespace(stamp=stamp(nanosec), frame_id="optical")


def test_all_three_kinds_of_message_are_read() -> None:
    """The fields are those of the messages; their packages need not be installed."""
    pytest.importorskip("rclpy")
    from seg_node.ros.inputs import is_video, packet_of  # noqa: PLC0415 - only where there is ROS

    ffmpeg = {"width": 8, "height": 6, "pts": 3, "flags": 1, "is_bigendian": False}
    for message, codec in (
        (SimpleNamespace(header=header(), format="h264", data=b"abc"), "h264"),
        (SimpleNamespace(header=header(), encoding="hevc;nv12", data=b"abc", **ffmpeg), "h265"),
        (
            SimpleNamespace(timestamp=stamp(), frame_id="optical", format="h265", data=b"abc"),
            "h265",
        ),
    ):
        assert is_video(message)
        packet = packet_of(message)
        assert (packet.codec, packet.data, packet.frame_id) == (codec, b"abc", "optical")
        assert packet.stamp_ns == 2_000_000_007
    assert not is_video(SimpleNamespace(header=header(), format="rgb8; jpeg compressed bgr8"))
    assert not is_video(SimpleNamespace(header=header(), encoding="rgb8"))
    foreign = SimpleNamespace(timestamp=stamp(), frame_id="", format="vp9", data=b"")
    with pytest.raises(ImageError, match=r"'vp9'.*encode h264 or h265"):
        packet_of(foreign, "/film")
    with pytest.raises(ImageError, match="is not a time"):
        packet_of(SimpleNamespace(header=header(-1), format="h264", data=b""))


@pytest.mark.parametrize("transport", ["ffmpeg", "foxglove"])
def test_messages_of_other_packages_are_used_where_they_are(transport: str) -> None:
    """Where they are not, the refusal names the package to install."""
    pytest.importorskip("rclpy")
    from seg_node.ros.image_topics import message_type, topic_of, transport_of, TYPES  # noqa: PLC0415

    package = TYPES[transport].partition("/")[0]
    try:
        made = message_type(transport)
    except ConfigError as error:
        assert f"ros-$ROS_DISTRO-{package.replace('_', '-')}" in str(error)  # noqa: PT017 - either
    else:
        assert made.__name__ == TYPES[transport].rpartition("/")[2]
    assert transport_of(TYPES[transport]) == transport
    assert topic_of("/front/image", transport) == f"/front/image/{transport}"
    assert topic_of(f"/front/{transport}", transport) == f"/front/{transport}"


# ---- a node -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the node's program watches."""
    path = tmp_path_factory.mktemp("film")
    (path / "film.yaml").write_text(PARAMETERS)
    return path


@pytest.fixture(scope="module")
def film_rig(
    client: Client, start_node: Callable[..., NodeProcess], folder: Path
) -> Iterator[Rig]:
    """Return a node for compressed video."""
    args = ("-r", "__ns:=/film", "--params-file", str(folder / "film.yaml"))
    rig = Rig(
        client,
        lambda: start_node(*args, program=PROGRAM, TEST_FOLDER=str(folder)),
        "/film/segmentation",
        "/film/image",
    )
    yield rig
    rig.close()


@pytest.fixture
def film(film_rig: Rig, folder: Path) -> Iterator[Rig]:
    """Return the node, freshly active, which knows no stream yet."""
    (folder / "motion").write_text("")
    film_rig.bring_to("inactive")
    film_rig.bring_to("active")
    yield film_rig
    (folder / "HOLD").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def street_packets() -> list[bytes]:
    """A hundred frames of a street, a key picture every tenth."""
    images = (x.frame.image for x in Street(3, 128, 96, 30.0).frames(100))
    return list(encode_packets(images, Encoding(keyint=KEYINT)))


def stamped(rig: Rig, packets: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Give each packet a stamp of its own, a thirtieth of a second apart."""
    first = rig.next_stamp()
    return [(first + i * 33_333_333, data) for i, data in enumerate(packets)]


def decoded(packets: Sequence[tuple[int, bytes]]) -> dict[int, Frame]:
    """Return the frames that these packets give, with their motion, by stamp."""
    decoder = StreamDecoder("h264", motion=True)
    return {x.stamp_ns: x for stamp_ns, data in packets for x in decoder.decode(data, stamp_ns)}


def send(rig: Rig, packets: Sequence[tuple[int, bytes]], text: str = "h264") -> None:
    """Publish packets and return when the node has them."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415 - only where there is ROS

    for stamp_ns, data in packets:
        message = CompressedImage(format=text)
        message.data.frombytes(data)
        rig.send(set_header(message, stamp_ns, "optical"))
    rig.client.wait_until_delivered(f"{rig.image}/compressed")


def await_masks(rig: Rig, stamps: Sequence[int]) -> None:
    """Return when there is a mask of every stamp."""
    rig.client.wait_for(lambda: all(rig.mask(x) for x in stamps), f"{len(stamps)} masks")


def since_of(folder: Path) -> dict[int, int | None]:
    """Return the stamp that each frame's motion was since."""
    lines = [line.split() for line in (folder / "motion").read_text().splitlines()]
    return {int(a): None if b == "None" else int(b) for a, b in lines}


@pytest.mark.ros
def test_a_stream_with_losses_that_is_joined_midway(
    film: Rig, folder: Path, street_packets: list[bytes], segmenter: Segmenter
) -> None:
    """A mask for every whole picture, none between a loss and the next key picture."""
    rng = random.Random(5)  # loses two key pictures and another
    packets = stamped(film, street_packets)
    kept = [x for i, x in enumerate(packets) if i >= 4 and rng.random() >= 0.01]
    lost = 96 - len(kept)
    frames = decoded(kept)
    assert 0 < lost < 4
    assert len(frames) < len(kept) - 6
    with film.setting("overload", "every"):
        for start in range(0, len(kept), CHUNK):
            chunk = kept[start : start + CHUNK]
            send(film, chunk)
            await_masks(film, [t for t, _ in chunk if t in frames])
        status = film.wait_status("input", lambda x: x.count("video_packets") == len(kept))
    assert {t for t, _ in packets if film.mask(t)} == set(frames)
    for frame in list(frames.values())[::12]:
        mask = film.mask(frame.stamp_ns)
        assert mask.header.frame_id == "optical"
        np.testing.assert_array_equal(pixels_of(mask), segmenter.step(frame).labels)
    assert status.count("video_losses") == lost
    assert status.count("video_withheld") == len(kept) - len(frames)
    assert since_of(folder) == {t: x.motion and x.motion.since_ns for t, x in frames.items()}


@pytest.mark.ros
def test_diagnostics_say_that_and_why_no_pictures_come(
    film: Rig, street_packets: list[bytes]
) -> None:
    packets = stamped(film, street_packets[: 2 * KEYINT])
    send(film, packets[5:7])
    status = film.wait_status("input", lambda x: x.level == "WARN")
    assert "joined between two key pictures" in status.text
    send(film, packets[KEYINT : KEYINT + 2])
    film.client.wait_for(lambda: film.mask(packets[KEYINT + 1][0]), "a mask")
    assert film.wait_status("input", lambda x: x.level == "OK").count("video_frames") == 2
    send(film, packets[KEYINT + 3 : KEYINT + 5])
    status = film.wait_status("input", lambda x: x.level == "WARN")
    assert "a packet is missing: waiting for the next key picture" in status.text
    send(film, packets[:1])
    film.client.wait_for(lambda: film.mask(packets[0][0]), "a mask")
    assert film.process is not None
    assert "pictures of 128x96 come again" in film.process.text


@pytest.mark.ros
def test_overtaken_frames_are_decoded_and_their_motion_is_joined(
    film: Rig, folder: Path, street_packets: list[bytes], segmenter: Segmenter
) -> None:
    """The newest frame of those that came during a step is whole, and says since when it moved."""
    packets = stamped(film, street_packets[:8])
    frames = decoded(packets)
    (folder / "HOLD").touch()
    (folder / "BUSY").unlink(missing_ok=True)
    send(film, packets[:1])
    film.client.wait_for((folder / "BUSY").exists, "the step to begin")
    send(film, packets[1:])
    film.wait_status("input", lambda x: x.count("received") == 8)
    (folder / "HOLD").unlink()
    newest = packets[-1][0]
    film.client.wait_for(lambda: film.mask(newest), "the newest mask")
    assert [t for t, _ in packets if film.mask(t)] == [packets[0][0], newest]
    mask = pixels_of(film.mask(newest))
    np.testing.assert_array_equal(mask, segmenter.step(frames[newest]).labels)
    assert int(film.stats(newest)["dropped"]) == 6
    assert since_of(folder) == {packets[0][0]: None, newest: packets[0][0]}


@pytest.mark.ros
def test_another_codec_is_refused_by_name(film: Rig) -> None:
    send(film, [(film.next_stamp(), b"\0\0\1abc")], "vp9")
    status = film.wait_status("input", lambda x: x.count("refused") == 1)
    assert "'vp9'" in status.text


@pytest.mark.ros
def test_a_real_dash_cam_clip_comes_through_with_its_vectors(film: Rig, folder: Path) -> None:
    if not DASH_CAM.is_file():
        pytest.skip(f"needs {DASH_CAM.name} in ../shared/data/video")
    with av.open(str(DASH_CAM)) as container:
        stream = container.streams.video[0]
        annex_b = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [bytes(y) for x in container.demux(stream) if x.size for y in annex_b.filter(x)]
    sent = stamped(film, packets[:8])
    with film.setting("overload", "every"), film.setting("input.scale", 0.5):
        send(film, sent)
        await_masks(film, [t for t, _ in sent])
    assert (film.mask(sent[0][0]).width, film.mask(sent[0][0]).height) == (960, 540)
    since = since_of(folder)
    assert [since[t] for t, _ in sent] == [None, *[t for t, _ in sent[:-1]]]
