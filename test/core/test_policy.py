"""Policies give exactly the share that is asked, and a full frame when one is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.config import Config
from seg_node.core.policy import AllHigh, AllLow, Interval, Past, Ranked
from seg_node.core.types import Action, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SIDE = 64


def image(height: int = 200, width: int = 330) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)


class Ramp:
    """Scores blocks by their number."""

    def __call__(self, image: Tensor, side: int) -> NDArray[np.float64]:
        """Return 0, 1, 2 and so on."""
        gh, gw = -(-image.shape[-2] // side), -(-image.shape[-1] // side)
        return np.arange(gh * gw, dtype=np.float64).reshape(gh, gw)

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return something that both arguments change."""
        return size[0] * side


def share(fraction: float) -> Config:
    return Config().updated({"policy.high_fraction": fraction, "block_size": SIDE})


@pytest.mark.parametrize(("policy", "action"), [(AllHigh(), Action.HIGH), (AllLow(), Action.LOW)])
def test_constant_policies_fill_a_grid_that_covers_the_image(
    policy: AllHigh, action: Action
) -> None:
    grid = policy.plan(image(), share(0.5)).grid
    assert grid.shape == (4, 6)
    assert (grid == action).all()
    assert policy.macs((200, 330), SIDE) == 0


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.3, 7), (0.5, 12), (1.0, 24)])
def test_the_best_blocks_get_full_resolution_and_no_others(fraction: float, count: int) -> None:
    grid = Ranked(Ramp()).plan(image(), share(fraction)).grid
    expected = np.full(24, Action.LOW, np.uint8)
    expected[24 - count :] = Action.HIGH
    np.testing.assert_array_equal(grid.ravel(), expected)


def test_counts_are_rounded_up_to_a_sixteenth_of_the_blocks() -> None:
    """320 blocks: 33 are wanted, 40 are computed, so few shapes occur."""
    grid = Ranked(Ramp()).plan(image(1024, 1280), share(33 / 320)).grid
    assert np.count_nonzero(grid == Action.HIGH) == 40


def test_ranking_costs_what_its_score_costs() -> None:
    assert Ranked(Ramp()).macs((200, 330), SIDE) == 200 * SIDE


@pytest.mark.parametrize("between", [Action.REUSE, Action.LOW])
def test_every_nth_frame_is_computed_in_full(between: Action) -> None:
    config = Config().updated({"keyframe_interval": 3, "block_size": SIDE})
    policy = Interval(between)
    told = [policy.plan(image(), config, Past(None, frames)) for frames in (1, 2, 3, 4)]
    assert [bool((plan.grid == Action.HIGH).all()) for plan in told] == [False, False, True, True]
    assert all((plan.grid == between).all() for plan in told[:2])
    assert [plan.reason for plan in told[2:]] == [Reason.INTERVAL] * 2
    assert told[0].reason in {Reason.MOVED, Reason.SHARPENED}
    assert policy.remembers


def test_a_lost_past_forces_a_full_frame_and_says_why() -> None:
    for lost in (Reason.FIRST, Reason.SCENE_CUT, Reason.AGE):
        plan = Interval(Action.REUSE).plan(image(), share(0.5), Past(lost, 1))
        assert (plan.grid == Action.HIGH).all()
        assert plan.reason is lost
