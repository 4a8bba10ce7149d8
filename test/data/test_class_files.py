"""Class files: what they say, and the line that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import ClassInfo, DataError
from seg_node.data.class_files import ClassFile, find_class_file

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, text: str, name: str = "classes.csv") -> ClassFile:
    """Write a class file and read it."""
    (folder / name).write_text(text)
    found = find_class_file(folder)
    assert found is not None
    return found


def test_table(tmp_path: Path) -> None:
    """Columns in any order; lines that share an id gather colours; 255 is void."""
    found = read(
        tmp_path,
        "r,g,b,name,id\n4,5,6,road,1\n1,2,3,sky,0\n7,8,9,lane mark,1\n0,0,0,nothing,255\n",
    )
    assert found.classes == (ClassInfo("sky", (1, 2, 3)), ClassInfo("road", (4, 5, 6)))
    assert found.labels.values == {0: 0, 1: 1}
    colors = {(4, 5, 6): 1, (1, 2, 3): 0, (7, 8, 9): 1, (0, 0, 0): 255}
    assert found.labels.colors == colors


def test_names(tmp_path: Path) -> None:
    """One name a line; every class gets a colour of its own for overlays."""
    found = read(tmp_path, "sky\nroad\n\ngrass\n", "classes.txt")
    assert [info.name for info in found.classes] == ["sky", "road", "grass"]
    assert len({info.color for info in found.classes}) == 3
    assert found.labels.values == {0: 0, 1: 1, 2: 2}
    assert not found.labels.colors


def test_table_goes_first_and_none_is_none(tmp_path: Path) -> None:
    """With both files the one with colours counts."""
    assert find_class_file(tmp_path) is None
    (tmp_path / "classes.txt").write_text("a\nb\n")
    found = read(tmp_path, "id,name,r,g,b\n0,road,1,2,3\n")
    assert [info.name for info in found.classes] == ["road"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,r,g\nroad,1,2\n", "lacks the columns id, b: begin it with id,name,r,g,b"),
        ("id,name,r,g,b\n0,road,1,2,green\n", "line 2: id, r, g and b must be whole numbers"),
        ("id,name,r,g,b\n0,road,1,2,3\n1,sky\n", "line 3: id, r, g and b must be whole"),
        ("id,name,r,g,b\n0,road,1,2,300\n", r"line 2: .* must be in 0\.\.255"),
        ("id,name,r,g,b\n0,road,1,2,3\n2,sky,3,4,5\n", r"has no class 1: number .* 0\.\.1"),
        ("id,name,r,g,b\n0,road,1,2,3\n1,sky,1,2,3\n", "line 3 gives colour .* a second class"),
        ("id,name,r,g,b\n0,road,1,2,3\n1,road,1,2,4\n", "names 'road' twice"),
        ("id,name,r,g,b\n", "has 0 classes"),
        ("", "lacks the columns id, name"),
    ],
)
def test_bad_table(tmp_path: Path, text: str, problem: str) -> None:
    """The error names the file, the line and the fix."""
    with pytest.raises(DataError, match=rf"classes\.csv {problem}"):
        read(tmp_path, text)


def test_bad_names(tmp_path: Path) -> None:
    """A name given twice, and a file that is no text."""
    with pytest.raises(DataError, match=r"classes\.txt names 'sky' twice"):
        read(tmp_path, "sky\nroad\nsky\n", "classes.txt")
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match=r"classes\.txt is not UTF-8 text"):
        find_class_file(tmp_path)
