"""Gates without training: what they keep, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.config import Config
from seg_node.core.gate import DistortionGate, DOUBT_FLOOR, Gated, TOLERANCE, WHOLE
from seg_node.core.gated_modules import GatedModule
from seg_node.core.policy import GatePast, Past
from seg_node.core.types import Action, ConfigError, Reason

IMAGE = torch.zeros(1, 3, 96, 128, dtype=torch.uint8)
CONFIG = Config(mode="stmg", block_size=32)
GRID = (3, 4)
DOUBT = 0.48
UNDECIDED = TOLERANCE / (DOUBT + DOUBT_FLOOR)
"""Distortion at which a gate is undecided, in a bin of that doubt."""


def block(stride: int) -> GatedModule:
    return GatedModule("block", nn.Identity(), stride, stride, 1)


BLOCKS = (block(4), block(16))


def past(distortion: np.ndarray | float, oldest_ms: np.ndarray | float = 66.0) -> Past:
    shape = (len(BLOCKS), *GRID)
    return Past(
        None,
        1,
        gates=GatePast(
            np.broadcast_to(np.asarray(distortion, float), shape).copy(),
            np.broadcast_to(np.asarray(oldest_ms, float), shape).copy(),
            np.full(GRID, DOUBT),
        ),
    )


def test_untrained_gates_are_undecided_at_their_tolerance() -> None:
    """One for all stages, or one each."""
    gates = past(UNDECIDED).gates
    assert gates is not None
    np.testing.assert_allclose(DistortionGate()(gates, CONFIG), 0.5)
    score = DistortionGate(TOLERANCE * np.array([1.0, 3.0])[:, None, None])
    np.testing.assert_allclose(score(gates, CONFIG)[:, 0, 0], [0.5, 0.25])


def test_more_doubt_scores_more() -> None:
    gates = past(3.0).gates
    assert gates is not None
    less, more = (
        DistortionGate()(replace(gates, doubt=np.full(GRID, doubt)), CONFIG)
        for doubt in (0.1, 0.2)
    )
    assert (more > less).all()


def test_more_distortion_never_drops_more() -> None:
    rng = np.random.default_rng(0)
    grown = 0
    for threshold in (0.2, 0.5, 0.8):
        config = CONFIG.updated({"gate.threshold": threshold})
        less = rng.uniform(0, 3, (2, *GRID))
        plans = [Gated(BLOCKS).plan(IMAGE, config, past(d)) for d in (less, less + 1)]
        before, after = (plan.gates for plan in plans)
        assert before is not None
        assert after is not None
        assert (after >= before).all()
        grown += int(after.sum() - before.sum())
    assert grown > 0


def test_blocks_are_kept_from_the_threshold_on() -> None:
    """Each on its own; the grid tells where at least half of them are."""
    distortion = np.full((2, *GRID), 0.1 * UNDECIDED)
    distortion[0, 0, 0], distortion[:, 1, 1] = 1.001 * UNDECIDED, 20 * UNDECIDED
    distortion[0, 2, 2] = 0.999 * UNDECIDED
    plan = Gated(BLOCKS).plan(IMAGE, CONFIG, past(distortion))
    assert plan.gates is not None
    assert plan.reason is Reason.GATED
    assert np.argwhere(plan.gates).tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 1]]
    assert np.argwhere(plan.grid == Action.HIGH).tolist() == [[0, 0], [1, 1]]
    assert plan.distortion == pytest.approx(distortion.mean())


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, True), (1.0, False)])
def test_the_ends_of_the_threshold(threshold: float, *, kept: bool) -> None:
    config = CONFIG.updated({"gate.threshold": threshold})
    distortion = 0.0 if kept else 64.0
    plan = Gated(BLOCKS).plan(IMAGE, config, past(distortion))
    assert plan.gates is not None
    assert (plan.gates == kept).all()


def test_only_scores_that_were_needed_are_in_the_account() -> None:
    class Costly(DistortionGate):
        def macs(self, grid: tuple[int, int]) -> int:
            return 100 * grid[0] * grid[1]

    policy = Gated(BLOCKS, Costly())
    found = []
    for threshold, known in ((0.5, Past(Reason.FIRST)), (0.5, past(1.0)), (0.0, past(1.0))):
        policy.plan(IMAGE, CONFIG.updated({"gate.threshold": threshold}), known)
        found.append(policy.macs((96, 128), 32))
    assert found == [0, 1200, 0]


def test_most_bins_are_all_bins() -> None:
    for count in range(13):
        distortion = np.zeros((2, *GRID))
        distortion[1].flat[:count] = 64.0
        plan = Gated(BLOCKS).plan(IMAGE, CONFIG, past(distortion))
        assert plan.gates is not None
        assert not plan.gates[0].any()
        assert plan.gates[1].sum() == (12 if count > WHOLE * 12 else count)


def test_what_is_due_is_kept_before_it_is_too_old_and_not_at_once() -> None:
    config = CONFIG.updated({"max_age_ms": 1000.0})
    counts = []
    for age in range(0, 1101, 50):
        plan = Gated(BLOCKS).plan(IMAGE, config, past(0.0, float(age)))
        assert plan.gates is not None
        assert (plan.gates[0] == plan.gates[1]).all()
        counts.append(int(plan.gates[0].sum()))
    assert counts[10] == 0  # 500 ms
    assert counts[20] >= 11  # 1000 ms
    assert counts[21] == 12
    assert max(np.diff(counts)) <= 4


def test_what_is_lost_is_computed() -> None:
    plan = Gated(BLOCKS).plan(IMAGE, CONFIG, Past(Reason.SCENE_CUT))
    assert plan.reason is Reason.SCENE_CUT
    assert plan.gates is not None
    assert plan.gates.shape == (2, *GRID)
    assert plan.gates.all()


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"gate\.threshold is .*; allowed are 0\.0 to 1\.0"):
        CONFIG.updated({"gate.threshold": value})
