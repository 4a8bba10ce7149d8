"""Block arithmetic against slow definitions; law 9; where every pixel of a window comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.blocks import (
    block_mean,
    BlockLayout,
    dilate,
    grid_shape,
    quantise,
    quantised_count,
    Rows,
    scale_of,
    scaled,
    to_pixels,
    Window,
)
from seg_node.core.types import Action, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    # A pixel's origin: the word of its set, and its rows there.
    Origin = tuple[str, tuple[int, ...]]

ODD_GRIDS = [(1, 1), (1, 7), (3, 5), (4, 4), (5, 7), (10, 10), (17, 3), (8, 16)]


def random_grids(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


# ---- pixels and blocks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side", "shape"),
    [(128, 192, 64, (2, 3)), (75, 131, 64, (2, 3)), (64, 65, 64, (1, 2)), (1, 1, 64, (1, 1))],
)
def test_blocks_cover_the_image(
    height: int, width: int, side: int, shape: tuple[int, int]
) -> None:
    assert grid_shape(height, width, side) == shape


def test_pixels_show_the_value_of_their_block() -> None:
    values = np.arange(6).reshape(2, 3)
    pixels = to_pixels(values, 4, (7, 9))
    assert pixels.shape == (7, 9)
    for y, x in np.ndindex(7, 9):
        assert pixels[y, x] == values[y // 4, x // 4]


@pytest.mark.parametrize("size", [(8, 12), (7, 10), (3, 3), (1, 9)])
def test_the_mean_of_a_block_counts_only_pixels_of_the_image(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).random(size).astype(np.float32)
    means = block_mean(pixels, 4)
    assert means.shape == grid_shape(*size, 4)
    for row, column in np.ndindex(means.shape):
        block = pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(np.float64)
        assert means[row, column] == pytest.approx(block.mean(), rel=1e-12)


@pytest.mark.parametrize("shape", ODD_GRIDS)
def test_dilation_adds_the_eight_neighbours_and_nothing_else(shape: tuple[int, int]) -> None:
    wanted = np.random.default_rng(2).random(shape) < 0.15
    grown = dilate(wanted)
    for row, column in np.ndindex(*shape):
        near = wanted[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert grown[row, column] == near.any()


# ---- law 9 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 7, 15, 16, 17, 31, 33, 100, 128])
def test_a_quantised_count_is_the_next_multiple_of_a_sixteenth(total: int) -> None:
    step = max(1, total // 16)
    for count in range(total + 1):
        rounded = quantised_count(count, total)
        assert count <= rounded <= total
        assert rounded - count < step
        assert rounded % step == 0 or rounded == total
    assert quantised_count(0, total) == 0


@pytest.mark.parametrize("shape", ODD_GRIDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_quantising_keeps_every_wanted_block_and_adds_the_best(
    shape: tuple[int, int], share: float
) -> None:
    rng = np.random.default_rng(3)
    wanted = rng.random(shape) < share
    score = rng.permutation(wanted.size).reshape(shape).astype(np.float64)
    before = wanted.copy()
    chosen = quantise(wanted, score)
    assert (wanted == before).all()
    assert chosen[wanted].all()
    assert chosen.sum() == quantised_count(int(wanted.sum()), wanted.size)
    added, left = score[chosen & ~wanted], score[~chosen]
    assert not added.size or not left.size or added.min() > left.max()


def test_quantising_fills_up_even_where_every_score_is_minus_infinity() -> None:
    wanted = np.zeros((8, 8), np.bool_)
    wanted[7, 7] = True  # sorts among the others, if it is sorted with them
    assert quantise(wanted, np.full((8, 8), -np.inf)).sum() == 4


# ---- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 2), (1, 2, 4), (1, 1, 2, 3)])
def test_a_grid_that_does_not_fit_the_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\(75, 131\).*blocks of 64.*needs \[N, 2, 3\]"):
        BlockLayout(np.zeros(shape, np.uint8), 64, (75, 131))


@pytest.mark.parametrize("value", [3, 255])
def test_values_that_are_no_action_are_refused(value: int) -> None:
    grid = np.zeros((1, 2, 3), np.uint8)
    grid[0, 1, 1] = value
    with pytest.raises(ConfigError, match=rf"holds \[\s*0\s+{value}\]"):
        BlockLayout(grid, 64, (75, 131))


def test_a_block_that_is_no_whole_number_of_features_is_refused() -> None:
    layout = BlockLayout(random_grids((1, 2, 3), 0), 32, (64, 96))
    assert layout.block_side(Action.HIGH, 32) == 1
    assert layout.block_side(Action.LOW, 16) == 1
    with pytest.raises(ConfigError, match=r"block_size is 32, but LOW .* multiple of 64 pixels"):
        layout.block_side(Action.LOW, 32)
    with pytest.raises(ConfigError, match=r"block_size is 32, but HIGH .* multiple of 64 pixels"):
        layout.rows(Action.HIGH, Window(64, (1, 2)))


@pytest.mark.parametrize(
    ("actions", "finest"),
    [
        ({Action.HIGH}, 1),
        ({Action.LOW}, 2),
        ({Action.REUSE}, 1),
        ({Action.LOW, Action.REUSE}, 2),
        ({Action.LOW, Action.HIGH}, 1),
        ({Action.HIGH, Action.REUSE}, 1),
    ],
)
def test_the_finest_set_is_the_low_one_only_where_nothing_is_high(
    actions: set[Action], finest: int
) -> None:
    grids = np.resize(np.array(sorted(actions), np.uint8), (2, 2, 3))
    assert BlockLayout(grids, 64, (75, 131)).finest == finest


def test_blocks_of_a_set_are_counted_in_order_and_found_in_planes() -> None:
    grids = random_grids((2, 3, 4), 5)
    layout = BlockLayout(grids, 8, (21, 30))
    assert layout.images == 2
    for action in Action:
        expected = [place for place in np.ndindex(grids.shape) if grids[place] == action]
        image, row, column = (part.tolist() for part in layout.places(action))
        assert list(zip(image, row, column, strict=True)) == expected
        assert layout.count(action) == len(expected)
        where = layout.where(action, 4, (6, 8))
        assert where.shape == (2, 1, 6, 8)
        for n, y, x in np.ndindex(2, 6, 8):
            assert bool(where[n, 0, y, x]) == (grids[n, y // 2, x // 2] == action)


# ---- rows of windows -------------------------------------------------------------------------


def memory(layout: BlockLayout, stride: int) -> dict[tuple[Action, int, int, int], int]:
    """Number the pixels of each set as they lie in memory: (set, image, y, x) to row."""
    rows = {}
    for action in (Action.HIGH, Action.LOW):
        b = layout.side // (stride * scale_of(action))
        count = 0
        for n, row, column in np.ndindex(layout.grids.shape):
            if layout.grids[n, row, column] == action:
                for y, x in np.ndindex(b, b):
                    rows[action, n, row * b + y, column * b + x] = count
                    count += 1
    return rows


def origins(layout: BlockLayout, action: Action, window: Window) -> list[Origin]:
    """Look up every pixel of every window, one by one."""
    rows = memory(layout, window.stride)
    scale = scale_of(action)
    b = layout.side // (window.stride * scale)
    height, width = scaled(window.size, scale)
    plane_scale = max(scale, layout.background)
    plane_width = scaled(window.size, plane_scale)[1]
    plane_pixels = plane_width * scaled(window.size, plane_scale)[0]

    def origin(n: int, y: int, x: int) -> Origin:
        if not (0 <= y < height and 0 <= x < width):
            return "outside", ()
        if (action, n, y, x) in rows:
            return "own", (rows[action, n, y, x],)
        if action == Action.HIGH and (Action.LOW, n, y // 2, x // 2) in rows:
            return "other", (rows[Action.LOW, n, y // 2, x // 2],)
        if action == Action.LOW and (Action.HIGH, n, 2 * y, 2 * x) in rows:
            covered = [
                (min(2 * y + dy, window.size[0] - 1), min(2 * x + dx, window.size[1] - 1))
                for dy, dx in np.ndindex(2, 2)
            ]
            return "other", tuple(rows[Action.HIGH, n, v, u] for v, u in covered)
        y, x = y * scale // plane_scale, x * scale // plane_scale
        return "plane", (n * plane_pixels + y * plane_width + x,)

    span = range(-window.before, b + window.after)
    return [
        origin(n, row * b + dy, column * b + dx)
        for n, row, column in np.ndindex(layout.grids.shape)
        if layout.grids[n, row, column] == action
        for dy in span
        for dx in span
    ]


def read(rows: Rows) -> list[Origin]:
    """Return the origins that row lists state."""
    found: list[Origin] = [("own", (row,)) for row in rows.own.tolist()]

    def put(word: str, at: Tensor, sources: list[tuple[int, ...]]) -> None:
        for pixel, source in zip(at.tolist(), sources, strict=True):
            # No pixel is written twice: its gradient would be counted twice.
            assert found[pixel][0] == "own"
            found[pixel] = (word, source)

    put("other", rows.other_at, [tuple(source) for source in rows.other.tolist()])
    put("plane", rows.plane_at, [(source,) for source in rows.plane.tolist()])
    return found


def outside(layout: BlockLayout, action: Action, window: Window, span: int) -> dict[int, int]:
    """Return the pixels of all windows that are outside, by number, with the nearest inside."""
    beyond = layout.beyond(action, window)
    if beyond is None:
        return {}
    b = layout.block_side(action, window.stride)
    size = scaled(window.size, scale_of(action))
    blocks = np.argwhere(layout.grids == action)
    for at, nearest in zip(beyond.at.tolist(), beyond.nearest.tolist(), strict=True):
        (block, y, x), (same, near_y, near_x) = (
            np.unravel_index(pixel, (len(blocks), span, span)) for pixel in (at, nearest)
        )
        start = blocks[block][1:] * b - window.before
        if (start >= size).any() or (start + span <= 0).any():
            continue  # no pixel of this window is inside
        expected = np.clip(start + np.array([y, x]), 0, np.array(size) - 1) - start
        assert (same, near_y, near_x) == (block, *expected)
    return dict(zip(beyond.at.tolist(), beyond.nearest.tolist(), strict=True))


@pytest.mark.parametrize("background", [1, 2])
@pytest.mark.parametrize(
    ("size", "side", "stride", "before", "after"),
    [
        ((52, 64), 16, 4, 1, 1),
        ((52, 64), 16, 4, 1, 0),
        ((27, 41), 16, 4, 3, 3),  # farther than the next LOW block of 2 x 2
        ((27, 41), 16, 8, 5, 2),  # LOW blocks of one pixel
        ((13, 9), 16, 2, 1, 1),  # one block, larger than the image
        ((31, 70), 8, 1, 0, 0),
    ],
)
def test_every_pixel_of_every_window_has_its_origin(  # noqa: PLR0913, PLR0917 - one case
    size: tuple[int, int], side: int, stride: int, before: int, after: int, background: int
) -> None:
    grids = random_grids((3, *grid_shape(*size, side)), 7)
    layout = BlockLayout(grids, side, size, background)
    window = Window(stride, scaled(size, stride), before, after)
    words = set()
    for action in (Action.HIGH, Action.LOW):
        if layout.count(action):
            expected = origins(layout, action, window)
            rows = layout.rows(action, window)
            named = outside(layout, action, window, rows.span)
            for pixel, (found, origin) in enumerate(zip(read(rows), expected, strict=True)):
                assert (pixel in named) == (origin[0] == "outside")
                assert pixel in named or found == origin
            words |= {word for word, _ in expected}
    if before and grids[0].size > 1:
        assert words == {"own", "other", "plane", "outside"}


@pytest.mark.parametrize("size", [(20, 22), (15, 13)])  # the second cut by more than a block
def test_rows_of_pixels_outside_still_point_into_the_sets(size: tuple[int, int]) -> None:
    layout = BlockLayout(random_grids((2, 3, 3), 8), 8, (20, 22))
    pixels = {action: layout.count(action) * (8 // scale_of(action)) ** 2 for action in Action}
    for action, other in ((Action.HIGH, Action.LOW), (Action.LOW, Action.HIGH)):
        rows = layout.rows(action, Window(1, size, 3, 3))
        for indices, end in (
            (rows.own, pixels[action]),
            (rows.other, pixels[other]),
            (rows.plane, 2 * np.prod(scaled(size, scale_of(action)))),
        ):
            assert 0 <= int(indices.min()) <= int(indices.max()) < end


def test_rows_of_a_block_that_was_cut_off_still_point_into_its_set() -> None:
    grids = np.full((1, 3, 3), Action.LOW, np.uint8)
    grids[0, 2, 2] = Action.HIGH
    rows = BlockLayout(grids, 8, (20, 22)).rows(Action.LOW, Window(1, (15, 13), 1, 1))
    assert 0 <= int(rows.other.min()) <= int(rows.other.max()) < 8 * 8


def test_layers_of_a_stride_share_one_list() -> None:
    layout = BlockLayout(random_grids((1, 2, 3), 0), 64, (75, 131))
    first = layout.rows(Action.HIGH, Window(4, (19, 33), 1, 1))
    assert layout.rows(Action.HIGH, Window(4, (19, 33), 1, 1)) is first
    assert layout.rows(Action.LOW, Window(4, (19, 33), 1, 1)) is not first
    assert layout.rows(Action.HIGH, Window(4, (19, 33), 2, 1)) is not first


def test_the_pixels_inside_blocks_are_those_where_they_are() -> None:
    grids = np.array([[[2, 0], [0, 2]], [[0, 0], [2, 1]]], np.uint8)
    layout = BlockLayout(grids, 8, (12, 14))
    marks = layout.where(Action.HIGH, 2, (6, 7))
    assert (
        layout.inside(Action.HIGH, 2, (6, 7)).tolist() == marks.flatten().nonzero()[:, 0].tolist()
    )
    assert layout.inside(Action.LOW, 2, (6, 7)).tolist() == [74, 75, 76, 81, 82, 83]


def test_lists_lie_where_they_are_needed() -> None:
    """What a background shows is looked up on the host: from the device it would be waited for."""
    grids = np.array([[[2, 0], [0, 2]]], np.uint8)
    layout = BlockLayout(grids, 8, (16, 16), device=torch.device("meta"))
    rows = layout.rows(Action.HIGH, Window(1, (16, 16), 1, 1))
    assert rows.own.is_meta
    assert rows.plane_at.is_meta
    assert len(rows.plane) == len(rows.plane_at) > 0
    assert rows.plane.device.type == "cpu"
