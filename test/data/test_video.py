"""Video files: colours, stamps, sizes, rotation and damage."""

from __future__ import annotations

from fractions import Fraction
import itertools
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.encode import encode_clip, Encoding
from seg_node.data.street import Street
from seg_node.data.video import VideoReader, VideoWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RNG = np.random.default_rng(3)


def noise(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Return a picture that compresses badly, so that a file has some length."""
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_clip(path: Path, count: int = 12, rate_hz: float = 25.0) -> Path:
    """Write `count` noisy frames."""
    with VideoWriter(path, rate_hz) as writer:
        for _ in range(count):
            writer.write(noise())
    return path


def write_ramp(path: Path, pix_fmt: str, color_range: int) -> None:
    """Encode one grey ramp of luma 0..255 without going through RGB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, pix_fmt
        stream.codec_context.color_range = color_range
        picture = av.VideoFrame(256, 64, pix_fmt)
        picture.color_range = color_range
        picture.planes[0].update(np.tile(np.arange(256, dtype=np.uint8), (64, 1)).tobytes())
        for plane in picture.planes[1:]:
            plane.update(bytes([128]) * plane.buffer_size)
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def read_all(path: Path) -> list[NDArray[np.uint8]]:
    """Return the images of a file."""
    with VideoReader(path) as reader:
        return [x.image for x in reader.frames()]


def test_colours_and_orientation_survive_a_round_trip(tmp_path: Path) -> None:
    """A marked corner stays where it is, and red stays red."""
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:16, :32] = (220, 30, 40)
    with VideoWriter(tmp_path / "clip.mp4", 10.0, quality=5) as writer:
        writer.write(image)
        writer.write(image)
    with VideoReader(tmp_path / "clip.mp4") as reader:
        frames = list(reader.frames())
    assert (reader.rate_hz, reader.width, reader.height, reader.frame_count) == (10.0, 96, 64, 2)
    assert [x.camera for x in frames] == ["clip", "clip"]
    assert frames[0].frame_id == "camera"
    assert np.abs(frames[0].image[4:12, 4:28].astype(int) - (220, 30, 40)).max() < 6
    assert np.abs(frames[0].image[24:, 40:].astype(int) - 60).max() < 6


@pytest.mark.parametrize(("pix_fmt", "color_range"), [("yuvj420p", 2), ("yuv420p", 2)])
def test_full_range_is_not_stretched_again(tmp_path: Path, pix_fmt: str, color_range: int) -> None:
    """A full-range grey of luma y is the grey y."""
    write_ramp(tmp_path / "ramp.mp4", pix_fmt, color_range)
    row = read_all(tmp_path / "ramp.mp4")[0][32].astype(int)
    assert np.abs(row - np.arange(256)[:, None]).max() <= 2


def test_limited_range_is_stretched(tmp_path: Path) -> None:
    """Luma 16..235 becomes 0..255."""
    write_ramp(tmp_path / "ramp.mp4", "yuv420p", 1)
    row = read_all(tmp_path / "ramp.mp4")[0][32].astype(int)
    expected = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255)
    assert np.abs(row - expected[:, None]).max() <= 2


@pytest.mark.parametrize("size", [(64, 96), (63, 96), (64, 95), (63, 95), (1, 1)])
def test_odd_sizes_get_one_more_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    """H.264 has even sides; the added line repeats its neighbour."""
    with VideoWriter(tmp_path / "odd.mp4", 25) as writer:
        writer.write(np.full((*size, 3), 200, np.uint8))
    image = read_all(tmp_path / "odd.mp4")[0]
    assert image.shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.abs(image.astype(int) - 200).max() <= 3


def test_stamps_follow_the_rate(tmp_path: Path) -> None:
    """NTSC's rate comes back exactly and stamps grow by its period."""
    path = write_clip(tmp_path / "clip.mp4", 5, 30000 / 1001)
    with VideoReader(path) as reader:
        stamps = [x.stamp_ns for x in reader.frames()]
    assert reader.rate_hz == 30000 / 1001
    assert stamps == [round(Fraction(1001 * i, 30000) * 1_000_000_000) for i in range(5)]


