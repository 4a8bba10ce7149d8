"""How many threads a step on the CPU computes with: fewer while other processes take cores.

Threads of one operation wait for each other, awake. Where another process takes a core, one of
them waits for its turn on it and all the others for that one: a step on all cores then takes
longer than on one thread, and now and then many times as long as usual.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass, field
import math
from typing import NamedTuple, Protocol, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 0.25
"""Time from one look at the cores to the next: their work is counted in ticks of 10 ms."""

LATE = 1.4
"""Times as long as usual that a step takes from which on the cores are looked at before that."""

LEAST_S = 0.1
"""Least time that is looked at then: ticks at its ends alone must not look like a taken core."""

TAKEN = 0.5
"""Cores that other processes have, of those that threads need, from which on there are too many
threads."""

FREE = 0.7
"""Part of a core that must be free before there is one more thread on it."""

HOLD_S = 1.0
"""Time after there were too many before there may be more."""

_NS_PER_S = 1e9


class CoreUse(NamedTuple):
    """What the machine's cores did since some time in the past.

    What threads of this process wait for cores says less: those of several libraries wait for
    each other, with no other process around.

    Attributes:
        busy_s: time that cores worked, for whomever, summed up.
        own_s: time that threads of this process ran, likewise.

    """

    busy_s: float
    own_s: float


class Cores(Protocol):
    """The cores that this process may use."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def read(self) -> CoreUse:
        """Return what they did so far."""
        ...


@dataclass
class ThreadCount:
    """Says how many threads there should be, from what cores did.

    Attributes:
        most: threads where nobody else needs a core, at least 1.
        cores: cores that there are.
        count: threads now.

    """

    most: int
    cores: int
    count: int = field(init=False)
    _dropped_s: float = float("-inf")

    def __post_init__(self) -> None:
        """Begin with all."""
        self.count = self.most

    def note(self, now_s: float, taken: float) -> None:
        """Change the count if there is reason to.

        Args:
            now_s: the time, by a clock that never goes back.
            taken: cores that other processes had since the time before, on the mean.

        """
        free = self.cores - taken
        room = math.floor(free + TAKEN)
        if room < self.count and self.count > 1:
            self.count = max(1, room)
            self._dropped_s = now_s
        elif now_s - self._dropped_s >= HOLD_S:
            self.count = max(self.count, min(self.most, math.floor(free + 1 - FREE)))


_FOLLOWED: ContextVar[FollowedThreads | None] = ContextVar("followed", default=None)
"""What the step runs in that this thread computes."""


def look() -> None:
    """Let a step that takes longer than usual use fewer threads for what is left of it.

    To be called between the operations of a step; costs next to nothing where it is not late.
    """
    followed = _FOLLOWED.get()
    if followed is not None:
        followed.look()


class FollowedThreads:
    """Has torch compute steps with as many threads as there are cores for.

    Use it as a context around a step, from one thread; `look` then looks at the cores within it.

    Args:
        cores: of this machine.
        clock: nanoseconds that never go back.

    """

    def __init__(self, cores: Cores, clock: Callable[[], int]) -> None:
        """Take torch's present number of threads for the most."""
        self._cores = cores
        self._clock = clock
        self._threads = ThreadCount(torch.get_num_threads(), cores.count)
        self._set = self._threads.most
        self._looked: tuple[int, CoreUse] | None = None
        self._began_ns = self._usual_ns = 0
        self._token: Token[FollowedThreads | None]

    def __enter__(self) -> None:
        """Begin a step."""
        self._use(self._threads.count)
        if self._looked is None:
            self._looked = self._clock(), self._cores.read()
        self._began_ns = self._clock()
        self._token = _FOLLOWED.set(self)

    def __exit__(self, *failure: object) -> None:
        """End it, and see how many threads there should be in the next one."""
        _FOLLOWED.reset(self._token)
        now_ns = self._clock()
        took_ns = now_ns - self._began_ns
        usual_ns = self._usual_ns or took_ns
        late_ns = round(LATE * usual_ns)
        self._look(now_ns, LEAST_S if took_ns > late_ns else EVERY_S)
        # What is usual follows slowly.
        self._usual_ns = round(usual_ns + (min(took_ns, late_ns) - usual_ns) / 8)

    def look(self) -> None:
        """Between two parts of a step: if it is late, see whether there are too many threads."""
        now_ns = self._clock()
        if self._usual_ns and now_ns - self._began_ns > LATE * self._usual_ns:
            self._look(now_ns, LEAST_S)
            self._use(self._threads.count)

    def _look(self, now_ns: int, after_s: float) -> None:
        """Look at the cores, if the last time was so long ago."""
        assert self._looked is not None
        since_ns, before = self._looked
        passed_s = (now_ns - since_ns) / _NS_PER_S
        if passed_s < after_s:
            return
        use = self._cores.read()
        self._looked = now_ns, use
        others_s = use.busy_s - before.busy_s - (use.own_s - before.own_s)
        self._threads.note(now_ns / _NS_PER_S, max(0.0, others_s / passed_s))

    def release(self) -> None:
        """Let torch have all threads again."""
        self._use(self._threads.most)

    def _use(self, count: int) -> None:
        if count != self._set:  # torch forgets how it computed each layer, whenever it is told
            torch.set_num_threads(count)
            self._set = count
