"""Slimmed data: the simplest first, no more than the budget needs, and always the same list."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import ConfigError, DataError
from seg_node.train.complexity import Scored
from seg_node.train.data_slimming import (
    cost_of,
    DataManifest,
    DataRules,
    find_strength,
    SCALES,
    slim_data,
)

if TYPE_CHECKING:
    from pathlib import Path

RULES = DataRules(least_scale=0.5, least_keep=0.4, reweight=0.5)
COUNT = 40


def scored(seed: int = 0) -> Scored:
    scores = np.random.default_rng(seed).random(COUNT)
    return Scored("gradient", tuple(f"{index:03d}" for index in range(COUNT)), scores)


def square(scale: float) -> float:
    return scale * scale


def test_no_strength_leaves_all_as_they_are_and_full_strength_slims_all() -> None:
    for strength, scale, keep in ((0.0, 1.0, 1.0), (1.0, 0.5, 0.4)):
        frames = slim_data(scored(), strength, RULES).frames
        assert {(frame.scale, frame.keep) for frame in frames} == {(scale, keep)}
        assert {round(frame.weight, 9) for frame in frames} == {1.0}


def test_simple_frames_are_smaller_and_rarer_than_complex_ones() -> None:
    made = slim_data(scored(), 0.5, RULES)
    frames = sorted(made.frames, key=lambda frame: frame.score)
    assert all(a.scale <= b.scale and a.keep < b.keep for a, b in pairwise(frames))
    assert {frame.scale for frame in frames} == set(SCALES)
    assert frames[0].keep == pytest.approx(0.4)
    assert frames[-1].keep == 1.0
    coarse = slim_data(scored(), 0.5, replace(RULES, least_scale=0.75))
    assert {frame.scale for frame in coarse.frames} == {1.0, 0.75}


@pytest.mark.parametrize("reweight", [-1.0, 0.0, 0.5, 1.0])
def test_weights_are_one_on_average_over_what_is_used(reweight: float) -> None:
    frames = slim_data(scored(), 0.5, replace(RULES, reweight=reweight)).frames
    keep = np.array([frame.keep for frame in frames])
    weight = np.array([frame.weight for frame in frames])
    assert (keep * weight).sum() / keep.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weight * keep**reweight, (weight * keep**reweight)[0])


@pytest.mark.parametrize("target", [0.95, 0.6, 0.3])
def test_the_weakest_slimming_within_the_budget_is_found(target: float) -> None:
    made = find_strength(scored(), target, RULES, square)
    assert target - 0.05 < cost_of(made, square, 0.0) <= target
    weaker = slim_data(scored(), made.strength - 1e-6, RULES)
    assert cost_of(weaker, square, 0.0) > target
    assert find_strength(scored(), 1.0, RULES, square).strength == 0.0


def test_what_is_no_listed_frame_shrinks_with_the_step_but_is_not_dropped() -> None:
    full = slim_data(scored(), 1.0, RULES)
    assert cost_of(full, square, 0.0) == pytest.approx(0.25 * 0.4)
    assert cost_of(full, square, 0.5) == pytest.approx(0.25 * 0.7)


def test_data_slimmed_to_nothing_are_refused_with_the_numbers() -> None:
    text = (
        r"the 40 frames may cost 0.050 of what they cost whole, and 0.100 remain with all of "
        r"them at scale 0.5 and kept with probability 0.4: raise training_macs, or lower"
    )
    with pytest.raises(ConfigError, match=text):
        find_strength(scored(), 0.05, RULES, square)


def test_the_list_is_the_same_bit_for_bit_and_is_read_back(tmp_path: Path) -> None:
    first = find_strength(scored(), 0.5, RULES, square)
    path = first.write(tmp_path)
    content = path.read_bytes()
    assert DataManifest.read(path) == first
    assert find_strength(scored(), 0.5, RULES, square).write(tmp_path).read_bytes() == content
    assert find_strength(scored(1), 0.5, RULES, square).write(tmp_path).read_bytes() != content
    path.write_text('{"frames": [1]}')
    with pytest.raises(DataError, match=r"data_slimming.json is not a list of slimmed data"):
        DataManifest.read(path)
