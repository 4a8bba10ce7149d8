"""Picture files of data sets: what is read, and which file is named when it is not whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.pictures import list_folders, list_pictures, picture_size, read_image
from test.data.miniatures import cut_off, forbidden, picture, write_palette, write_picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOKS: tuple[Callable[[Path], object], ...] = (read_image, picture_size)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_picture_and_size(tmp_path: Path, suffix: str) -> None:
    """Every kind is read as RGB, and its header tells (height, width)."""
    path = write_picture(tmp_path / f"a{suffix}", picture(90, 24, 40))
    image = read_image(path)
    assert image.shape == (24, 40, 3)
    assert abs(int(image[20, 30, 0]) - 90) < 5
    assert image[2, 5, 0] > image[2, 5, 2]
    assert picture_size(path) == (24, 40)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_cut_off_file_is_named(
    tmp_path: Path, look: Callable[[Path], object], suffix: str
) -> None:
    """OpenCV shows the first half of a JPEG without an error; we do not."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    path = write_picture(tmp_path / f"a{suffix}", noise)
    cut_off(path)
    with pytest.raises(DataError, match=rf"a{suffix} is not a readable picture: .* cut off"):
        look(path)


@pytest.mark.parametrize("look", LOOKS)
def test_missing_empty_and_foreign_files_are_named(
    tmp_path: Path, look: Callable[[Path], object]
) -> None:
    """Each is another sentence, with the path in it."""
    empty, foreign = tmp_path / "empty.png", tmp_path / "foreign.png"
    empty.touch()
    foreign.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read .*gone\.png: No such file"):
        look(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"empty\.png is not a readable picture"):
        look(empty)
    with pytest.raises(DataError, match=r"foreign\.png is not a readable picture"):
        look(foreign)
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        look(tmp_path)


@pytest.mark.parametrize("look", LOOKS)
def test_forbidden_file_is_named(tmp_path: Path, look: Callable[[Path], object]) -> None:
    """A file without permission to read is an error of ours, not a traceback."""
    path = write_picture(tmp_path / "a.png", picture(1))
    with forbidden(path), pytest.raises(DataError, match=r"read .*a\.png: Permission denied"):
        look(path)


def test_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    """A PNG carries checksums: damage is told even where the decoder would show something."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = write_picture(tmp_path / "a.png", noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png .* checksum of its IDAT is wrong"):
        read_image(path)


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    """Cameras pad their buffers: a whole JPEG with a tail is whole, also at a glance."""
    path = write_picture(tmp_path / "a.jpg", picture(90, 24, 40))
    path.write_bytes(path.read_bytes() + b"\0\0\0")
    assert picture_size(path) == (24, 40)
    assert read_image(path).shape == (24, 40, 3)


def test_palette_is_shown_in_its_colours(tmp_path: Path) -> None:
    """As an image, a PNG with a palette is what the palette says."""
    path = write_palette(tmp_path / "a.png", np.full((12, 16), 3, np.uint8))
    assert tuple(read_image(path)[0, 0]) == (3, 252, 7)


def test_listing_leaves_hidden_files_out(tmp_path: Path) -> None:
    """A Mac leaves `._a.png` beside a picture; it is none."""
    for name in ("b.png", "a.jpg", "c_L.png"):
        write_picture(tmp_path / name, picture(1))
    (tmp_path / "._a.jpg").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "city").mkdir()
    assert [p.name for p in list_pictures(tmp_path)] == ["a.jpg", "b.png", "c_L.png"]
    assert [p.name for p in list_pictures(tmp_path, "_L.png")] == ["c_L.png"]
    assert [p.name for p in list_folders(tmp_path)] == ["city"]


def test_listing_names_an_empty_or_missing_folder(tmp_path: Path) -> None:
    """Nothing to list is an error with the folder's name and what should be there."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no picture \(\*_L\.png\)"):
        list_pictures(tmp_path / "empty", "_L.png")
    with pytest.raises(DataError, match=r"cannot list .*gone: No such file"):
        list_pictures(tmp_path / "gone")
    with pytest.raises(DataError, match=r"empty is empty: it should hold one folder"):
        list_folders(tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot list .*gone: No such file"):
        list_folders(tmp_path / "gone")
