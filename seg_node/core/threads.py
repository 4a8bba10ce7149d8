"""How many threads a step on the CPU computes with: fewer while other processes take cores.

Threads of one operation wait for each other, awake. Where another process takes a core, one of
them waits for its turn on it and all the others for that one: a step on all cores then takes
longer than on one thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 0.15
"""Time from one step that is looked at to the next: looking takes time, too."""

LOOKED_S = 0.05
"""Least time of steps that anything is concluded from; what is idle comes in steps of 10 ms."""

TAKEN = 0.3
"""Threads that wait for a core, on the mean of a step, from which on there are too many."""

FREE = 0.7
"""Cores that are idle, on the mean of a step, from which on there may be one more."""

HOLD_S = 1.0
"""Time after there were too many before there may be one more."""

_NS_PER_S = 1e9


class CoreUse(NamedTuple):
    """What the machine's cores did since some time in the past.

    Attributes:
        waited_s: time that threads of this process were ready and had no core, summed up.
        idle_s: time that cores had nothing to do, likewise.

    """

    waited_s: float
    idle_s: float


class Cores(Protocol):
    """The cores of this machine."""

    def read(self) -> CoreUse:
        """Return what they did so far."""
        ...


@dataclass
class ThreadCount:
    """Says how many threads there should be, from what cores did during steps.

    Attributes:
        most: threads where nobody else needs a core, at least 1.
        count: threads now.

    """

    most: int
    count: int = field(init=False)
    _looked_s: float = 0.0
    _waited_s: float = 0.0
    _idle_s: float = 0.0
    _dropped_s: float = float("-inf")

    def __post_init__(self) -> None:
        """Begin with all."""
        self.count = self.most

    def note(self, now_s: float, step_s: float, use: CoreUse) -> None:
        """Take note of a step, and change the count if there is reason to.

        Args:
            now_s: when it ended, by a clock that never goes back.
            step_s: how long it took.
            use: what cores did meanwhile.

        """
        self._looked_s += step_s
        self._waited_s += use.waited_s
        self._idle_s += use.idle_s
        if self._looked_s < LOOKED_S:
            return
        waiting, idle = self._waited_s / self._looked_s, self._idle_s / self._looked_s
        self._looked_s = self._waited_s = self._idle_s = 0.0
        if waiting > TAKEN and self.count > 1:
            self.count = max(1, self.count - max(1, round(waiting)))
            self._dropped_s = now_s
        elif idle > FREE and self.count < self.most and now_s - self._dropped_s >= HOLD_S:
            self.count = min(self.most, self.count + max(1, round(idle)))


class FollowedThreads:
    """Has torch compute steps with as many threads as there are cores for.

    Use it as a context around a step, from one thread.

    Args:
        cores: of this machine.
        clock: nanoseconds that never go back.

    """

    def __init__(self, cores: Cores, clock: Callable[[], int]) -> None:
        """Take torch's present number of threads for the most."""
        self._cores = cores
        self._clock = clock
        self._threads = ThreadCount(torch.get_num_threads())
        self._set = self._threads.most
        self._looked_ns: int | None = None
        self._begun: tuple[int, CoreUse] | None = None

    def __enter__(self) -> None:
        """Begin a step."""
        self._use(self._threads.count)
        now_ns = self._clock()
        if self._looked_ns is None or now_ns - self._looked_ns >= EVERY_S * _NS_PER_S:
            self._begun = now_ns, self._cores.read()

    def __exit__(self, *failure: object) -> None:
        """End it, and see how many threads there should be in the next one."""
        if self._begun is None:
            return
        (since_ns, before), self._begun = self._begun, None
        now_ns, after = self._clock(), self._cores.read()
        self._looked_ns = now_ns
        use = CoreUse(after.waited_s - before.waited_s, after.idle_s - before.idle_s)
        # Threads that ended in between take the time that they waited with them.
        if use.waited_s >= 0:
            self._threads.note(now_ns / _NS_PER_S, (now_ns - since_ns) / _NS_PER_S, use)

    def release(self) -> None:
        """Let torch have all threads again."""
        self._use(self._threads.most)

    def _use(self, count: int) -> None:
        if count != self._set:  # torch forgets how it computed each layer, whenever it is told
            torch.set_num_threads(count)
            self._set = count
