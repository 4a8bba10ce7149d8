"""A user's own folder: layouts, lists, class files, and files that are not what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.data.datasets import open_source
from seg_node.data.folder import Folder
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

GRASS, PATH = (0, 200, 0), (120, 90, 60)
CLASSES = "id,name,r,g,b\n0,grass,0,200,0\n1,path,120,90,60\n255,void,0,0,0\n"


def labelled(root: Path, *stems: str, value: int = 3) -> Path:
    """Write pictures with greyscale labels in `images/` and `labels/`."""
    for stem in stems:
        write_picture(root / "images" / f"{stem}.png", picture(50))
        write_picture(root / "labels" / f"{stem}.png", id_mask(value))
    return root


def names(root: Path, split: str = "val") -> list[str]:
    """Return the names of a split's samples."""
    return [sample.name for sample in Folder(root, split)]


def test_pictures_alone(tmp_path: Path) -> None:
    """Pictures come in name order at 10 Hz; a broken one is counted and keeps its time."""
    for name, value in (("c.png", 30), ("a.png", 10)):
        write_picture(tmp_path / name, picture(value))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("ignored")
    source = open_source(f"folder:{tmp_path}")
    for _ in range(2):
        samples = list(source)
        assert [s.name for s in samples] == ["a", "c"]
        assert [int(s.frame.image[0, 0, 0]) for s in samples] == [10, 30]
        assert [s.frame.stamp_ns for s in samples] == [0, 200_000_000]
        ((reason, count),) = source.skipped.items()
        assert count == 1
        assert "b.jpg is not a readable picture" in reason
    assert len(source) == 3
    assert source.classes == ()
    assert len(check(source)) == 1


def test_labels_where_they_are(tmp_path: Path) -> None:
    """A picture without a label file is an unlabelled sample, and a problem before training."""
    root = labelled(tmp_path, "b")
    write_picture(root / "images" / "a.png", picture(50))
    source = Folder(root)
    first, second = source
    assert first.labels is None
    assert second.labels is not None
    assert (second.labels == 3).all()
    assert [ref.labelled for ref in source.frames()] == [False, True]
    assert source.classes == CAMVID_CLASSES
    (problem,) = check(source)
    assert "images/a.png has no label file" in problem
    assert "labels/a.png" in problem


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (id_mask(3, marked=37), "label 37 at row 4, column 7; .* 0..10 or 255 for 11 classes"),
        (np.zeros((6, 16), np.uint8), "make them one size"),
        (np.zeros((12, 16, 3), np.uint8), "8-bit greyscale"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, labels: NDArray[np.uint8], problem: str) -> None:
    """Labels that cannot be scored are an error with the file's name, not a skipped frame."""
    root = labelled(tmp_path, "a")
    write_picture(root / "labels" / "a.png", labels)
    with pytest.raises(DataError, match=rf"labels/a\.png.*{problem}"):
        list(Folder(root))
    assert len(check(Folder(root), full=True)) == 1


def test_bad_files_are_named(tmp_path: Path) -> None:
    """Cut off, forbidden, lost since listing, without its picture."""
    root = labelled(tmp_path, "a", "b", "c")
    a, b, c = Folder(root).frames()
    cut_off(root / "labels" / "a.png")
    with pytest.raises(DataError, match=r"labels/a\.png is not a readable picture: .*cut off"):
        a.load()
    path = root / "images" / "b.png"
    with forbidden(path), pytest.raises(DataError, match=r"images/b\.png: Permission denied"):
        b.load()
    (root / "labels" / "c.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*labels/c\.png: No such file"):
        c.load()
    (root / "images" / "c.png").unlink()
    write_picture(root / "labels" / "c.png", id_mask(1))
    with pytest.raises(DataError, match=r"labels/c\.png belongs to no picture"):
        Folder(root)


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    """No pictures; pictures but no label in `labels/`; two pictures of one name."""
    with pytest.raises(DataError, match=r"holds no picture \(\.bmp"):
        open_source(f"folder:{tmp_path}")
    write_picture(tmp_path / "images" / "a.png", picture(1))
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=r"labels holds no picture \(\*\.png\)"):
        Folder(tmp_path)
    (tmp_path / "labels").rmdir()
    write_picture(tmp_path / "images" / "a.jpg", picture(1))
    with pytest.raises(DataError, match=r"images/a\.jpg and a\.png share a name"):
        Folder(tmp_path)


def test_class_file_with_colors(tmp_path: Path) -> None:
    """Colour masks are mapped by the class file, greyscale ones are ids of the same classes."""
    root = labelled(tmp_path, "a", "b", value=1)
    write_picture(root / "labels" / "b.png", color_mask(GRASS, (0, 0, 0)))
    (root / "classes.csv").write_text(CLASSES)
    source = Folder(root)
    assert [info.name for info in source.classes] == ["grass", "path"]
    ids, colors = source
    assert ids.labels is not None
    assert (ids.labels == 1).all()
    assert colors.labels is not None
    assert (colors.labels[0, 0], colors.labels[4, 7]) == (0, 255)


def test_class_file_bounds_the_labels(tmp_path: Path) -> None:
    """An id or a colour that the class file does not name is refused with its place."""
    root = labelled(tmp_path, "a", "b", value=2)
    write_picture(root / "labels" / "b.png", color_mask(PATH, (1, 2, 3)))
    (root / "classes.csv").write_text(CLASSES)
    number, color = check(Folder(root), full=True)
    assert "labels/a.png holds label 2 at row 0, column 0; expected 0..1 or 255" in number
    assert "labels/b.png holds colour (1, 2, 3) at row 4, column 7: no class has it" in color


def test_lists_split_a_folder(tmp_path: Path) -> None:
    """A list names its pictures with or without suffix; times stay those of the whole folder."""
    root = labelled(tmp_path, "a", "b", "c", "d")
    (root / "train.txt").write_text("a\nb.png\n\nd\n")
    assert names(root, "train") == ["a", "b", "d"]
    clips = Folder(root, "train").clips()
    assert [[f.name for f in clip.frames] for clip in clips] == [["a", "b"], ["d"]]
    assert clips[0].rate_hz == 10.0
    with pytest.raises(DataError, match=r"no split 'val'; lists there: \['train\.txt'\]"):
        Folder(root)
    (root / "val.txt").write_text("e\n")
    with pytest.raises(DataError, match=r"val\.txt lists 'e', which is no picture there"):
        Folder(root)
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt is empty"):
        Folder(root)


@pytest.mark.parametrize("form", ["{kind}/{split}", "{split}/{kind}"])
def test_sub_folders_split_a_folder(tmp_path: Path, form: str) -> None:
    """`images/train/` and `train/images/` are both understood, with a class file outside."""
    for split, stem in (("train", "a"), ("val", "b")):
        images = tmp_path / form.format(kind="images", split=split)
        labels = tmp_path / form.format(kind="labels", split=split)
        write_picture(images / f"{stem}.png", picture(50))
        write_picture(labels / f"{stem}.png", color_mask(PATH))
    (tmp_path / "classes.csv").write_text(CLASSES)
    assert names(tmp_path, "train") == ["a"]
    (sample,) = Folder(tmp_path, "val")
    assert sample.name == "b"
    assert sample.labels is not None
    assert (sample.labels == 1).all()
    with pytest.raises(DataError, match=r"no split 'test'; splits there: \['train', 'val'\]"):
        Folder(tmp_path, "test")
