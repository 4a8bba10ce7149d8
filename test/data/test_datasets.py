"""Named data: what they yield, and what they say of data that cannot be used."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.bag_writer import BagWriter
from seg_node.data.datasets import (
    BagClip,
    estimate_rate,
    Folder,
    guess_spec,
    open_source,
    StreetClip,
)
from seg_node.data.image_conversion import encode_jpeg
from seg_node.data.sources import count_skip, MAX_REASONS
from seg_node.data.video import VideoWriter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

STEP_NS = 100_000_000


def picture(value: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """Return an RGB picture of one brightness, with a red pixel at row 2, column 5."""
    image = np.full((height, width, 3), value, np.uint8)
    image[2, 5] = (255, 0, 0)
    return image


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a picture file, RGB or greyscale, losslessly for PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[:, :, ::-1] if image.ndim == 3 else image
    assert cv2.imwrite(str(path), stored)


def make_camvid(root: Path, labels: NDArray[np.uint8]) -> Path:
    """Write a data set of one frame with these labels."""
    write_picture(root / "images" / "0001TP_000060.png", picture(90))
    write_picture(root / "labels" / "0001TP_000060.png", labels)
    (root / "val.txt").write_text("0001TP_000060\n")
    return root


def make_bag(path: Path, topics: dict[str, int], bad: int = 0) -> Path:
    """Write a bag with this many raw images per topic, `bad` of them of an unknown encoding."""
    with BagWriter(path) as bag:
        for topic, count in topics.items():
            for index in range(count):
                bag.write_image(
                    topic,
                    picture(10 * index),
                    stamp_ns=10**15 + index * STEP_NS,
                    frame_id="front",
                    receive_ns=10**15 + index * STEP_NS + 7,
                    encoding="32FC3" if index < bad else None,
                )
    return path


def test_camvid_yields_labels_with_void(tmp_path: Path) -> None:
    """Void 11 becomes 255, the stamp comes from the frame number at 30 Hz."""
    labels = np.full((12, 16), 10, np.uint8)
    labels[0, 3] = 11
    (sample,) = open_source(f"camvid:{make_camvid(tmp_path, labels)}")
    assert sample.labels is not None
    assert sample.labels[0, 3] == 255
    assert (sample.labels == 10).sum() == 12 * 16 - 1
    assert sample.frame.stamp_ns == 2_000_000_000
    assert tuple(sample.frame.image[2, 5]) == (255, 0, 0)


def test_camvid_label_out_of_range_names_value_and_file(tmp_path: Path) -> None:
    """A class that does not exist is refused at the edge, not in the score."""
    labels = np.zeros((12, 16), np.uint8)
    labels[4, 4] = 12
    root = make_camvid(tmp_path, labels)
    with pytest.raises(DataError, match=r"0001TP_000060\.png holds label 12 at row 4, column 4"):
        list(open_source(f"camvid:{root}"))


def test_camvid_sizes_must_agree(tmp_path: Path) -> None:
    """Labels of another size than the image are refused by name."""
    root = make_camvid(tmp_path, np.zeros((12, 15), np.uint8))
    with pytest.raises(DataError, match=r"labels/0001TP_000060\.png .* 15x12 .* of 16x12"):
        list(open_source(f"camvid:{root}"))


def test_camvid_missing_split_lists_those_there(tmp_path: Path) -> None:
    """The error says which splits there are."""
    root = make_camvid(tmp_path, np.zeros((12, 16), np.uint8))
    with pytest.raises(DataError, match=r"no split 'test'.*splits there: \['val'\]"):
        open_source(f"camvid:{root}", split="test")


def test_camvid_empty_split_is_refused(tmp_path: Path) -> None:
    """A list without a name is an error, not an empty score."""
    root = make_camvid(tmp_path, np.zeros((12, 16), np.uint8))
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no frame"):
        open_source(f"camvid:{root}")


def test_folder_skips_what_is_no_picture(tmp_path: Path) -> None:
    """Pictures come in name order at 10 Hz; a broken one is counted and keeps its time."""
    for name, value in (("c.png", 30), ("a.png", 10)):
        write_picture(tmp_path / name, picture(value))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("ignored")
    source = open_source(f"folder:{tmp_path}")
    samples = list(source)
    assert [s.name for s in samples] == ["a", "c"]
    assert [int(s.frame.image[0, 0, 0]) for s in samples] == [10, 30]
    assert [s.frame.stamp_ns for s in samples] == [0, 200_000_000]
    assert len(source) == 3
    ((reason, count),) = source.skipped.items()
    assert count == 1
    assert "b.jpg is not a readable picture" in reason


def test_folder_reads_labels_where_they_are(tmp_path: Path) -> None:
    """`labels/` beside `images/` gives labels to the pictures that have them."""
    for stem in ("a", "b"):
        write_picture(tmp_path / "images" / f"{stem}.png", picture(50))
    write_picture(tmp_path / "labels" / "b.png", np.full((12, 16), 3, np.uint8))
    first, second = Folder(tmp_path)
    assert first.labels is None
    assert second.labels is not None
    assert (second.labels == 3).all()


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (
            np.full((12, 16), 11, np.uint8),
            "label 11 at row 0, .* 0..10 or 255 for 11 classes",
        ),
        (np.zeros((6, 16), np.uint8), "make them one size"),
        (np.zeros((12, 16, 3), np.uint8), "8-bit greyscale"),
    ],
)
def test_folder_refuses_bad_labels(
    tmp_path: Path, labels: NDArray[np.uint8], problem: str
) -> None:
    """Labels that cannot be scored are an error with the file's name."""
    write_picture(tmp_path / "images" / "a.png", picture(50))
    write_picture(tmp_path / "labels" / "a.png", labels)
    with pytest.raises(DataError, match=rf"a\.png.*{problem}"):
        list(Folder(tmp_path))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without pictures names the kinds that count."""
    with pytest.raises(DataError, match=r"holds no picture \(\.bmp"):
        open_source(f"folder:{tmp_path}")


def test_street_is_labelled_and_repeats() -> None:
    """Two passes yield the same frames; every second one is the same as in a whole pass."""
    clip = StreetClip(3, count=4, size=(64, 48))
    first, again, half = list(clip), list(clip), list(clip.every(2))
    assert [s.name for s in first] == ["000000", "000001", "000002", "000003"]
    for one, other in zip(first + first[::2], again + half, strict=True):
        assert np.array_equal(one.frame.image, other.frame.image)
        assert one.labels is not None
        assert other.labels is not None
        assert np.array_equal(one.labels, other.labels)
        assert one.frame.stamp_ns == other.frame.stamp_ns
    assert clip.fingerprint() is None


def test_video_yields_every_frame(tmp_path: Path) -> None:
    """A video counts its frames and has a fingerprint."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 20.0) as video:
        for index in range(5):
            video.write(picture(40 * index, 32, 48))
    source = open_source(f"video:{path}")
    assert [s.frame.stamp_ns for s in source] == [i * 50_000_000 for i in range(5)]
    assert [s.name for s in source.every(2)] == ["000000", "000002", "000004"]
    assert not source.skipped
    assert len(str(source.fingerprint())) == 64
    assert estimate_rate(source) == pytest.approx(20.0)