def test_stamps_without_container_times_grow(tmp_path: Path) -> None:
    """A raw H.264 stream has no times; frames still get growing stamps."""
    path = write_clip(tmp_path / "clip.mp4", 5)
    raw = tmp_path / "clip.h264"
    with av.open(str(path)) as source, av.open(str(raw), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with VideoReader(raw) as reader:
        stamps = [x.stamp_ns for x in reader.frames()]
    assert len(stamps) == 5
    assert all(b > a for a, b in itertools.pairwise(stamps))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_honoured(tmp_path: Path, degrees: int) -> None:
    """A phone's display matrix turns the picture, as OpenCV turns it."""
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:16, :32] = 220
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        turned = next(reader.frames()).image
    capture = cv2.VideoCapture(str(path))
    _, expected = capture.read()
    capture.release()
    assert (reader.height, reader.width) == turned.shape[:2] == expected.shape[:2]
    assert np.abs(turned.astype(int) - expected[:, :, ::-1]).max() < 6


def test_a_cut_off_file_yields_what_decodes(tmp_path: Path) -> None:
    """Frames and damage add up to what the container promised."""
    path = write_clip(tmp_path / "clip.mp4", 20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with VideoReader(path) as reader:
        count = sum(1 for _ in reader.frames())
        assert 0 < count < 20
        assert reader.damaged == 20 - count
        assert sum(1 for _ in reader.frames()) == count, "a second pass starts over"
        assert reader.damaged == 20 - count


def test_an_intact_file_has_no_damage(tmp_path: Path) -> None:
    """Nothing is counted where nothing is lost, also after a pass that stopped early."""
    with VideoReader(write_clip(tmp_path / "clip.mp4")) as reader:
        next(reader.frames())
        assert sum(1 for _ in reader.frames()) == 12
        assert reader.damaged == 0


def test_overwritten_bytes_are_counted(tmp_path: Path) -> None:
    """Damage in the middle loses a frame, not the file."""
    path = write_clip(tmp_path / "clip.mp4", 20)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 4000] = bytes(4000)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        count = sum(1 for _ in reader.frames())
    assert 10 <= count < 20
    assert reader.damaged == 20 - count


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 400, RNG.bytes(5000), b"\0" * 5000])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    """Neither text nor noise is a video."""
    path = tmp_path / "garbage.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"garbage\.mp4"):
        VideoReader(path)


@pytest.mark.parametrize("kept", [100, 1500])
def test_a_file_without_frames_is_refused(tmp_path: Path, kept: int) -> None:
    """Cut inside or right after its index, nothing of it can be shown."""
    path = write_clip(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"clip\.mp4"):
        VideoReader(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(DataError, match=r"gone\.mp4"):
        VideoReader(tmp_path / "gone.mp4")
    with pytest.raises(DataError, match="cannot open video"):
        VideoReader(tmp_path)


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    """A sound file says so."""
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="no video stream, only: audio"):
        VideoReader(path)


def test_a_file_survives_an_exception(tmp_path: Path) -> None:
    """Ctrl-C leaves a file that plays."""
    path = tmp_path / "run.mp4"

    def record() -> None:
        with VideoWriter(path, 25) as writer:
            for _ in range(4):
                writer.write(noise())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert len(read_all(path)) == 4


