"""Tiles of results and features: what is read is what was computed, and memory is bounded.

A slow reference gives every tile a number of its own that is never used again. It follows the
same motion with pointers to those numbers, so a tile that is overwritten too early shows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.blocks import Window
from seg_node.core.feature_pool import FeaturePool, NO_TILE
from seg_node.core.origins import Origins
from seg_node.core.reading import MARGIN
from seg_node.core.result_pool import ResultPool
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seg_node.core.background import Plane

SIDE = 8
SIZE = (37, 43)
GRID = (5, 6)
SIZES = [SIZE, (40, 48), (1, 1), (8, 9), (3, 30)]


def random_plane(seed: int, size: tuple[int, int] = SIZE, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(seed))


def random_flow(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Return smooth motion of up to some pixels."""
    coarse = rng.normal(0, 1.5, (3, 4, 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1]), np.float32)


def random_blocks(rng: np.random.Generator, most: int) -> NDArray[np.int64]:
    """Return rows and columns of random blocks, in order; at times of none."""
    numbers = rng.choice(GRID[0] * GRID[1], rng.integers(0, most + 1), replace=False)
    return np.stack(np.divmod(np.sort(numbers), GRID[1]), 1).astype(np.int64)


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_plane_in_tiles_is_read_as_it_was(size: tuple[int, int]) -> None:
    pool, origins, plane = ResultPool(SIDE), Origins(size, SIDE), random_plane(0, size)
    pool.restart(plane, 7)
    torch.testing.assert_close(pool.read(origins), plane, atol=0, rtol=0)
    count = -(-size[0] // SIDE) * -(-size[1] // SIDE)
    assert (pool.stamps_ns[:count] == 7).all()
    assert len(pool.stamps_ns) == 2 * count


@pytest.mark.parametrize(("x", "y"), [(0.5, 0), (0, -0.25), (0.75, 0.5), (-0.4, -0.9)])
def test_between_tiles_the_pixels_around_them_count(x: float, y: float) -> None:
    """A tile keeps one pixel of its neighbours, so moving is bilinear across borders."""
    pool, origins, plane = ResultPool(SIDE), Origins(SIZE, SIDE), random_plane(1)
    pool.restart(plane, 0)
    origins.move(np.full((*SIZE, 2), (x, y), np.float32))
    read = pool.read(origins)[0].permute(1, 2, 0).numpy()
    rows, columns = np.indices(SIZE, np.float32)
    pixels = np.ascontiguousarray(plane[0].permute(1, 2, 0).numpy())
    inside = np.s_[1:-1, 1:-1]
    moved = bilinear(pixels, rows + np.float32(y), columns + np.float32(x))
    np.testing.assert_allclose(read[inside], moved[inside], atol=2e-5)


def bilinear(
    pixels: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return values between pixels [h, w, C]; places beyond are clamped."""
    h, w = pixels.shape[:2]
    y, x = y.clip(0, h - 1), x.clip(0, w - 1)
    above, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(above + 1, h - 1), np.minimum(left + 1, w - 1)
    down, across = (y - above)[..., None], (x - left)[..., None]
    first = pixels[above, left] * (1 - across) + pixels[above, right] * across
    second = pixels[below, left] * (1 - across) + pixels[below, right] * across
    return np.asarray(first * (1 - down) + second * down, np.float32)


class Walk:
    """Pointers, results, and the reference of both, over frames of random motion and blocks."""

    def __init__(self, seed: int = 0) -> None:
        """Start with all blocks computed."""
        self.rng = np.random.default_rng(seed)
        self.origins, self.twin = Origins(SIZE, SIDE), Origins(SIZE, SIDE)
        self.results = ResultPool(SIDE)
        self.tiles: dict[int, tuple[NDArray[np.float32], int]] = {}
        self.results.restart(random_plane(0), 0)
        self._remember(np.argwhere(np.ones(GRID)), random_plane(0), 0)

    def _remember(self, blocks: NDArray[np.int64], plane: torch.Tensor, frame: int) -> None:
        numbers = len(self.tiles) + np.arange(len(blocks))
        self.twin.renew(blocks, numbers)
        padding = [(MARGIN, MARGIN + SIDE)] * 2
        wide = np.pad(plane[0].permute(1, 2, 0).numpy(), [*padding, (0, 0)], mode="edge")
        span = SIDE + 2 * MARGIN
        for number, (row, column) in zip(numbers, blocks * SIDE, strict=True):
            self.tiles[int(number)] = wide[row : row + span, column : column + span], frame

    def move(self) -> NDArray[np.int64]:
        """Follow the next motion, and return how many pixels stem from each slot."""
        flow = random_flow(self.rng)
        for origins in (self.origins, self.twin):
            origins.move(flow)
        return np.bincount(self.origins.slot.ravel())

    def add(self, blocks: NDArray[np.int64], frame: int) -> NDArray[np.int64]:
        """Keep blocks of a random plane, and return their slots."""
        plane = random_plane(frame)
        slots = self.results.add((plane,), blocks, frame)
        self.origins.renew(blocks, slots)
        self._remember(blocks, plane, frame)
        return slots

    def expected(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the values of all pixels and the frames that they stem from."""
        places = self.twin.places()
        values = np.zeros((places.slot.size, 3), np.float32)
        frames = np.zeros(places.slot.size, np.int64)
        for number in np.unique(places.slot):
            here = places.slot == number
            tile, frames[here] = self.tiles[int(number)]
            values[here] = bilinear(tile, places.y[here] + MARGIN, places.x[here] + MARGIN)
        return values.reshape(*SIZE, 3), frames.reshape(SIZE)


def test_no_tile_is_overwritten_while_a_pixel_stems_from_it() -> None:
    walk = Walk()
    for frame in range(1, 201):
        walk.results.free_all_but(walk.move())
        walk.add(random_blocks(walk.rng, 9 if frame % 10 else 30), frame)
        values, frames = walk.expected()
        read = walk.results.read(walk.origins)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(read, values, atol=1e-4)
        np.testing.assert_array_equal(walk.results.stamps_ns[walk.origins.slot], frames)
    assert len(walk.tiles) > 600
    assert len(walk.results.stamps_ns) < 6 * GRID[0] * GRID[1]


def test_a_new_plane_takes_the_room_of_the_tiles_before_it() -> None:
    """Of more tiles, too; another number format or as many channels need room of their own."""
    pool, origins, blocks = ResultPool(SIDE), Origins(SIZE, SIDE), np.argwhere(np.ones(GRID))
    pool.restart(random_plane(0), 0)
    for n in (1, 2):
        pool.add((random_plane(n),), blocks, n)
    (room,) = pool.tensors()
    stamps = np.arange(len(blocks))
    pool.restart(random_plane(3), stamps)
    (after,) = pool.tensors()
    assert after is room
    assert torch.equal(pool.read(origins), random_plane(3))
    np.testing.assert_array_equal(pool.stamps_ns[: len(blocks)], stamps)
    slots = pool.add((random_plane(4),), blocks, 4)
    assert set(slots) == {*range(len(blocks), 2 * len(blocks))}
    assert torch.equal(pool.read(origins), random_plane(3))
    for plane in (random_plane(5).double(), random_plane(6)[:, :2]):
        pool.restart(plane, 5)
        assert torch.equal(pool.read(origins), plane)


def test_room_is_made_when_no_tile_is_free() -> None:
    """Tiles of before are still there after room was made; those freed are used first."""
    pool, blocks = ResultPool(SIDE), np.argwhere(np.ones(GRID))
    pool.restart(random_plane(0), 0)
    slots = [np.arange(30), *(pool.add((random_plane(n),), blocks, n) for n in (1, 2))]
    assert len({*np.concatenate(slots)}) == 90
    pool.free_all_but(np.bincount(np.concatenate((slots[0], slots[2][:-4]))))
    again = pool.add((random_plane(3),), blocks[:20], 3)
    assert not {*again} & {*slots[0], *slots[2][:-4]}
    assert len(pool.stamps_ns) < 150
    origins = Origins(SIZE, SIDE)
    for stamp, numbers in ((0, slots[0]), (2, slots[2][:-4]), (3, again)):
        origins.renew(blocks[: len(numbers)], numbers)
        read = pool.read(origins)
        known = torch.from_numpy(np.isin(origins.slot, numbers))
        torch.testing.assert_close(read[..., known], random_plane(stamp)[..., known])
        assert (pool.stamps_ns[numbers] == stamp).all()


# ---- features -----------------------------------------------------------------------------------

STRIDE, BLOCK = 4, 32
WINDOWS = [Window(stride, (-(-148 // stride), -(-172 // stride))) for stride in (2, 4, 8, 16, 32)]
"""Planes of several strides of an image whose results, at stride 4, have `SIZE` pixels."""


def stamped(number: int, b: int, margin: int = 0) -> torch.Tensor:
    """Return a tile [3, span, span] that says of each pixel the tile's number, row and column."""
    at = torch.arange(-margin, b + margin)
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    return torch.stack((torch.full_like(rows, number), rows, columns)).float()


def stamped_plane(window: Window) -> torch.Tensor:
    """Return a plane of stamped tiles, numbered row by row."""
    b = BLOCK // window.stride
    numbers = torch.arange(GRID[0] * GRID[1]).view(GRID)
    rows = [torch.cat([stamped(int(n), b) for n in row], 2) for row in numbers]
    return torch.cat(rows, 1)[None, :, : window.size[0], : window.size[1]]


def tiles_of(plane: torch.Tensor, b: int) -> list[NDArray[np.float32]]:
    """Return the tiles [span, span, 3] of a plane, with the pixels around, its border repeated."""
    rows, columns = (
        [np.clip(np.arange(n * b - 1, n * b + b + 1), 0, length - 1) for n in range(count)]
        for count, length in zip(GRID, plane.shape[-2:], strict=True)
    )
    pixels = plane[0].permute(1, 2, 0).numpy()
    return [pixels[row[:, None], column] for row in rows for column in columns]


def rows_of(plane: Plane, pixels: torch.Tensor, window: Window) -> torch.Tensor:
    return plane.rows(plane.find(pixels, window), window)


def whole_of(plane: Plane, window: Window) -> torch.Tensor:
    return plane.whole(plane.find(None, window), window)


class FeatureWalk(Walk):
    """The same with features of planes of several strides."""

    def __init__(self, seed: int = 0) -> None:
        """Start with the planes of a whole frame."""
        super().__init__(seed)
        self.pool = FeaturePool(GRID, STRIDE, BLOCK)
        self.pool.restart([stamped_plane(window) for window in WINDOWS], self.origins)
        self.newest = np.arange(GRID[0] * GRID[1])
        self.kept = {w: tiles_of(stamped_plane(w), BLOCK // w.stride) for w in WINDOWS}
        self.resident = np.full(self.pool.capacity, NO_TILE)
        self.resident[: self.newest.size] = self.newest

    def frame(self, index: int) -> Iterator[tuple[Plane, Window]]:
        """Compute random blocks; yield each operation's plane when it would be read."""
        used = self.move()
        self.results.free_all_but(used)
        blocks = random_blocks(self.rng, 8)
        numbers = blocks[:, 0] * GRID[1] + blocks[:, 1]
        self.pool.claim(numbers, used)
        self.check_claim(numbers)
        self.resident[self.pool._claimed] = NO_TILE
        self.computed = numbers
        first = len(self.tiles)
        for plane, window in zip(self.pool.planes(), WINDOWS, strict=True):
            yield plane, window
            b = BLOCK // window.stride
            # Operations that look further than one pixel hand over more than is kept.
            n = 1 + window.stride % 4 // 2
            tiles = [stamped(first + k, b, n) for k in range(len(blocks))]
            if tiles:
                plane.keep(
                    torch.stack(tiles), replace(window, before=n, after=n), plane.room(len(tiles))
                )
            self.kept[window] += [
                stamped(first + k, b, 1).permute(1, 2, 0).numpy() for k in range(len(blocks))
            ]
        self.pool.name(self.add(blocks, index))
        self.newest[numbers] = self.resident[self.pool._claimed] = first + np.arange(len(blocks))

    def check_claim(self, numbers: NDArray[np.int64]) -> None:
        """Of the tiles that may go, those that fewest pixels stem from went."""
        pixels = np.bincount(self.twin.slot.ravel(), minlength=len(self.tiles))
        load = np.where(self.resident == NO_TILE, 0, pixels[self.resident])
        claimed = np.zeros(self.pool.capacity, np.bool_)
        claimed[self.pool._claimed] = True
        assert claimed.sum() == len(numbers)
        spared = np.isin(self.resident, np.delete(self.newest, numbers))
        assert not (claimed & spared).any()
        if claimed.any():
            assert load[claimed].max() <= load[~(claimed | spared)].min(initial=10**9)

    def reused(self, window: Window) -> NDArray[np.int64]:
        """Return some of the pixels of a plane that lie in blocks that are not computed."""
        b = BLOCK // window.stride
        y, x = (at.ravel() for at in np.indices(window.size))
        found = np.flatnonzero(~np.isin(y // b * GRID[1] + x // b, self.computed))
        return np.unique(self.rng.choice(found, 100))

    def expected_features(
        self, pixels: NDArray[np.int64], window: Window
    ) -> tuple[NDArray[np.float32], int]:
        """Return what pixels read, one by one, and how many read the newest tile instead."""
        b = BLOCK // window.stride
        y, x = np.divmod(pixels, window.size[1])
        places = self.twin.places_at(y, x, window.size, window.stride / STRIDE)
        found, gone = [], 0
        for slot, *there in zip(*places, y, x, strict=True):
            place, here = np.array(there[:2]), np.array(there[2:])
            corner = self.twin.corners[slot] * STRIDE // window.stride
            number = slot
            if slot not in self.resident:
                gone += 1
                number = self.newest[here[0] // b * GRID[1] + here[1] // b]
                corner, place = here // b * b, here % b
            most = np.minimum(b, np.array(window.size) - 1 - corner)
            inside = np.float32(np.clip(place, np.maximum(-1, -corner), most) + 1)
            found.append(bilinear(self.kept[window][number], *inside[:, None])[0])
        return np.stack(found), gone


def test_features_are_found_where_the_content_was_computed_for_hundreds_of_frames() -> None:
    """Whatever tiles went, the newest of each block stayed; the room never grew."""
    walk = FeatureWalk()
    every = {window: torch.arange(window.size[0] * window.size[1]) for window in WINDOWS}
    gone = 0
    for frame in range(1, 301):
        for plane, window in walk.frame(frame):
            if frame % 4 == 0 or frame < 20:
                pixels = walk.reused(window)
                expected, missing = walk.expected_features(pixels, window)
                read = rows_of(plane, every[window], window)
                np.testing.assert_allclose(read.numpy()[pixels], expected, rtol=1e-5, atol=1e-4)
                gone += missing
    assert gone > 300  # it was full, and content without tiles was read
    assert walk.pool.capacity == 45
    assert len(walk.tiles) > 1000
    for plane, window in zip(walk.pool._tables, WINDOWS, strict=True):
        assert plane._table is not None
        assert len(plane._table) == 45 * (BLOCK // window.stride + 2) ** 2


def test_whole_planes_are_read_pixel_by_pixel() -> None:
    walk = FeatureWalk(1)
    for frame in range(1, 30):
        for plane, window in walk.frame(frame):
            pixels = walk.reused(window)
            expected, _ = walk.expected_features(pixels, window)
            whole = whole_of(plane, window)
            assert whole.shape == (1, 3, *window.size)
            read = whole[0].flatten(1).T.numpy()[pixels]
            np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"stride{window.stride}")
def test_operations_first_find_the_plane_that_the_dense_network_read(window: Window) -> None:
    pool = FeaturePool(GRID, STRIDE, BLOCK)
    plane = random_plane(3, window.size)
    pool.restart([plane, plane + 1], Origins(SIZE, SIDE))
    first, second = pool.planes()
    torch.testing.assert_close(whole_of(first, window), plane, atol=0, rtol=0)
    pixels = torch.randperm(window.size[0] * window.size[1])[:200]
    rows = rows_of(second, pixels, window)
    torch.testing.assert_close(rows, plane[0].flatten(1).T[pixels] + 1, atol=0, rtol=0)


def test_content_without_a_tile_is_the_newest_of_where_it_is_now() -> None:
    """A tile that was evicted is not read, though its place holds something else by then."""
    origins = Origins(SIZE, SIDE)
    pool = FeaturePool(GRID, STRIDE, BLOCK)
    window = WINDOWS[1]
    pool.restart([stamped_plane(window)], origins)
    (plane,) = pool.planes()
    origins.move(
        np.full((*SIZE, 2), (SIDE, 0), np.float32)
    )  # all content of one block to the left
    everything = np.arange(30)
    used = np.bincount(origins.slot.ravel(), minlength=30)
    for turn in range(3):  # compute the last columns again and again, until room runs out
        last = everything[everything % GRID[1] >= 2]
        pool.claim(last, used)
        plane.keep(
            torch.stack([stamped(100 * turn + int(n), SIDE) for n in last]),
            window,
            plane.room(len(last)),
        )
        pool.name(1000 * (turn + 1) + last)
    read = rows_of(plane, torch.arange(SIZE[0] * SIZE[1]), window)
    first = read.view(*SIZE, 3)[:, :SIDE]
    np.testing.assert_array_equal(first[..., 0], np.indices((37, 8))[0] // SIDE * 6 + 1)
    second = read.view(*SIZE, 3)[:, SIDE : 2 * SIDE, 0]
    own = np.indices((37, 8))[0] // SIDE * 6 + 1
    assert set(np.unique(second.numpy() - own)) <= {0.0, 1.0}  # what moved here, or what was here
    assert (second.numpy() == own).any()


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_operations_hand_over_what_they_have_around_their_blocks(margin: int) -> None:
    """Those that look at no neighbours have nothing: then the edge of a block is repeated."""
    origins = Origins(SIZE, SIDE)
    pool, window = FeaturePool(GRID, STRIDE, BLOCK), WINDOWS[1]
    pool.restart([torch.zeros(1, 1, *window.size)], origins)
    (plane,) = pool.planes()
    pool.claim(np.arange(30), np.bincount(origins.slot.ravel()))
    span = SIDE + 2 * margin
    around = replace(window, before=margin, after=margin)
    plane.keep(torch.full((30, 1, span, span), 7.0), around, plane.room(30))
    pool.name(np.arange(30))
    origins.move(np.full((*SIZE, 2), 0.5, np.float32))
    torch.testing.assert_close(whole_of(plane, window), torch.full((1, 1, *window.size), 7.0))


def test_half_the_resolution_is_refused() -> None:
    pool = FeaturePool(GRID, STRIDE, BLOCK)
    pool.restart([stamped_plane(WINDOWS[1])], Origins(SIZE, SIDE))
    (plane,) = pool.planes()
    with pytest.raises(ModelError, match="LOW blocks cannot be computed beside REUSE blocks"):
        plane.find(torch.arange(3), WINDOWS[1], halve=True)
