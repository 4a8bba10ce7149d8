"""Names of data: which source they open, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import DataError
from seg_node.data.datasets import (
    estimate_rate,
    Folder,
    guess_spec,
    open_source,
    SOURCE_KINDS,
)
from test.data.miniatures import forbidden, id_mask, make_bag, picture, write_picture

if TYPE_CHECKING:
    from pathlib import Path


def test_topic_of_what_has_none_is_refused() -> None:
    """Topics go with a bag only; an unknown kind lists those that there are."""
    with pytest.raises(DataError, match="street:1 has no topics: leave topic '/image' out"):
        open_source("street:1", topic="/image")
    with pytest.raises(DataError, match="street:1 has no topics: leave topic '/mask' out"):
        open_source("street:1", mask_topic="/mask")
    with pytest.raises(DataError, match="cannot open data 'radar:1'; name it as one of camvid"):
        open_source("radar:1")


@pytest.mark.parametrize("kind", [x.partition(":")[0] for x in SOURCE_KINDS if "DIR" in x])
def test_every_kind_names_a_folder_that_is_not_there(tmp_path: Path, kind: str) -> None:
    """Each kind is known, and says which path it looked at."""
    with pytest.raises(DataError, match=f"{tmp_path / 'gone'}"):
        open_source(f"{kind}:{tmp_path / 'gone'}")


def test_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    """A folder without permission is an error of ours, not a traceback."""
    write_picture(tmp_path / "images" / "a.png", picture(1))
    for kind in ("folder", "camvid", "mapillary"):
        with forbidden(tmp_path), pytest.raises(DataError, match="Permission denied"):
            open_source(f"{kind}:{tmp_path}")


def test_split_reaches_the_data(tmp_path: Path) -> None:
    """The default split is val."""
    for split in ("train", "val"):
        write_picture(tmp_path / split / "images" / f"{split}.png", picture(1))
        write_picture(tmp_path / split / "labels" / f"{split}.png", id_mask(1))
    assert [x.name for x in open_source(f"folder:{tmp_path}", split="train")] == ["train"]
    assert [x.name for x in open_source(f"folder:{tmp_path}")] == ["val"]


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
    assert guess_spec("camvid12:x") == "camvid12:x"
    with pytest.raises(DataError, match="'nowhere' does not exist"):
        guess_spec("nowhere")


def test_rate_of_one_frame_is_assumed(tmp_path: Path) -> None:
    """A single stamp, or stamps that stand still, tell no rate."""
    write_picture(tmp_path / "a.png", picture(1))
    assert estimate_rate(Folder(tmp_path)) == 10.0