def test_the_index_comes_first(tmp_path: Path) -> None:
    """A browser can start before it has the whole file."""
    data = write_clip(tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    """Sizes, types, names and rates are checked; without a frame no file appears."""
    with VideoWriter(tmp_path / "new" / "a.mp4", 25) as writer:
        assert not writer.path.exists()
        with pytest.raises(DataError, match="uint8"):
            writer.write(np.zeros((4, 4), np.uint8))
        writer.write(noise())
        with pytest.raises(DataError, match="has 96x64 frames, got 64x64"):
            writer.write(noise(64, 64))
    assert len(read_all(tmp_path / "new" / "a.mp4")) == 1
    with pytest.raises(DataError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.avi", 25)
    with pytest.raises(DataError, match="0 Hz"):
        VideoWriter(tmp_path / "a.mp4", 0)
    with VideoWriter(tmp_path / "none.mp4", 25):
        pass
    assert not (tmp_path / "none.mp4").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write"):
        VideoWriter(tmp_path / "file" / "a.mp4", 25).write(noise())


def street_images(count: int) -> list[NDArray[np.uint8]]:
    """Return frames of a street that moves."""
    return [x.frame.image for x in Street(3, 160, 96, 30.0).frames(count)]


def test_frames_carry_motion_when_asked(tmp_path: Path) -> None:
    """The flow leads to the frame before, whose stamp it names; by default there is none."""
    path = encode_clip(street_images(8), tmp_path / "clip.mp4", Encoding(quality=8))
    with VideoReader(path) as reader:
        assert [x.motion for x in reader.frames()] == [None] * 8
        frames = list(reader.frames(motion=True))
    assert frames[0].motion is None
    for before, frame in itertools.pairwise(frames):
        motion = frame.motion
        assert motion is not None
        assert motion.since_ns == before.stamp_ns
        row, column = np.indices(motion.valid.shape, dtype=np.float32)
        x, y = column + motion.flow[..., 0], row + motion.flow[..., 1]
        moved = cv2.remap(before.image, x, y, cv2.INTER_LINEAR)
        moved_error = cv2.absdiff(moved, frame.image)[motion.valid].mean()
        assert moved_error < 0.6 * cv2.absdiff(before.image, frame.image)[motion.valid].mean()


@pytest.mark.parametrize("encoding", [Encoding("h265"), Encoding(b_frames=2)])
def test_without_usable_vectors_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: Encoding
) -> None:
    path = encode_clip(street_images(8), tmp_path / "clip.mp4", encoding)
    with VideoReader(path) as reader:
        assert [x.motion for x in reader.frames(motion=True)][3:] == [None] * 5
    (record,) = caplog.records
    assert "clip.mp4: frames carry no codec motion" in record.message


def test_no_motion_reaches_over_a_lost_picture(tmp_path: Path) -> None:
    """The decoder shows what follows a missing packet without a word; its motion is dropped."""
    path = encode_clip(street_images(9), tmp_path / "clip.mp4", Encoding())
    cut = tmp_path / "cut.mp4"
    with av.open(str(path)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size and index != 4:
                packet.stream = stream
                target.mux(packet)
    with VideoReader(cut) as reader:
        frames = list(reader.frames(motion=True))
    assert [x.motion is None for x in frames] == [True, *[False] * 3, True, *[False] * 3]
    assert frames[5].motion is not None
    assert frames[5].motion.since_ns == frames[4].stamp_ns


def write_encoded(path: Path, codec: str, count: int) -> None:
    """Write a moving clip with one key picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "99", "bf": "0", "refs": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for image in street_images(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("codec", "part"), [("libx264", 0.5), ("libx264", 0.0), ("mpeg4", 0.0), ("mpeg4", 0.5)]
)
def test_no_motion_reaches_over_damage(tmp_path: Path, codec: str, part: float) -> None:
    """A frame after one that was not shown has no motion, wherever in it the damage lies."""
    path = tmp_path / "clip.mp4"
    write_encoded(path, codec, 10)
    with VideoReader(path) as reader:
        stamps = [x.stamp_ns for x in reader.frames()]
    with av.open(str(path)) as container:
        packet = [x for x in container.demux(video=0) if x.size][5]
    assert packet.pos is not None
    start = packet.pos + int(packet.size * part)
    data = bytearray(path.read_bytes())
    data[start : start + 60] = bytes(60)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        frames = list(reader.frames(motion=True))
        assert reader.damaged > 0
    shown = [stamps.index(x.stamp_ns) for x in frames]
    assert shown[:5] == [0, 1, 2, 3, 4]
    assert 5 not in shown
    assert [frames[i].motion is None for i in (0, 1, 4, 5)] == [True, False, False, True]
    for before, frame in itertools.pairwise(frames):
        assert frame.motion is None or frame.motion.since_ns == before.stamp_ns


def test_motion_is_turned_with_the_picture(tmp_path: Path) -> None:
    """A phone that lies on its side: what moved along x moves along y."""
    wide = np.random.default_rng(0).integers(0, 256, (24, 48, 1), np.uint8)
    wide = wide.repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        options = {"bf": "0", "refs": "1", "g": "50"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.set_display_rotation(90)
        for shift in (0, 4, 8):  # the picture moves 4 to the left
            image = np.ascontiguousarray(wide[:, shift : shift + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        frames = list(reader.frames(motion=True))
    motion = frames[2].motion
    assert motion is not None
    assert motion.flow.shape == (*frames[2].image.shape[:2], 2) == (160, 96, 2)
    up = frames[1].image.astype(int), frames[2].image.astype(int)
    flow = np.median(motion.flow[motion.valid], axis=0)
    shifted = np.roll(up[0], (-round(flow[1]), -round(flow[0])), axis=(0, 1))
    assert abs(flow[1]) == 4
    assert flow[0] == 0
    assert np.abs(shifted - up[1])[20:-20].mean() < 5