def test_bag_keeps_stamps_and_receive_times(tmp_path: Path) -> None:
    """Images of a bag come with what the recorder noted."""
    source = open_source(f"bag:{make_bag(tmp_path / 'bag', {'/front/image': 3})}")
    samples = list(source)
    assert [s.frame.stamp_ns for s in samples] == [10**15 + i * STEP_NS for i in range(3)]
    assert [s.receive_ns for s in samples] == [10**15 + i * STEP_NS + 7 for i in range(3)]
    assert [int(s.frame.image[0, 0, 0]) for s in samples] == [0, 10, 20]
    assert {s.frame.frame_id for s in samples} == {"front"}
    assert len(source) == 3
    assert source.shortfall() is None
    assert estimate_rate(source) == pytest.approx(10.0)


def test_bag_counts_refused_images_by_reason(tmp_path: Path) -> None:
    """An image that cannot be used is skipped; each pass counts anew."""
    source = BagClip(make_bag(tmp_path / "bag", {"/image": 5}, bad=2))
    for _ in range(2):
        assert [s.name for s in source] == ["000002", "000003", "000004"]
        ((reason, count),) = source.skipped.items()
        assert count == 2
        assert "encoding '32FC3', 16x12" in reason


def test_bag_with_two_cameras_asks(tmp_path: Path) -> None:
    """Without a topic the candidates are listed; with one, that camera is read."""
    bag = make_bag(tmp_path / "bag", {"/left/image": 2, "/right/image": 3})
    with pytest.raises(DataError, match=r"choose one; .*/left/image .*2 messages.*/right/image"):
        open_source(f"bag:{bag}")
    assert len(list(open_source(f"bag:{bag}", topic="right/image"))) == 3
    with pytest.raises(DataError, match="no image topic '/rear'"):
        open_source(f"bag:{bag}", topic="/rear")


