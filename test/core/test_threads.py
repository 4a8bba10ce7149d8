"""Fewer threads while cores are taken, all of them when they are free again."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.blocks import BlockLayout
from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.sparse import split
from seg_node.core.threads import (
    CoreUse,
    EVERY_S,
    FollowedThreads,
    FREE,
    HOLD_S,
    look,
    TAKEN,
    ThreadCount,
)
from seg_node.core.types import Action, Frame
from seg_node.nets.build import build_policies, load_model

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_S = 0.3


def noted(threads: ThreadCount, now_s: float, taken: float) -> int:
    """Note how many cores others had, and return the new count."""
    threads.note(now_s, taken)
    return threads.count


@pytest.mark.parametrize(
    ("cores", "most", "taken", "left"),
    [
        (2, 2, 0.7, 1),
        (2, 2, 1.0, 1),
        (8, 8, 1.0, 7),
        (8, 8, 3.2, 5),
        (2, 2, 1.9, 1),
        (8, 4, 3.9, 4),
        (8, 4, 5.0, 3),
    ],
)
def test_as_many_threads_stay_as_cores_are_left(
    cores: int, most: int, taken: float, left: int
) -> None:
    assert noted(ThreadCount(most, cores), 0.0, taken) == left


def test_a_little_other_work_is_usual() -> None:
    threads = ThreadCount(2, 2)
    for index in range(20):
        assert noted(threads, float(index), 0.95 * TAKEN) == 2


def test_threads_come_back_when_cores_are_free_but_not_at_once() -> None:
    threads = ThreadCount(4, 4)
    assert noted(threads, 10.0, 2.2) == 2
    assert noted(threads, 10.0 + 0.9 * HOLD_S, 0.0) == 2
    assert noted(threads, 10.0 + 1.1 * HOLD_S, 2 - 0.9 * FREE) == 2
    assert noted(threads, 10.0 + 1.2 * HOLD_S, 1.2) == 3
    assert noted(threads, 10.0 + 1.3 * HOLD_S, 0.1) == 4


class Told:
    """Three cores, of which others have as many as it is said."""

    count = 3

    def __init__(self) -> None:
        """Begin with all free."""
        self.now_ns = self.reads = 0
        self.use = CoreUse(0.0, 0.0)

    def read(self) -> CoreUse:
        """Return what happened so far."""
        self.reads += 1
        return self.use

    def clock(self) -> int:
        """Return the time."""
        return self.now_ns

    def step(self, threads: FollowedThreads, taken: float) -> int:
        """Run a step during which others had so many cores; return with how many it ran."""
        with threads:
            count = torch.get_num_threads()
            self.pass_by(taken)
        return count

    def pass_by(self, taken: float, seconds: float = STEP_S) -> None:
        """Let time go by in which this process had all other cores."""
        self.now_ns += round(seconds * 1e9)
        own = (self.count - taken) * seconds
        self.use = CoreUse(self.use.busy_s + self.count * seconds, self.use.own_s + own)


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Have torch use three threads; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_torch_follows() -> None:
    told = Told()
    threads = FollowedThreads(told, told.clock)
    assert [told.step(threads, 0.0) for _ in range(8)] == [3] * 8  # all cores are busy with it
    assert [told.step(threads, 1.9) for _ in range(3)] == [3, 1, 1]
    told.pass_by(0.0, HOLD_S)
    counts = [told.step(threads, 0.0) for _ in range(4)]
    assert counts[0] == 1
    assert counts[-1] == 3
    for _ in range(3):
        told.step(threads, 2.0)
    threads.release()
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_short_steps_are_judged_together_with_the_time_between_them() -> None:
    """A step of 5 ms may lie between two ticks by which work is counted; looking takes time."""
    told = Told()
    threads = FollowedThreads(told, told.clock)
    counts = []
    for _ in range(31):
        with threads:
            counts.append(torch.get_num_threads())
            told.pass_by(0.0, 0.1 * EVERY_S)
        told.pass_by(2.0, 0.1 * EVERY_S)
    assert counts[:5] == [3] * 5
    assert counts[8:] == [2] * 23
    assert told.reads <= 31 * 0.2 + 1


@pytest.mark.usefixtures("three_threads")
def test_a_late_step_is_looked_at_at_once() -> None:
    """Not only when the time for it has come: the next one might take a second."""
    told = Told()
    threads = FollowedThreads(told, told.clock)
    counts = []
    for taken, seconds in ((0.0, 0.06),) * 5 + ((1.9, 0.1),) * 3:
        with threads:
            counts.append(torch.get_num_threads())
            told.pass_by(taken, seconds)
    assert 4 * 0.06 < EVERY_S < 5 * 0.06  # the cores were looked at just before the first one
    assert counts == [3] * 6 + [1, 1]


@pytest.mark.usefixtures("three_threads")
def test_a_step_that_becomes_late_has_fewer_threads_for_the_rest_of_it() -> None:
    """Cores are taken in the middle of the last one; its parts take 20 ms each."""
    told = Told()
    threads = FollowedThreads(told, told.clock)
    for _ in range(5):
        with threads:
            for _ in range(5):
                look()
                told.pass_by(0.0, 0.02)
    counts, reads = [], told.reads
    with threads:
        for index in range(12):
            look()
            counts.append(torch.get_num_threads())
            told.pass_by(0.0 if index < 2 else 1.9, 0.02)
    late = 8  # parts that take more than 1.4 times 100 ms
    assert counts == [3] * late + [2] * (12 - late)
    assert told.reads - reads <= 2
    look()  # outside of a step there is nothing to look at
    assert told.reads - reads <= 2


@pytest.mark.usefixtures("three_threads")
def test_blocks_are_looked_after_between_their_operations() -> None:
    """The step of a network on blocks looks at the cores though it has not ended."""
    told = Told()
    threads = FollowedThreads(told, told.clock)
    layout = BlockLayout(np.full((1, 2, 2), Action.HIGH, np.uint8), 32, (64, 64))
    x: Any = split(torch.zeros(1, 3, 64, 64), layout)
    with threads:
        told.pass_by(0.0, 0.01)
    with threads:
        told.pass_by(1.0, 1.0)
        torch.relu(x)
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("three_threads")
def test_only_under_a_latency_budget() -> None:
    """Masks of other budgets do not depend on what else runs on the machine."""
    told = Told()
    config = Config(device="cpu", mode="dense").updated({"budget.latency_ms": 50.0})
    model = load_model("swiftnet18-half")
    segmenter = Segmenter(
        Waiting(told), build_policies(model, config), config, clock=told.clock, cores=told
    )
    image = np.zeros((64, 96, 3), np.uint8)
    for index in range(6):
        segmenter.step(Frame(image, index))
    assert torch.get_num_threads() == 1
    segmenter.reconfigure(config.updated({"budget.latency_ms": 0.0}))
    segmenter.step(Frame(image, 6))
    assert torch.get_num_threads() == 3
    reads = told.reads
    segmenter.step(Frame(image, 7))
    assert told.reads == reads


class Waiting(torch.nn.Module):
    """A network in whose steps others have two of three cores."""

    classes, stride, feature_channels = 2, 1, 3

    def __init__(self, told: Told) -> None:
        """Take the machine."""
        super().__init__()
        self.told = told

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        self.told.pass_by(2.0)
        return image.float()

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return two of the colours."""
        return features[:, :2]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return both after each other."""
        return self.head(self.features(image))
