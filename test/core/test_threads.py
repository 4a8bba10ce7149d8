"""Fewer threads while cores are taken, all of them when they are free again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.threads import (
    CoreUse,
    EVERY_S,
    FollowedThreads,
    FREE,
    HOLD_S,
    LOOKED_S,
    TAKEN,
    ThreadCount,
)
from seg_node.core.types import Frame
from seg_node.nets.build import build_policies, load_model

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_S = 0.1


def noted(threads: ThreadCount, now_s: float, waiting: float = 0.0, idle: float = 0.0) -> int:
    """Note a step in which so many threads waited and so many cores were idle; the new count."""
    threads.note(now_s, STEP_S, CoreUse(waiting * STEP_S, idle * STEP_S))
    return threads.count


@pytest.mark.parametrize(
    ("most", "taken", "left"), [(2, 1.0, 1), (8, 1.0, 7), (8, 3.2, 5), (2, 5.0, 1)]
)
def test_as_many_threads_go_as_wait_but_the_last(most: int, taken: float, left: int) -> None:
    assert noted(ThreadCount(most), 0.0, waiting=taken) == left


def test_some_waiting_is_usual_and_cores_are_idle_between_operations() -> None:
    threads = ThreadCount(4)
    for index in range(20):
        assert noted(threads, index * STEP_S, waiting=0.9 * TAKEN, idle=0.9 * FREE) == 4


def test_threads_come_back_when_cores_are_free_but_not_at_once() -> None:
    threads = ThreadCount(4)
    assert noted(threads, 10.0, waiting=2.0) == 2
    assert noted(threads, 10.0 + 0.9 * HOLD_S, idle=2.0) == 2
    assert noted(threads, 10.0 + 1.1 * HOLD_S, idle=0.5) == 2
    assert noted(threads, 10.0 + 1.2 * HOLD_S, idle=1.0) == 3
    assert noted(threads, 10.0 + 1.3 * HOLD_S, idle=3.0) == 4


def test_short_steps_are_judged_together() -> None:
    """A step of 5 ms may lie between two ticks by which idle time is counted."""
    threads = ThreadCount(2)
    parts = round(LOOKED_S / 0.005)
    for index in range(parts):
        assert threads.count == 2
        threads.note(0.01 * index, 0.0051, CoreUse(0.005, 0.0))
    assert threads.count == 1


class Told:
    """Cores that are taken or free as it is said."""

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

    def step(self, threads: FollowedThreads, waiting: float, idle: float) -> int:
        """Run a step during which so many threads waited; return with how many it ran."""
        with threads:
            count = torch.get_num_threads()
            self.pass_by(waiting, idle)
        return count

    def pass_by(self, waiting: float, idle: float) -> None:
        """Let the time of a step go by."""
        self.now_ns += round(STEP_S * 1e9)
        use = self.use
        self.use = CoreUse(use.waited_s + waiting * STEP_S, use.idle_s + idle * STEP_S)


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
    counts = [told.step(threads, 1.0, 0.0) for _ in range(8)]
    assert counts[0] == 3
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)
    told.now_ns += round(HOLD_S * 1e9)
    counts = [told.step(threads, 0.0, 1.0) for _ in range(8)]
    assert counts[0] == 1
    assert counts[-1] == 3
    for _ in range(8):
        told.step(threads, 1.0, 0.0)
    threads.release()
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_few_steps_are_looked_at() -> None:
    told = Told()
    threads = FollowedThreads(told, told.clock)
    for _ in range(30):
        with threads:
            told.now_ns += round(0.2 * EVERY_S * 1e9)
    assert told.reads <= 2 * (30 * 0.2 + 1)


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
    """A network in whose steps two threads wait for a core."""

    classes, stride, feature_channels = 2, 1, 3

    def __init__(self, told: Told) -> None:
        """Take the machine."""
        super().__init__()
        self.told = told

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        self.told.pass_by(2.0, 0.0)
        return image.float()

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return two of the colours."""
        return features[:, :2]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return both after each other."""
        return self.head(self.features(image))