def test_compressed_images_of_a_sqlite_bag(tmp_path: Path) -> None:
    """JPEG messages of the older storage are read alike; a cut one is counted."""
    whole = encode_jpeg(picture(120))
    with BagWriter(tmp_path / "bag", storage="sqlite3") as bag:
        for index, data in enumerate((whole, whole[: len(whole) // 2], whole)):
            bag.write_compressed(
                "/image/compressed", data, "jpeg", stamp_ns=index + 1, frame_id="front"
            )
    source = BagClip(tmp_path / "bag")
    assert [s.name for s in source] == ["000000", "000002"]
    ((reason, count),) = source.skipped.items()
    assert count == 1
    assert "cut off" in reason


def test_topic_of_what_has_none_is_refused() -> None:
    """A topic goes with a bag only."""
    with pytest.raises(DataError, match="street:1 has no topics: leave topic '/image' out"):
        open_source("street:1", topic="/image")
    with pytest.raises(DataError, match="cannot open data 'radar:1'; name it as one of camvid"):
        open_source("radar:1")


def test_guess_spec(tmp_path: Path) -> None:
    """A bare path is a bag, a folder or a video; a named one stays."""
    bag = make_bag(tmp_path / "bag", {"/image": 1})
    bare = tmp_path / "files"
    bare.mkdir()
    (bag / "bag.mcap").rename(bare / "x.mcap")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    movie = tmp_path / "a.mov"
    movie.touch()
    assert guess_spec(str(bag)) == f"bag:{bag}"
    assert guess_spec(str(bare)) == f"bag:{bare}"
    assert guess_spec(str(bare / "x.mcap")) == f"bag:{bare / 'x.mcap'}"
    assert guess_spec(str(pictures)) == f"folder:{pictures}"
    assert guess_spec(str(movie)) == f"video:{movie}"
    assert guess_spec("street:4") == "street:4"
    with pytest.raises(DataError, match="'nowhere' does not exist"):
        guess_spec("nowhere")


def test_rate_of_one_frame_is_assumed(tmp_path: Path) -> None:
    """A single stamp, or stamps that stand still, tell no rate."""
    write_picture(tmp_path / "a.png", picture(1))
    assert estimate_rate(Folder(tmp_path)) == 10.0


def test_reasons_are_bounded() -> None:
    """A bag whose every image is broken in another way does not fill the memory."""
    skipped: Counter[str] = Counter()
    for index in range(MAX_REASONS + 30):
        count_skip(skipped, f"reason {index}")
    count_skip(skipped, "reason 0")
    assert skipped["reason 0"] == 2
    assert skipped["for other reasons"] == 30
    assert skipped.total() == MAX_REASONS + 31
