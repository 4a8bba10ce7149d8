"""Pictures of plan and age: the right look at known blocks, a legend, and one size per image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from seg_node.core.plan_drawing import COLORS, draw_age, draw_plan
from seg_node.core.types import Action, DataError, Plan, Reason

GREY = 100
IMAGE = np.full((360, 480, 3), GREY, np.uint8)
ROWS, COLUMNS = 6, 8
SIDE = 64


def plan_of(
    reason: Reason = Reason.REFRESHED, **blocks: tuple[int, int]
) -> Plan:  # as in HIGH=(row, column)
    """Return a plan of REUSE but for these blocks."""
    grid = np.full((ROWS, COLUMNS), Action.REUSE, np.uint8)
    for name, at in blocks.items():
        grid[at] = Action[name]
    return Plan(grid, reason)


def at(picture: np.ndarray, row: int, column: int, side: float = SIDE) -> tuple[int, ...]:
    """Return the colour in the middle of a block that lies inside the image."""
    return tuple(map(int, picture[int((row + 0.5) * side), int((column + 0.5) * side)]))


def colors_of(picture: np.ndarray) -> set[tuple[int, ...]]:
    """Return all colours of a picture."""
    return {tuple(c) for c in picture.reshape(-1, 3).tolist()}


def test_each_action_has_its_look_at_its_block() -> None:
    """HIGH bright with an orange rim, LOW blue and dimmer, REUSE dark and without a tint."""
    picture = draw_plan(IMAGE, plan_of(HIGH=(1, 2), LOW=(3, 5)), SIDE)
    high, low, reuse = at(picture, 1, 2), at(picture, 3, 5), at(picture, 0, 0)
    assert reuse == (45, 45, 45)
    assert low == (76, 108, 127)
    assert high == (123, 109, 90)
    assert tuple(picture[SIDE + 1, 2 * SIDE + 10]) == COLORS[Action.HIGH]
    assert tuple(picture[2 * SIDE - 2, 3 * SIDE - 2]) == COLORS[Action.HIGH]
    for outside in ((SIDE - 1, 2 * SIDE + 10), (2 * SIDE, 3 * SIDE - 2)):
        assert tuple(picture[outside]) == reuse


def test_blocks_that_stick_out_are_closed_at_the_edge_of_the_image() -> None:
    picture = draw_plan(IMAGE, plan_of(HIGH=(5, 0)), SIDE)
    assert tuple(picture[359, 10]) == COLORS[Action.HIGH]
    assert tuple(picture[360, 10]) != COLORS[Action.HIGH]


def test_plan_legend_has_every_action_its_share_and_the_reason() -> None:
    """A share or a reason that changes is drawn; colours of all three actions are explained."""
    strips = [
        draw_plan(IMAGE, plan, SIDE)[360:]
        for plan in (
            plan_of(),
            plan_of(HIGH=(0, 0)),
            plan_of(LOW=(0, 0)),
            plan_of(Reason.SCENE_CUT),
        )
    ]
    for strip in strips:
        for color in COLORS.values():
            assert (strip == color).all(axis=2).sum() > 100, "a chip"
    for other in strips[1:]:
        assert other.shape == strips[0].shape
        assert (other != strips[0]).any()


def test_the_longest_reason_fits_and_every_reason_gives_the_same_size() -> None:
    """Videos need one size; text that ran over the edge would reach the last columns."""
    for width, height in ((480, 360), (1920, 1080), (240, 180)):
        image = np.zeros((height, width, 3), np.uint8)
        grid = np.zeros((-(-height // SIDE), -(-width // SIDE)), np.uint8)
        pictures = [draw_plan(image, Plan(grid, reason), SIDE) for reason in Reason]
        (shape,) = {picture.shape for picture in pictures}
        scale = shape[1] / width
        for picture in pictures:
            strip = picture[round(height * scale) :]
            assert strip.shape[0] > 0
            assert len(colors_of(strip[:, -4:])) == 1
            assert len(colors_of(strip[-2:])) == 1


@pytest.mark.parametrize(
    ("width", "height", "wide"),
    [(240, 180, 480), (480, 360, 480), (960, 540, 960), (1920, 1080, 960)],
)
def test_pictures_are_wide_enough_to_read_and_no_wider_than_needed(
    width: int, height: int, wide: int
) -> None:
    """Blocks stay where they are in the image, whatever its size."""
    image = np.full((height, width, 3), GREY, np.uint8)
    side = width / COLUMNS
    rows = -(-height // int(side))
    grid = np.full((rows, COLUMNS), Action.REUSE, np.uint8)
    grid[1, 6] = Action.HIGH
    age_ms = np.where(grid == Action.HIGH, 1000, 0).astype(np.uint16)
    plan = draw_plan(image, Plan(grid, Reason.REFRESHED), side)
    age = draw_age(image, age_ms, 1000.0, side)
    assert plan.shape[1] == age.shape[1] == wide
    drawn = wide / COLUMNS
    assert at(plan, 1, 6, drawn) == (123, 109, 90)
    assert {at(plan, 1, column, drawn) for column in (5, 7)} == {(45, 45, 45)}
    assert at(age, 1, 6, drawn) != at(age, 1, 5, drawn) == at(age, 1, 7, drawn)


def test_a_picture_can_be_asked_for_in_a_width() -> None:
    """Blocks are where they are in the image: here at 4/3 of its size."""
    plan = draw_plan(IMAGE, plan_of(LOW=(3, 5)), SIDE, width=640)
    age = draw_age(IMAGE, np.zeros((ROWS, COLUMNS), np.uint16), 1000.0, SIDE, width=640)
    assert plan.shape[1] == age.shape[1] == 640
    drawn = SIDE * 640 / 480
    assert [at(plan, 3, column, drawn)[0] for column in (4, 5, 6)] == [45, 76, 45]


def test_ages_grow_lighter_evenly_and_stop_at_the_limit() -> None:
    """The order of ages is the order of lightness, so it survives colour blindness and print."""
    ages = [0, 250, 500, 750, 1000, 9000]
    age_ms = np.zeros((ROWS, COLUMNS), np.uint16)
    age_ms[2, : len(ages)] = ages
    picture = draw_age(IMAGE, age_ms, 1000.0, SIDE)
    shown = [at(picture, 2, column) for column in range(len(ages))]
    lightness = cv2.cvtColor(np.array([shown], np.uint8), cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert shown[-1] == shown[-2]
    steps = np.diff(lightness[:-1])
    assert steps.min() > 0
    assert steps.max() < 1.5 * steps.min()


def test_age_legend_has_the_whole_bar_and_the_ages() -> None:
    """The bar begins with the colour of new blocks, and ends with that of the oldest."""
    black = np.zeros_like(IMAGE)
    age_ms = np.zeros((ROWS, COLUMNS), np.uint16)
    strip = draw_age(black, age_ms, 1000.0, SIDE)[360:]
    row = strip[strip.shape[0] // 6]
    bar = row[(row != strip[0, 0]).any(axis=1)]
    assert len(bar) > 400
    assert tuple(bar[0]) == (68, 1, 84)
    assert tuple(bar[-1]) == (253, 231, 37)
    age_ms[0, 0] = 7
    assert (draw_age(black, age_ms, 1000.0, SIDE)[360:] != strip).any()
    longer = draw_age(black, age_ms * 0, 2000.0, SIDE)[360:]
    for third in np.array_split(np.arange(480), 3)[1:]:
        assert (longer[:, third] != strip[:, third]).any(), "middle and end of the scale"


def test_no_age_limit_draws_all_blocks_alike() -> None:
    """`max_age_ms` 0 computes everything in every frame."""
    picture = draw_age(IMAGE, np.zeros((ROWS, COLUMNS), np.uint16), 0.0, SIDE)
    assert len(colors_of(picture[:360])) == 1


def test_a_scaled_input_has_larger_blocks_in_the_image() -> None:
    """At input.scale 0.29 a block of 64 covers 220.7 pixels of 1920; ends are rounded."""
    image = np.full((1080, 1920, 3), GREY, np.uint8)
    scaled = round(1080 * 0.29), round(1920 * 0.29)
    shape = -(-scaled[0] // 64), -(-scaled[1] // 64)
    grid = np.full(shape, Action.REUSE, np.uint8)
    grid[1, -1] = Action.LOW
    picture = draw_plan(image, Plan(grid, Reason.REFRESHED), 64 / 0.29)
    assert tuple(picture[165, 886]) == (76, 108, 127)
    assert tuple(picture[165, 879]) == (45, 45, 45)


@pytest.mark.parametrize("side", [32, 58, 128])
def test_blocks_of_another_size_are_refused(side: int) -> None:
    """Drawn nonetheless, they would lie elsewhere than what was computed."""
    with pytest.raises(DataError, match=rf"6x8 blocks of {side} pixels do not cover .* 360x480"):
        draw_plan(IMAGE, plan_of(), side)
    with pytest.raises(DataError, match=r"pass Config\.shown_side of the image"):
        draw_age(IMAGE, np.zeros((ROWS, COLUMNS), np.uint16), 1000.0, side)
