"""Pictures of tiles are shown where the content of the tiles is now."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.origins import Origins
from seg_node.core.tile_pictures import TilePictures
from test.core.motions import picture

SIDE = 32


def kept(size: tuple[int, int], stride: int) -> tuple[TilePictures, Origins]:
    """Return the pictures of all blocks of an image, and pointers to them."""
    pictures = TilePictures(size, stride, SIDE)
    origins = Origins((-(-size[0] // stride), -(-size[1] // stride)), SIDE // stride)
    every = np.argwhere(np.ones(origins.grid, np.bool_))
    pictures.add(picture(0, size), every, np.arange(len(every)))
    return pictures, origins


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("size", [(64, 96), (70, 101), (20, 30)])
def test_what_did_not_move_is_the_picture_itself(size: tuple[int, int], stride: int) -> None:
    pictures, origins = kept(size, stride)
    shown = pictures.moved(origins)[: size[0], : size[1]]
    np.testing.assert_array_equal(shown, pictures.reduced(picture(0, size)))


def test_large_images_are_reduced_and_still_themselves() -> None:
    size = (720, 1280)
    pictures, origins = kept(size, 4)
    reduced = pictures.reduced(picture(0, size))
    assert reduced.shape == (360, 640)
    np.testing.assert_array_equal(pictures.moved(origins), reduced)
    assert kept(size, 1)[0].step == 1  # no coarser than the results


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, 8), (-4, 4)])
def test_content_is_shown_where_it_is_now(x: int, y: int) -> None:
    """By the pointers, in pixels of the results, of which each is four of the image."""
    pictures, origins = kept((96, 128), 4)
    origins.move(np.full((24, 32, 2), (-x / 4, -y / 4), np.float32))
    inner = np.s_[12:-12, 12:-12]
    was = pictures.reduced(picture(0, (96, 128)))
    expected = np.roll(was, (y, x), (0, 1))
    off = np.abs(pictures.moved(origins)[inner].astype(int) - expected[inner])
    assert off.max() <= 1


def test_a_fraction_of_a_pixel_is_interpolated() -> None:
    pictures, origins = kept((96, 128), 4)
    origins.move(np.full((24, 32, 2), (0.125, 0), np.float32))  # half a pixel of the image
    was = pictures.reduced(picture(0, (96, 128))).astype(float)
    expected = (was[:, :-1] + was[:, 1:]) / 2
    off = np.abs(pictures.moved(origins)[:, :-1] - expected)[12:-12, 12:-12]
    assert off.mean() < 0.5
    assert off.max() <= 3


def test_a_new_block_is_shown_as_it_is_now_and_the_others_as_they_were() -> None:
    size = (96, 128)
    pictures, origins = kept(size, 4)
    blocks = np.array([[1, 2]])
    for index, slot in enumerate((40, 5), start=1):  # far beyond the first atlas; and within it
        pictures.add(picture(index, size), blocks, np.array([slot]))
        origins.renew(blocks, np.array([slot]))
        expected = pictures.reduced(picture(0, size))
        expected[32:64, 64:96] = pictures.reduced(picture(index, size))[32:64, 64:96]
        if slot == 5:
            expected[32:64, 32:64] = pictures.moved(origins)[32:64, 32:64]  # its tile was taken
        np.testing.assert_array_equal(pictures.moved(origins), expected)
