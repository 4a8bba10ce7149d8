"""Pointers to where content was computed: exact while nothing moves, true to it when it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.origins import Origins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.origins import Places

SIDE = 8
SIZE = (24, 40)
REACH = 1.01
"""How far beyond its tile a pixel may point: results are kept with one pixel around tiles."""

SIZES = [SIZE, (21, 35), (1, 1), (7, 41), (9, 8)]


def uniform(x: float, y: float, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    return np.full((*size, 2), (x, y), np.float32)


def moved(x: float, y: float, frames: int, size: tuple[int, int] = SIZE) -> Origins:
    origins = Origins(size, SIDE)
    for _ in range(frames):
        origins.move(uniform(x, y, size))
    return origins


def outside(places: Places) -> NDArray[np.float32]:
    """Return how far from the pixels of its tile each place is."""
    y, x = (np.maximum(-at, at - (SIDE - 1)).clip(0) for at in (places.y, places.x))
    return np.asarray(np.maximum(y, x), np.float32)


def in_plane(places: Places, columns: int, side: int = SIDE) -> NDArray[np.float32]:
    """Return rows and columns in the whole plane, of tiles numbered row by row, [2, n]."""
    row, column = np.divmod(places.slot, columns)
    return np.stack((row * side + places.y, column * side + places.x)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_at_first_every_pixel_points_to_itself(size: tuple[int, int]) -> None:
    origins = Origins(size, SIDE)
    columns = -(-size[1] // SIDE)
    rows, places = np.indices(size), origins.places()
    np.testing.assert_array_equal(origins.slot, rows[0] // SIDE * columns + rows[1] // SIDE)
    np.testing.assert_array_equal(in_plane(places, columns), rows.reshape(2, -1))
    assert not outside(places).any()


def test_no_motion_leaves_pointers_bit_for_bit() -> None:
    origins = moved(0.3, -1.7, 3)
    slot, place = origins.slot.copy(), origins.place.copy()
    origins.move(uniform(0, 0))
    assert origins.slot.tobytes() == slot.tobytes()
    assert origins.place.tobytes() == place.tobytes()


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-1, 0), (0, 1), (0, -1), (2, -3)])
def test_whole_pixels_land_on_the_right_pixel_and_axis(x: int, y: int) -> None:
    places = in_plane(moved(x, y, 1).places(), SIZE[1] // SIDE).reshape(2, *SIZE)
    rows, columns = np.indices(SIZE)
    expected = (rows + y).clip(0, SIZE[0] - 1), (columns + x).clip(0, SIZE[1] - 1)
    np.testing.assert_array_equal(places, expected)


@pytest.mark.parametrize("step", [0.3, -0.3, 0.5, -0.5, 0.17, 1.3, -2.5, 0.9])
def test_fractions_of_pixels_add_up_and_lead_to_the_tile_that_holds_the_content(
    step: float,
) -> None:
    frames = 10
    size = (SIDE, 128)
    places = moved(step, 0, frames, size).places()
    column = in_plane(places, size[1] // SIDE)[1].reshape(size)[3]
    expected = np.arange(size[1]) + step * frames
    inside = (expected > 0) & (expected < size[1] - 1)
    inside &= (expected > 2) if step < 0 else (expected < size[1] - 3)  # borders are clamped
    np.testing.assert_allclose(column[inside], expected[inside], atol=1e-3)
    assert outside(places).max() <= REACH


def test_rows_add_up_as_columns_do() -> None:
    across, down = moved(0.3, 0, 10, (40, 40)), moved(0, 0.3, 10, (40, 40))
    np.testing.assert_array_equal(across.place[1], down.place[0].T)


def test_motion_that_differs_from_place_to_place_follows_the_content() -> None:
    """Zoom by 1 % a frame: the motion at a pixel is not that of the content that was there."""
    size, zoom, frames = (80, 120), 1.01, 30
    middle = np.array(size, np.float32)[:, None, None] / 2
    around = np.indices(size, np.float32) - middle
    flow = np.moveaxis(around * np.float32(1 / zoom - 1), 0, -1)[..., ::-1].copy()
    origins = Origins(size, SIDE)
    for _ in range(frames):
        origins.move(flow)
    off = np.abs(origins.place - (middle + around / zoom**frames)).max(0)
    assert off.mean() < 0.15
    assert off.max() < 0.6
    assert np.mean(outside(origins.places()) > REACH) < 0.01


def test_an_object_in_slow_motion_takes_its_pixels_along() -> None:
    """A square that moves a quarter of a pixel a frame, before a background that stands still."""
    origins = Origins(SIZE, SIDE)
    frames, first = 40, 6
    for frame in range(1, frames + 1):
        flow = uniform(0, 0)
        left = first + round(frame / 4)
        flow[8:16, left : left + 6, 0] = -0.25
        origins.move(flow)
    now = first + frames // 4
    column = origins.place[1, 12]
    np.testing.assert_allclose(
        column[now + 1 : now + 5], np.arange(first + 1, first + 5), atol=0.8
    )
    np.testing.assert_array_equal(column[now + 8 :], np.arange(now + 8, SIZE[1]))
    np.testing.assert_array_equal(origins.place[1, :8], np.indices(SIZE)[1, :8])
    assert outside(origins.places()).max() <= REACH


@pytest.mark.parametrize(("x", "y"), [(5.5, 0), (-5.5, 0), (0, 4.5), (90, 90), (-90, -90)])
def test_content_that_comes_from_outside_is_that_of_the_border(x: float, y: float) -> None:
    origins = moved(x, y, 12)
    limits = np.array(SIZE)[:, None] - 1
    place = in_plane(origins.places(), SIZE[1] // SIDE)
    assert (place > -1).all()
    assert (place < limits + 1).all()
    corner = np.ix_((0, -1), (0, -1))
    far = np.array([0 if y < 0 else limits[0, 0], 0 if x < 0 else limits[1, 0]])
    at = (0 if y < 0 else 1), (0 if x < 0 else 1)
    for axis, motion in enumerate((y, x)):
        if motion:
            assert origins.place[axis][corner][at] == far[axis]


@pytest.mark.parametrize("step", [(0.3, 0.02), (-0.3, 0), (0.7, -0.05)])
def test_hundreds_of_frames_stay_exact_and_within_their_tiles(step: tuple[float, float]) -> None:
    size, frames = (40, 300), 300
    origins = moved(*step, frames, size)
    expected = np.indices(size) + np.array(step[::-1])[:, None, None] * frames
    limits = np.array(size)[:, None, None] - 1
    inside = ((expected > 5) & (expected < limits - 5)).all(0)
    assert inside.sum() > 500
    np.testing.assert_allclose(origins.place[:, inside], expected[:, inside], atol=0.02)
    assert outside(origins.places()).reshape(size)[inside].max() <= REACH


def test_random_motion_hardly_leads_out_of_tiles() -> None:
    rng = np.random.default_rng(0)
    origins = Origins(SIZE, SIDE)
    for _ in range(100):
        origins.move(rng.normal(0, 1, (*SIZE, 2)).astype(np.float32))
    assert np.mean(outside(origins.places()) > REACH) < 0.01


def test_renewed_blocks_point_to_themselves_and_others_stay() -> None:
    origins = moved(1.25, -0.5, 3)
    before = origins.slot.copy(), origins.place.copy()
    origins.renew(np.array([[1, 2], [2, 4]]), np.array([70, 15]))
    renewed = np.zeros(SIZE, np.bool_)
    for slot, here in ((70, np.s_[8:16, 16:24]), (15, np.s_[16:24, 32:40])):
        renewed[here] = True
        assert (origins.slot[here] == slot).all()
        for axis in (0, 1):
            np.testing.assert_array_equal(origins.place[axis][here], np.indices(SIZE)[axis][here])
    np.testing.assert_array_equal(origins.slot[~renewed], before[0][~renewed])
    np.testing.assert_array_equal(origins.place[:, ~renewed], before[1][:, ~renewed])
    places = origins.places()
    y, x = (at.reshape(SIZE) for at in (places.y, places.x))
    np.testing.assert_array_equal(y[8:16, 16:24], np.indices((SIDE, SIDE))[0])
    np.testing.assert_array_equal(x[16:24, 32:40], np.indices((SIDE, SIDE))[1])


def test_renewing_starts_without_the_fractions_of_before() -> None:
    origins = moved(0.4, 0.4, 1)
    origins.renew(np.argwhere(np.ones((3, 5))), np.arange(15) + 15)
    fresh = Origins(SIZE, SIDE)
    for one in (origins, fresh):
        one.move(uniform(0.4, 0.4))
    np.testing.assert_array_equal(origins.slot, fresh.slot + 15)
    np.testing.assert_array_equal(origins.place, fresh.place)


def test_renewing_nothing_changes_nothing() -> None:
    origins = moved(0.4, 0.4, 1)
    before = origins.place.copy()
    origins.renew(np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    np.testing.assert_array_equal(origins.place, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 4, 8])
def test_planes_of_other_strides_find_themselves_while_nothing_moves(
    size: tuple[int, int], scale: float
) -> None:
    """Exact, though the last pixel of a coarser plane may lie beyond the image's middle."""
    origins = Origins(size, SIDE)
    rows, columns = (round(-(-n // scale)) for n in size)
    y, x = (at.ravel() for at in np.indices((rows, columns)))
    places = origins.places_at(y, x, (rows, columns), scale)
    side = round(SIDE / scale)
    across = -(-size[1] // SIDE)
    np.testing.assert_array_equal(places.slot, y // side * across + x // side)
    np.testing.assert_array_equal(places.y, y % side)
    np.testing.assert_array_equal(places.x, x % side)


@pytest.mark.parametrize("scale", [0.5, 1, 2, 4])
def test_planes_of_other_strides_move_along(scale: float) -> None:
    """A motion that is whole in all of them leads to the same content in each."""
    origins = moved(4, -4, 2)
    rows, columns = (round(n / scale) for n in SIZE)
    y, x = (at.ravel() for at in np.indices((rows, columns)))
    places = origins.places_at(y, x, (rows, columns), scale)
    found = in_plane(places, SIZE[1] // SIDE, round(SIDE / scale))
    step = round(8 / scale)
    inside = (y >= step) & (x < columns - step)
    np.testing.assert_array_equal(found[0][inside], (y - step)[inside])
    np.testing.assert_array_equal(found[1][inside], (x + step)[inside])


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_pixel_of_a_coarser_plane_goes_where_its_middle_goes(scale: int) -> None:
    origins, flow = Origins(SIZE, SIDE), np.zeros((*SIZE, 2), np.float32)
    flow[:, scale // 2 :: scale, 0] = -scale
    origins.move(flow)
    y, x = (at.ravel() for at in np.indices((SIZE[0] // scale, SIZE[1] // scale)))
    places = origins.places_at(y, x, (SIZE[0] // scale, SIZE[1] // scale), scale)
    found = in_plane(places, SIZE[1] // SIDE, SIDE // scale)
    np.testing.assert_array_equal(found, np.stack((y, np.maximum(x - 1, 0))))


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_no_place_lies_beyond_the_plane(scale: float) -> None:
    """Where content comes from outside, fractions of pixels add up as well."""
    rng = np.random.default_rng(1)
    size = (21, 35)
    origins = Origins(size, SIDE)
    rows, columns = (round(-(-n // scale)) - (scale < 1) for n in size)
    y, x = (at.ravel() for at in np.indices((rows, columns)))
    for _ in range(60):
        origins.move(rng.normal(0, 0.6, (*size, 2)).astype(np.float32))
        places = origins.places_at(y, x, (rows, columns), scale)
        found = in_plane(places, 5, round(SIDE / scale))
        assert found.min() >= 0
        assert found[0].max() <= rows - 1
        assert found[1].max() <= columns - 1
