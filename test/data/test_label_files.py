"""Label pictures: ids, colours and palettes, and what means no class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.label_files import ids, LabelFormat
from test.data.miniatures import (
    color_mask,
    cut_off,
    id_mask,
    picture,
    write_palette,
    write_picture,
)

if TYPE_CHECKING:
    from pathlib import Path

RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)
COLORS = LabelFormat(colors={RED: 0, BLUE: 1, BLACK: 255})


def test_ids_pass_and_void_stays(tmp_path: Path) -> None:
    """Greyscale values are ids; 255 needs no mention."""
    path = write_picture(tmp_path / "a.png", id_mask(3, marked=255))
    labels = ids(11).read(path)
    assert labels.dtype == np.uint8
    assert labels[4, 7] == 255
    assert (labels == 3).sum() == 12 * 16 - 1


def test_values_are_mapped(tmp_path: Path) -> None:
    """A stored value may stand for another class, or for void."""
    path = write_picture(tmp_path / "a.png", id_mask(7, marked=4))
    labels = LabelFormat(values={7: 0, 4: 255}).read(path)
    assert labels[4, 7] == 255
    assert labels[0, 0] == 0


def test_label_out_of_range_names_file_value_and_pixel(tmp_path: Path) -> None:
    """Label 37 of 11 classes."""
    path = write_picture(tmp_path / "a.png", id_mask(10, marked=37))
    problem = r"a\.png holds label 37 at row 4, column 7; expected 0\.\.10 or 255 for 11 classes"
    with pytest.raises(DataError, match=problem):
        ids(11).read(path)


def test_colors_are_classes(tmp_path: Path) -> None:
    """The channels are in RGB order: a swap would turn red into blue."""
    path = write_picture(tmp_path / "a.png", color_mask(BLUE, RED))
    labels = COLORS.read(path)
    assert labels.dtype == np.uint8
    assert labels[4, 7] == 0
    assert (labels == 1).sum() == 12 * 16 - 1
    assert (COLORS.read(write_picture(tmp_path / "b.png", color_mask(BLACK))) == 255).all()


def test_unknown_color_names_color_and_pixel(tmp_path: Path) -> None:
    """A colour that no class has is refused, unless the format says that such are void."""
    path = write_picture(tmp_path / "a.png", color_mask(RED, (254, 1, 2)))
    problem = r"a\.png holds colour \(254, 1, 2\) at row 4, column 7: no class has it"
    with pytest.raises(DataError, match=problem):
        COLORS.read(path)
    tolerant = LabelFormat(colors={RED: 0, BLUE: 1}, other_colors_are_void=True)
    labels = tolerant.read(path)
    assert labels[4, 7] == 255
    assert (labels == 0).sum() == 12 * 16 - 1


@pytest.mark.parametrize(("depth", "value"), [(8, 200), (4, 13), (2, 3), (1, 1)])
def test_palette_numbers_are_ids(tmp_path: Path, depth: int, value: int) -> None:
    """Without known colours the numbers count, not the colours that the palette gives them."""
    path = write_palette(tmp_path / "a.png", id_mask(0, marked=value), depth)
    labels = ids(255).read(path)
    assert labels[4, 7] == value
    assert (labels == 0).sum() == 12 * 16 - 1


def test_palette_with_known_colors_is_read_as_colors(tmp_path: Path) -> None:
    """An optimiser may have stored a colour mask with a palette of its own order."""
    path = write_palette(tmp_path / "a.png", id_mask(9, marked=5))
    labels = LabelFormat(values={0: 0, 1: 1}, colors={(9, 246, 7): 1, (5, 250, 7): 0}).read(path)
    assert labels[4, 7] == 0
    assert labels[0, 0] == 1


def test_what_is_no_label_file_is_refused(tmp_path: Path) -> None:
    """Colours where ids are meant, ids where colours are, 16 bit, JPEG."""
    colored = write_picture(tmp_path / "color.png", picture(1))
    grey = write_picture(tmp_path / "grey.png", id_mask(1))
    deep = write_picture(tmp_path / "deep.png", id_mask(1).astype(np.uint16))
    jpeg = write_picture(tmp_path / "a.jpg", id_mask(1))
    with pytest.raises(DataError, match=r"color\.png is not an 8-bit greyscale .* classes\.csv"):
        ids(11).read(colored)
    with pytest.raises(DataError, match=r"grey\.png is greyscale; expected the colours"):
        COLORS.read(grey)
    with pytest.raises(DataError, match=r"deep\.png is not an 8-bit .* but uint16"):
        ids(11).read(deep)
    with pytest.raises(DataError, match=r"a\.jpg is a JPEG, which blends"):
        ids(11).read(jpeg)


def test_cut_off_label_file_is_refused(tmp_path: Path) -> None:
    """Also a PNG with a palette, whose bytes are rewritten before they are decoded."""
    for path in (
        write_picture(tmp_path / "a.png", id_mask(1)),
        write_palette(tmp_path / "b.png", id_mask(1)),
    ):
        cut_off(path)
        with pytest.raises(DataError, match=rf"{path.name} is not a readable picture: .* cut"):
            ids(11).read(path)
