"""One budget for data and network: what the cuts leave is what data may cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seg_node.core.types import ConfigError
from seg_node.train.complexity import Scored
from seg_node.train.data_slimming import cost_of
from seg_node.train.slim_schedule import NetworkCut, plan, slimmed_data
from seg_node.train.slim_settings import SlimTraining

HUNDRED = SlimTraining(
    steps=100, cuts=2, first_cut=0.2, last_cut=0.4, inference_macs=0.5, training_macs=0.5
)
SCORED = Scored("gradient", tuple("abcdefgh"), np.arange(8.0))


def test_cuts_take_equal_parts_of_the_macs_at_even_distances() -> None:
    cuts = plan(replace(HUNDRED, cuts=3)).cuts
    assert [cut.step for cut in cuts] == [20, 30, 40]
    assert [cut.share for cut in cuts] == pytest.approx([5 / 6, 4 / 6, 0.5])
    assert cuts[-1].share == 0.5
    assert plan(replace(HUNDRED, cuts=1)).cuts == (NetworkCut(20, 0.5),)


def test_data_may_cost_what_the_network_leaves() -> None:
    made = plan(HUNDRED)
    assert made.data_steps == (0, 90)
    # 20 whole steps, 20 at 3/4 and 50 at 1/2 are slimmed; 10 at 1/2 are not.
    assert made.data_share == pytest.approx((50.0 - 5.0) / (20.0 + 15.0 + 25.0))


def test_one_after_the_other() -> None:
    made = plan(replace(HUNDRED, slim="sequential", training_macs=0.6))
    assert made.data_steps == (0, 50)
    assert [cut.step for cut in made.cuts] == [60, 70]
    # 10 whole steps, 10 at 3/4 and 30 at 1/2 with whole data.
    assert made.data_share == pytest.approx((60.0 - 32.5) / 50.0)


def test_alone() -> None:
    data = plan(replace(HUNDRED, slim="data"))
    assert (data.cuts, data.data_steps) == ((), (0, 90))
    assert data.data_share == pytest.approx((50.0 - 10.0) / 90.0)
    network = plan(replace(HUNDRED, slim="network"))
    assert (len(network.cuts), network.data_steps, network.data_share) == (2, (0, 0), 1.0)
    neither = plan(replace(HUNDRED, slim="neither"))
    assert (neither.cuts, neither.data_steps, neither.data_share) == ((), (0, 0), 1.0)


def test_a_budget_that_the_network_alone_keeps_leaves_data_whole() -> None:
    made = plan(replace(HUNDRED, training_macs=0.9))
    assert made.data_share == 1.0
    assert slimmed_data(HUNDRED, made, SCORED).strength == 0.0


def test_data_are_slimmed_to_their_share() -> None:
    made = plan(HUNDRED)
    data = slimmed_data(HUNDRED, made, SCORED)
    assert data.strength > 0.0
    assert cost_of(data, HUNDRED.area, 0.0) <= made.data_share
    loose = slimmed_data(HUNDRED, made, SCORED, 0.9)
    assert loose.strength > data.strength
    assert cost_of(loose, HUNDRED.area, 0.9) <= made.data_share


def test_what_cannot_be_is_refused_with_the_numbers() -> None:
    text = r"training_macs 0.04 of 100 steps are 4 whole steps, .* alone cost 5: raise"
    with pytest.raises(ConfigError, match=text):
        plan(replace(HUNDRED, training_macs=0.04))
    with pytest.raises(ConfigError, match=r"cuts is 5 within 4 steps: they would fall on steps"):
        plan(replace(HUNDRED, steps=4, cuts=5))
    small = replace(HUNDRED, training_macs=0.1)
    with pytest.raises(ConfigError, match=r"the 8 frames may cost 0.083 .* 0.125 remain"):
        slimmed_data(small, plan(small), SCORED)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch": 1}, "batch is 1; slimmed data need 2 or more"),
        ({"first_cut": 0.5}, "first_cut 0.5 is after last_cut 0.4; swap them"),
        ({"inference_macs": 0.0}, "inference_macs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(HUNDRED, **changes)
