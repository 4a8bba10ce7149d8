"""Cityscapes: labelled frames, both kinds of label file, and 30-frame snippets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import DataError
from seg_node.data.cityscapes import Cityscapes
from seg_node.data.datasets import open_source
from seg_node.data.sources import check
from test.data.miniatures import id_mask, picture, write_picture

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def write_frame(
    root: Path,
    name: str,
    labels: NDArray[np.uint8],
    kind: str = "labelTrainIds",
    split: str = "val",
) -> None:
    """Write one labelled frame, such as `ulm_000001_000019`."""
    city = name.partition("_")[0]
    write_picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture(9))
    write_picture(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", labels)


def write_snippet(root: Path, city: str, sequence: int, first: int, count: int = 30) -> None:
    """Write `count` frames of a sequence, from frame `first` on."""
    folder = root / "leftImg8bit_sequence" / "val" / city
    for number in range(first, first + count):
        name = f"{city}_{sequence:06d}_{number:06d}_leftImg8bit.png"
        write_picture(folder / name, picture(number % 200))


def test_train_ids(tmp_path: Path) -> None:
    """Train ids pass, 255 is void, 19 is refused."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(18, marked=255))
    source = open_source(f"cityscapes:{tmp_path}")
    assert [info.name for info in source.classes][::18] == ["road", "bicycle"]
    (sample,) = source
    assert sample.labels is not None
    assert sample.name == "ulm_000001_000019"
    assert (sample.labels[0, 0], sample.labels[4, 7]) == (18, 255)
    write_frame(tmp_path, "ulm_000001_000019", id_mask(3, marked=19))
    with pytest.raises(DataError, match=r"labelTrainIds\.png holds label 19 .* for 19 classes"):
        list(source)


def test_label_ids_are_mapped(tmp_path: Path) -> None:
    """Without train ids: 7 is road (0), 33 bicycle (18), 4 static (void), 34 nothing."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(33, marked=4), "labelIds")
    write_frame(tmp_path, "ulm_000002_000019", id_mask(7, marked=34), "labelIds")
    good, bad = Cityscapes(tmp_path, "val").frames()
    labels = good.load().labels
    assert labels is not None
    assert (labels[0, 0], labels[4, 7]) == (18, 255)
    with pytest.raises(DataError, match=r"ulm_000002_.*holds label 34 at row 4, column 7"):
        bad.load()
    write_frame(tmp_path, "ulm_000002_000019", id_mask(7), "labelIds")
    labels = bad.load().labels
    assert labels is not None
    assert labels[0, 0] == 0


def test_snippets_surround_the_labelled_frame(tmp_path: Path) -> None:
    """30 frames at 17 Hz, index 19 labelled; those before it are its past."""
    write_frame(tmp_path, "ulm_000001_000119", id_mask(2))
    write_snippet(tmp_path, "ulm", 1, 100)
    source = Cityscapes(tmp_path, "val")
    (clip,) = source.clips()
    assert (len(clip.frames), clip.rate_hz) == (30, 17.0)
    assert [i for i, frame in enumerate(clip.frames) if frame.labelled] == [19]
    past = clip.preceding(19, 2)
    assert [x.name for x in past] == ["ulm_000001_000117", "ulm_000001_000118"]
    before, labelled = past[1].load(), clip.frames[19].load()
    assert before.labels is None
    assert int(before.frame.image[0, 0, 0]) == 118
    assert labelled.labels is not None
    assert labelled.frame.stamp_ns - before.frame.stamp_ns == pytest.approx(1e9 / 17, abs=2)
    assert before.frame.camera == labelled.frame.camera
    assert len(source) == 1
    assert check(source) == []


def test_incomplete_snippet_is_cut_and_told(tmp_path: Path) -> None:
    """A lost frame ends the clip; `check` says how many are left."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(2))
    write_snippet(tmp_path, "ulm", 1, 0)
    folder = tmp_path / "leftImg8bit_sequence" / "val" / "ulm"
    (folder / "ulm_000001_000010_leftImg8bit.png").unlink()
    source = Cityscapes(tmp_path, "val")
    assert [len(clip.frames) for clip in source.clips()] == [10, 19]
    assert "holds 29 of the 30 frames around ulm_000001_000019" in check(source)[0]


def test_without_sequences_there_are_no_clips(tmp_path: Path) -> None:
    """Labelled frames alone do not follow each other."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(2))
    assert Cityscapes(tmp_path, "val").clips() == ()


def test_test_split_has_no_labels(tmp_path: Path) -> None:
    """The label files of `test` are dummies and are not read."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(99), split="test")
    (sample,) = Cityscapes(tmp_path, "test")
    assert sample.labels is None


def test_bad_files_are_named(tmp_path: Path) -> None:
    """A missing label, a missing split, an odd name."""
    write_frame(tmp_path, "ulm_000001_000019", id_mask(2))
    (tmp_path / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelTrainIds.png").unlink()
    source = Cityscapes(tmp_path, "val")
    (problem,) = check(source)
    assert "cannot read" in problem
    assert "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png" in problem
    with pytest.raises(DataError, match=r"cannot list .*leftImg8bit/train: No such file"):
        Cityscapes(tmp_path, "train")
    write_picture(tmp_path / "leftImg8bit/val/ulm/holiday_leftImg8bit.png", picture(1))
    with pytest.raises(DataError, match=r"holiday_leftImg8bit\.png is not named <city>_"):
        Cityscapes(tmp_path, "val")
