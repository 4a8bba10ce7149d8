"""When the network gets smaller and when data are slimmed, under one budget of MACs.

The cuts of the network are planned first; what they leave of the budget of training MACs says how
strongly data must be slimmed. Both are known before the first step, so that a batch stays a pure
function of (seed, step).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.train.data_slimming import DataManifest, DataRules, find_strength, slim_data

if TYPE_CHECKING:
    from seg_node.train.complexity import Scored
    from seg_node.train.slim_settings import SlimTraining

SEQUEL = 0.5
"""Share of the steps in which `sequential` slims data; the rest is a schedule of cuts alone."""


@dataclass(frozen=True)
class NetworkCut:
    """One time at which the network gets smaller.

    Attributes:
        step: the first step of the smaller network.
        share: MACs that it has at most, as a share of the whole network's.

    """

    step: int
    share: float


@dataclass(frozen=True)
class Schedule:
    """What happens when.

    Attributes:
        cuts: of the network, in order.
        data_steps: first step with slimmed data, and first one after them.
        data_share: what a sample of slimmed data may cost of a whole one; 1 without slimming.

    """

    cuts: tuple[NetworkCut, ...]
    data_steps: tuple[int, int]
    data_share: float


def plan(config: SlimTraining) -> Schedule:
    """Return the schedule that the settings ask for.

    Raises:
        ConfigError: there are too few steps for the cuts, or the budget is spent without data.

    """
    cuts = _cuts(config) if config.slims_network else ()
    steps = (0, 0)
    if config.slims_data:
        last = SEQUEL if config.slim == "sequential" else 1.0 - config.whole_share
        steps = (0, round(last * config.steps))
    slimmed = _network_steps(cuts, *steps)
    whole = _network_steps(cuts, 0, config.steps) - slimmed
    if not slimmed:
        return Schedule(cuts, steps, 1.0)
    share = (config.training_macs * config.steps - whole) / slimmed
    if share <= 0.0:
        msg = (
            f"training_macs {config.training_macs} of {config.steps} steps are "
            f"{config.training_macs * config.steps:.0f} whole steps, and those with whole data "
            f"alone cost {whole:.0f}: raise training_macs, or lower whole_share"
        )
        raise ConfigError(msg)
    return Schedule(cuts, steps, min(1.0, share))


def slimmed_data(
    config: SlimTraining, schedule: Schedule, scored: Scored, loose: float = 0.0
) -> DataManifest:
    """Return how frames are shown so that the budget is kept.

    Args:
        config: what slimming data may do.
        schedule: what a sample may cost.
        scored: the frames.
        loose: share of samples that are no listed frames; see `DataRules`.

    Raises:
        ConfigError: the budget cannot be kept; the text says what would remain.

    """
    rules = DataRules(config.least_scale, config.least_keep, config.reweight, loose)
    if schedule.data_share >= 1.0:
        return slim_data(scored, 0.0, rules)
    return find_strength(scored, schedule.data_share, rules, config.area)


def _cuts(config: SlimTraining) -> tuple[NetworkCut, ...]:
    """Return cuts at even distances that take equal parts of the MACs."""
    first, last = config.first_cut, config.last_cut
    if config.slim == "sequential":
        first, last = (SEQUEL + (1.0 - SEQUEL) * share for share in (first, last))
    count = config.cuts
    gap = (last - first) / max(1, count - 1)
    steps = [max(1, round(config.steps * (first + gap * index))) for index in range(count)]
    if any(a >= b for a, b in pairwise([*steps, config.steps])):
        msg = (
            f"cuts is {count} within {config.steps} steps: they would fall on steps {steps}; "
            f"lower cuts, or raise steps"
        )
        raise ConfigError(msg)
    lost = (1.0 - config.inference_macs) / count
    return tuple(
        NetworkCut(step, config.inference_macs if index == count else 1.0 - lost * index)
        for index, step in enumerate(steps, 1)
    )


def _network_steps(cuts: tuple[NetworkCut, ...], first: int, last: int) -> float:
    """Return what steps from `first` to `last` cost with whole data, in steps of the network."""
    changes = (NetworkCut(0, 1.0), *cuts, NetworkCut(last, 0.0))
    return sum(
        max(0, min(last, after.step) - max(first, now.step)) * now.share
        for now, after in pairwise(changes)
    )
