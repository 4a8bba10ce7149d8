"""Bags as sources: images of one topic, masks of another, and random access."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.bag_clip import BagClip
from seg_node.data.bag_writer import BagWriter
from seg_node.data.compressed_images import encode_jpeg, encode_png
from seg_node.data.datasets import open_source
from seg_node.data.sources import check, estimate_rate, Indexed
from test.data.miniatures import id_mask, make_bag, picture, START_NS, STEP_NS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = "id,name,r,g,b\n" + "".join(f"{i},class {i},{i},0,0\n" for i in range(11))


def labelled_bag(
    path: Path,
    images: Iterable[int] = range(4),
    masks: Iterable[int] = range(4),
    *,
    mask: NDArray[np.uint8] | None = None,
    storage: Literal["mcap", "sqlite3"] = "mcap",
) -> Path:
    """Write images and, later in the bag, masks; n is frame n's stamp, its grey and its id."""
    with BagWriter(path, storage=storage) as bag:
        for topic, numbers in (("/image", images), ("/mask", masks)):
            for number in numbers:
                ids = id_mask(number) if mask is None else mask
                bag.write_image(
                    topic,
                    picture(number) if topic == "/image" else ids,
                    stamp_ns=START_NS + number * STEP_NS,
                    frame_id="front",
                    receive_ns=START_NS + number * STEP_NS + (topic == "/mask") * 10**12,
                )
    return path


def values(source: BagClip) -> list[tuple[int, int | None]]:
    """Return the grey of each image and the id of its mask."""
    return [
        (int(s.frame.image[0, 0, 0]), None if s.labels is None else int(s.labels[0, 0]))
        for s in source
    ]


def test_bag_keeps_stamps_and_receive_times(tmp_path: Path) -> None:
    """Images of a bag come with what the recorder noted."""
    source = open_source(f"bag:{make_bag(tmp_path / 'bag', {'/front/image': 3})}")
    samples = list(source)
    assert [s.frame.stamp_ns for s in samples] == [START_NS + i * STEP_NS for i in range(3)]
    assert [s.receive_ns for s in samples] == [START_NS + i * STEP_NS + 7 for i in range(3)]
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
    with pytest.raises(
        DataError, match=r"choose one \(--topic\); .*/left/image .*2 messages.*/right/image"
    ):
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


def test_masks_belong_by_stamp(tmp_path: Path) -> None:
    """Only the exactly same header stamp counts, wherever in the bag the mask lies."""
    bag = labelled_bag(tmp_path / "bag", range(5), (4, 1, 3, 9))
    source = BagClip(bag, mask_topic="/mask")
    assert source.topic.name == "/image"
    assert values(source) == [(0, None), (1, 1), (2, None), (3, 3), (4, 4)]
    assert source.without_mask == 2
    told = source.shortfall()
    assert told is not None
    assert "2 of 5 images on /image have no mask of the same stamp on /mask" in told
    assert [ref.labelled for ref in source.frames()] == [False, True, False, True, True]
    assert source.classes == ()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_frames_load_in_any_order_and_thread(
    tmp_path: Path, storage: Literal["mcap", "sqlite3"]
) -> None:
    """Jumps of every size, from several threads, give the frame that was asked for."""
    count = 100
    bag = labelled_bag(tmp_path / "bag", range(count), range(count), storage=storage)
    source = open_source(f"bag:{bag}", topic="image", mask_topic="mask")
    assert isinstance(source, Indexed)
    frames = source.frames()
    order = [int(i) for i in np.random.default_rng(0).permutation(count)] + [0, 1, 2, 99, 99, 98]
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(lambda index: frames[index].load(), order))
    for index, sample in zip(order, samples, strict=True):
        assert sample.labels is not None
        assert int(sample.frame.image[0, 0, 0]) == index
        assert int(sample.labels[0, 0]) == index
        assert sample.name == frames[index].name == f"{index:06d}"
        assert sample.frame.stamp_ns == frames[index].stamp_ns
        assert sample.receive_ns == START_NS + index * STEP_NS


