"""What is known of blocks that are computed one by one, and when nothing of them can be used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.block_history import BlockHistory
from seg_node.core.config import Config
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.types import Action, Frame, Reason
from test.core.motions import moved, picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.policy import BlockPast
    from seg_node.core.types import Motion

SIDE = 32
SIZE = (64, 96)
GRID = (2, 3)
STEP_MS = 50
STEP_NS = STEP_MS * 1_000_000
CODEC = Config().updated({"motion.source": "codec"})
FLOW = Config().updated({"motion.source": "flow"})


def grid(*blocks: tuple[int, int]) -> NDArray[np.uint8]:
    chosen = np.full(GRID, Action.REUSE, np.uint8)
    for block in blocks:
        chosen[block] = Action.HIGH
    return chosen


def frame(
    index: int, image: NDArray[np.uint8] | None = None, motion: Motion | None = None
) -> Frame:
    """Return a frame whose motion, none unless stated, leads to the one before."""
    shown = picture(0, SIZE) if image is None else image
    stated = motion or moved(0, 0, size=SIZE)
    stated = replace(stated, since_ns=(index - 1) * STEP_NS)
    return Frame(shown, index * STEP_NS, "optical", "front", stated)


def flat(level: int = 100) -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), level, np.uint8)


def results(seed: int = 0, stride: int = 1) -> torch.Tensor:
    size = (SIZE[0] // stride, SIZE[1] // stride)
    return torch.randn(1, 5, *size, generator=torch.Generator().manual_seed(seed))


def started(first: Frame, config: Config = CODEC, stride: int = 1) -> BlockHistory:
    """Return a history of one frame that was computed in full."""
    history = BlockHistory(stride, SIDE, torch.device("cpu"))
    assert history.look(first, config).lost is Reason.FIRST
    history.keep_all(first, results(0, stride))
    return history


def follow(history: BlockHistory, shown: Frame, config: Config = CODEC) -> BlockPast:
    past = history.look(shown, config)
    assert past.lost is None
    assert past.blocks is not None
    return past.blocks


def compute(history: BlockHistory, shown: Frame, chosen: NDArray[np.uint8], seed: int) -> None:
    """Have blocks computed, with random results."""
    history.background(chosen)
    fresh = torch.from_numpy(chosen.repeat(SIDE, 0).repeat(SIDE, 1) == Action.HIGH)
    history.keep(shown, torch.where(fresh, results(seed), history.logits()), chosen)


# ---- ages ---------------------------------------------------------------------------------------


def test_blocks_age_until_they_are_computed() -> None:
    history = started(frame(0))
    assert not history.age_ms(frame(0)).any()
    expected = np.zeros(GRID)
    for index, block in enumerate([(0, 0), (1, 2), (0, 0), (0, 1)], start=1):
        shown = frame(index)
        expected += STEP_MS
        past = follow(history, shown)
        np.testing.assert_array_equal(past.age_ms, expected)
        np.testing.assert_array_equal(past.oldest_ms, expected)
        assert past.interval_ms == STEP_MS
        compute(history, shown, grid(block), index)
        expected[block] = 0
        np.testing.assert_array_equal(history.age_ms(shown), expected)
        assert history.age_ms(shown).dtype == np.uint16


def test_the_interval_is_that_of_the_frames() -> None:
    history = started(frame(0))
    late = replace(frame(1), stamp_ns=3 * STEP_NS)
    assert follow(history, late).interval_ms == 3 * STEP_MS
    after = replace(late, stamp_ns=3 * STEP_NS + 1, motion=None)
    past = history.look(after, FLOW)  # another source of motion: all is forgotten
    assert past.lost is Reason.FIRST
    history.keep_all(after, results())
    again = replace(after, stamp_ns=after.stamp_ns + 7_000_000)
    assert follow(history, again, FLOW).interval_ms == 7


def test_content_keeps_its_age_when_it_moves_into_another_block() -> None:
    """Law 8 counts pixels: a block that was computed lately may show content that was not."""
    history = started(frame(0, flat()))
    first = frame(1, flat())
    follow(history, first)
    compute(history, first, grid((0, 2), (1, 2)), 1)
    half = frame(2, flat(), moved(SIDE / 2, 0, size=SIZE))  # to the left by half a block
    past = follow(history, half)
    young, old = STEP_MS, 2 * STEP_MS
    np.testing.assert_array_equal(past.age_ms, [[old, (old + young) / 2, young]] * 2)
    np.testing.assert_array_equal(past.oldest_ms, [[old, old, young]] * 2)
    compute(history, half, grid((0, 1)), 2)
    np.testing.assert_array_equal(history.age_ms(half), [[old, 0, young], [old, old, young]])
    whole = frame(3, flat(), moved(-SIDE / 2, 0, size=SIZE))  # and back
    past = follow(history, whole)
    ages = [[150, 150, 100], [150, 150, 100]]
    np.testing.assert_array_equal(past.oldest_ms, ages)
    np.testing.assert_array_equal(past.age_ms[0], [150, (150 + 50) / 2, (50 + 100) / 2])


def test_ages_are_rounded_up_and_bounded_by_their_type() -> None:
    history = started(frame(0))
    soon = replace(frame(1), stamp_ns=1)
    follow(history, soon)
    np.testing.assert_array_equal(history.age_ms(soon), 1)
    for index in range(1, 90):
        late = replace(frame(0), stamp_ns=index * 900_000_000)
        late = replace(late, motion=moved(0, 0, max(1, (index - 1) * 900_000_000), SIZE))
        follow(history, late)
    np.testing.assert_array_equal(history.age_ms(late), 65535)


# ---- distortion and doubt -----------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 4])
def test_where_nothing_changed_there_is_no_distortion(stride: int) -> None:
    history = started(frame(0), FLOW, stride)
    for index in (1, 2, 3):
        assert not follow(history, frame(index), FLOW).distortion.any()


def test_distortion_is_the_change_since_the_block_was_computed() -> None:
    """Not since the frame before: a change that nobody computed stays one."""
    dark = picture(0, SIZE) // 2
    changed = dark.copy()
    changed[:SIDE, SIDE : 2 * SIDE] += 8
    history = started(frame(0, dark))
    expected = np.zeros(GRID)
    expected[0, 1] = 8
    for index in (1, 2):
        np.testing.assert_allclose(follow(history, frame(index, changed)).distortion, expected)
    compute(history, frame(2, changed), grid((0, 1)), 1)
    assert not follow(history, frame(3, changed)).distortion.any()
    np.testing.assert_allclose(follow(history, frame(4, dark)).distortion, expected)


def test_content_that_moved_is_compared_where_it_is_now() -> None:
    wide = picture(3, (SIZE[0], SIZE[1] + 40))
    views = [wide[:, 10 * n : 10 * n + SIZE[1]].copy() for n in range(5)]
    history = started(frame(0, views[0]))
    for index, view in enumerate(views[1:], start=1):
        shown = frame(index, view, moved(10, 0, size=SIZE))
        past = follow(history, shown)
        assert past.distortion[:, 0].max() < 1e-4
        assert np.abs(view.astype(float) - views[0])[:, :SIDE].mean() > 5


def test_where_motion_leads_outside_distortion_is_unknown() -> None:
    history = started(frame(0, flat()))
    motion = moved(8, 0, size=SIZE)
    valid = motion.valid.copy()
    valid[:, -8:] = False
    past = follow(history, frame(1, flat(), replace(motion, valid=valid)))
    expected = [[0, 0, UNKNOWN_DISTORTION * 8 / SIDE]] * 2
    np.testing.assert_allclose(past.distortion, expected)


@pytest.mark.parametrize("stride", [1, 4])
def test_doubt_is_what_the_class_lacks_in_probability(stride: int) -> None:
    history = started(frame(0), CODEC, stride)
    past = follow(history, frame(1))
    doubt = 1 - results(0, stride).softmax(1).amax(1)[0]
    b = SIDE // stride
    expected = doubt.view(GRID[0], b, GRID[1], b).mean((1, 3))
    np.testing.assert_allclose(past.doubt, expected, atol=1e-6)


def test_risk_is_distortion_times_doubt_pixel_by_pixel() -> None:
    dark = picture(0, SIZE) // 2
    changed = dark.copy()
    changed[SIDE // 2 :, : SIDE // 2] += 8
    doubt = (1 - results(0).softmax(1).amax(1)[0]).numpy()
    past = follow(started(frame(0, dark)), frame(1, changed))
    difference = (changed.astype(float) - dark).max(2)
    expected = (difference * doubt).reshape(GRID[0], SIDE, GRID[1], SIDE).mean((1, 3))
    np.testing.assert_allclose(past.risk, expected, rtol=1e-5)
    assert past.risk[0, 0] != pytest.approx(past.distortion[0, 0] * past.doubt[0, 0], rel=1e-3)


def test_doubt_and_results_are_those_of_the_newest_computation() -> None:
    history = started(frame(0))
    shown = frame(1)
    follow(history, shown)
    torch.testing.assert_close(history.logits(), results(0), atol=0, rtol=0)
    compute(history, shown, grid((1, 1)), 9)
    past = follow(history, frame(2))
    block = np.s_[..., SIDE:, SIDE : 2 * SIDE]
    torch.testing.assert_close(history.logits()[block], results(9)[block], atol=0, rtol=0)
    others = history.logits().clone()
    others[block] = results(0)[block]
    torch.testing.assert_close(others, results(0), atol=0, rtol=0)
    doubt = 1 - results(9)[block].softmax(1).amax(1).mean()
    assert past.doubt[1, 1] == pytest.approx(float(doubt), abs=1e-6)


# ---- when nothing can be used -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": picture(9, SIZE)}, Reason.SCENE_CUT),
        ({"image": picture(0, (64, 64))}, Reason.CAMERA),
        ({"frame_id": "another"}, Reason.CAMERA),
        ({"stamp_ns": 10_000_000_000}, Reason.GAP),
        ({"stamp_ns": 1}, Reason.GAP),
        ({"motion": None}, Reason.NO_VECTORS),
        ({"motion": moved(0, 0, 5, SIZE)}, Reason.DROPPED),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_a_jump_is_told_and_the_full_frame_after_it_is_the_new_start(
    change: dict[str, object], reason: Reason
) -> None:
    history = started(frame(0))
    follow(history, frame(1))
    odd = replace(frame(2), **change)  # type: ignore[arg-type]  # fields of a frame
    past = history.look(odd, CODEC)
    assert past.lost is reason
    assert past.blocks is None
    fresh = torch.randn(1, 5, *odd.image.shape[:2])
    history.keep_all(odd, fresh)
    assert not history.age_ms(odd).any()
    size = (odd.image.shape[0], odd.image.shape[1])
    after = replace(odd, stamp_ns=odd.stamp_ns + STEP_NS, motion=moved(0, 0, odd.stamp_ns, size))
    blocks = follow(history, after)
    assert (blocks.age_ms == STEP_MS).all()
    assert not blocks.distortion.any()
    torch.testing.assert_close(history.logits(), fresh, atol=0, rtol=0)


def test_a_full_frame_that_was_asked_for_stays_asked_until_it_comes() -> None:
    history = started(frame(0))
    history.ask()
    for index in (1, 2):
        assert history.look(frame(index), CODEC).lost is Reason.ASKED
    history.keep_all(frame(2), results(1))
    assert follow(history, frame(3)).interval_ms == STEP_MS


def test_another_source_of_motion_starts_anew() -> None:
    history = started(frame(0))
    assert history.look(frame(1), FLOW).lost is Reason.FIRST
    history.keep_all(frame(1), results(1))
    follow(history, frame(2), FLOW)
    assert history.look(frame(3), CODEC).lost is Reason.FIRST


# ---- for hundreds of frames ---------------------------------------------------------------------


def test_what_is_remembered_stays_sharp_for_hundreds_of_frames() -> None:
    """Values are read from computed ones once: 0.3 pixels a frame, 300 times, blur as much as one.

    After 290 frames more the picture has the same fraction of a pixel as after 10, so the same
    content must be the same values, 87 pixels further left.
    """
    step, size = 0.3, (SIDE, 256)
    history = BlockHistory(1, SIDE, torch.device("cpu"))
    first = Frame(np.full((*size, 3), 100, np.uint8), 0, "optical", "front")
    history.look(first, CODEC)
    logits = torch.randn(1, 5, *size, generator=torch.Generator().manual_seed(0))
    history.keep_all(first, logits)
    seen: dict[int, torch.Tensor] = {}
    for index in range(1, 301):
        motion = moved(step, 0, (index - 1) * STEP_NS, size)
        follow(history, Frame(first.image, index * STEP_NS, "optical", "front", motion))
        if index in {1, 10, 11, 300}:
            seen[index] = history.logits()
    sharp = seen[300][..., 4:160]
    torch.testing.assert_close(sharp, seen[10][..., 91:247], atol=0.02, rtol=0)
    torch.testing.assert_close(sharp, logits[..., 94:250], atol=0.02, rtol=0)  # 90 pixels exactly
    once, late = seen[1][..., 4:160].var(), seen[11][..., 4:160].var()
    assert float(late) == pytest.approx(float(once), rel=0.05)
    assert float(sharp.var()) > float(once)


def test_errors_of_motion_do_not_add_up_where_it_is_estimated() -> None:
    """Frames are panned by three quarters of a pixel; what is left is far below a pixel."""
    wide = picture(3, (80, 140))
    shown = []
    for index in range(12):
        there = np.array([[1, 0, -0.75 * index - 8], [0, 1, -8]], np.float32)
        panned = cv2.warpAffine(wide, there, SIZE[::-1], flags=cv2.INTER_CUBIC)
        shown.append(frame(index, np.asarray(panned, np.uint8)))
    history, free = started(shown[0], FLOW), started(shown[0], FLOW)
    nothing = np.zeros((*SIZE, 2), np.float32)
    free._method.correct = lambda moved, image, most_left=1.0: nothing  # type: ignore[method-assign]  # noqa: ARG005 - names are those of the method
    for each in shown[1:]:
        corrected, drifted = (follow(h, each, FLOW).distortion for h in (history, free))
    inner = np.s_[:, :2]  # new content comes in at the right
    assert corrected[inner].mean() < 0.8 * drifted[inner].mean()


def test_stated_motion_is_not_corrected() -> None:
    """Vectors of a codec cost nothing, and `none` is what the operator asked for."""
    history = started(frame(0))
    other = frame(1, np.roll(picture(0, SIZE), 1, 1))
    follow(history, other)
    assert history._origins is not None
    np.testing.assert_array_equal(history._origins.place, np.indices(SIZE))
