"""What is told of a sqlite3 bag without its end is what can be read of it, and no more."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.sqlite_remains import describe_remains

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 24
STEP_NS = 500_000_000
PICTURE = np.random.default_rng(0).integers(1, 256, (40, 60, 3), np.uint8)
"""Larger than a page of sqlite, and without a zero."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of a bag with 24 pictures, half a second apart."""
    with BagWriter(tmp_path / "bag", storage="sqlite3") as bag:
        for index in range(COUNT):
            bag.write_image("/image", PICTURE, stamp_ns=10**18 + index * STEP_NS, frame_id="c")
    return tmp_path / "bag" / "bag.db3"


def whole(path: Path, length: int) -> int:
    """Return how many of the first messages are there to the last byte, all else zeros."""
    padded = path.with_name("padded.db3")
    padded.write_bytes(path.read_bytes().ljust(length, b"\0"))
    count = 0
    try:
        with sqlite3.connect(padded) as connection:
            for (data,) in connection.execute("SELECT data FROM messages ORDER BY id"):
                if 0 in data[-PICTURE.size :]:
                    break
                count += 1
    except sqlite3.Error:
        pass
    return count


def test_a_whole_file_is_whole(file: Path) -> None:
    assert describe_remains(file) == "24 messages of its first 11.5 s are whole"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_a_cut_file_never_promises_too_much(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    count = whole(file, len(content))
    told = describe_remains(file)
    assert count > 1
    span_s = {n: (n - 1) * STEP_NS / 1e9 for n in (count - 1, count)}
    assert told in {f"{n} messages of its first {s:.1f} s are whole" for n, s in span_s.items()}


def test_almost_nothing_left_is_told(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:9000])
    assert describe_remains(file) == "no message in it is whole"


def test_a_reader_says_it(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataError, match=r"bytes are left; repair it .*; \d+ messages of its first"
    ):
        BagReader(file)