def test_clips_are_cut_where_images_are_missing(tmp_path: Path) -> None:
    """A lost image ends the clip, without any picture being decoded."""
    bag = make_bag(tmp_path / "bag", {"/image": 3}, bad=3)
    assert [len(clip.frames) for clip in BagClip(bag).clips()] == [3]
    bag = labelled_bag(tmp_path / "gap", (0, 1, 2, 5, 6), ())
    clips = BagClip(bag, "/image").clips()
    assert [[int(f.name) for f in clip.frames] for clip in clips] == [[0, 1, 2], [3, 4]]
    assert {clip.rate_hz for clip in clips} == {10.0}


def test_class_file_names_and_bounds_the_ids(tmp_path: Path) -> None:
    """With a class file in the bag's folder, label 37 of 11 classes is refused."""
    bag = labelled_bag(tmp_path / "bag", (0,), (0,), mask=id_mask(3, marked=37))
    (sample,) = BagClip(bag, mask_topic="/mask")
    assert sample.labels is not None
    assert sample.labels[4, 7] == 37
    (bag / "classes.csv").write_text(CLASSES)
    source = BagClip(bag, mask_topic="/mask")
    assert len(source.classes) == 11
    problem = r"mask of stamp 10{15} ns on /mask in bag .*holds label 37 at row 4, column 7"
    with pytest.raises(DataError, match=problem):
        list(source)
    assert check(source) == []
    assert len(check(source, full=True)) == 1


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    """Colours, another size, no common stamp, two for one image, no such topic."""
    colored = labelled_bag(tmp_path / "colored", (0,), (0,), mask=picture(9))
    with pytest.raises(DataError, match=r"/mask .*has encoding 'rgb8': publish .* 8UC1 or mono8"):
        list(BagClip(colored, "/image", "/mask"))
    small = labelled_bag(tmp_path / "small", (0,), (0,), mask=np.zeros((6, 8), np.uint8))
    with pytest.raises(DataError, match=r"/mask .*is 8x6 for an image of 16x12"):
        list(BagClip(small, "/image", "/mask"))
    apart = labelled_bag(tmp_path / "apart", (0, 1), (2, 3))
    with pytest.raises(DataError, match=r"no image on /image has a mask of exactly its header"):
        BagClip(apart, mask_topic="/mask")
    twice = labelled_bag(tmp_path / "twice", (0, 1), (0, 1, 1))
    with pytest.raises(DataError, match="has two masks of stamp 1000000100000000 on /mask"):
        BagClip(twice, mask_topic="/mask")
    with pytest.raises(DataError, match="no image topic '/masks'"):
        BagClip(twice, mask_topic="/masks")


def test_compressed_masks(tmp_path: Path) -> None:
    """A PNG of ids is a mask; a JPEG blends ids and is refused."""
    for name, data in (("png", encode_png(id_mask(5))), ("jpeg", encode_jpeg(id_mask(5)))):
        with BagWriter(tmp_path / name) as bag:
            bag.write_image("/image", picture(1), stamp_ns=7, frame_id="front")
            bag.write_compressed("/mask/compressed", data, name, stamp_ns=7, frame_id="front")
    (sample,) = BagClip(tmp_path / "png", mask_topic="/mask/compressed")
    assert sample.labels is not None
    assert (sample.labels == 5).all()
    with pytest.raises(DataError, match=r"mask of stamp 7 ns .* is a JPEG, which blends"):
        list(BagClip(tmp_path / "jpeg", mask_topic="/mask/compressed"))


def test_image_that_cannot_be_used_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A pass skips it; asked for by itself it says why."""
    source = BagClip(make_bag(tmp_path / "bag", {"/image": 3}, bad=1))
    broken, whole, _ = source.frames()
    with pytest.raises(DataError, match="encoding '32FC3'"):
        broken.load()
    assert whole.load().name == "000001"
