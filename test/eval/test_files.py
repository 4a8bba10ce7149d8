"""Files are written whole or not at all, and what the disk refuses is one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import DataError
from seg_node.eval.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_text_and_bytes_are_written_into_a_new_folder(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", "mü\n")
    write_whole(tmp_path / "a" / "c.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"m\xc3\xbc\n"
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\xff"
    assert sorted(x.name for x in (tmp_path / "a").iterdir()) == ["b.txt", "c.bin"]


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_whole(file, "old")
    (tmp_path / "page.html.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"^cannot write .*page\.html: No space left on device$"):
        write_whole(file, "new")
    assert file.read_text() == "old"
