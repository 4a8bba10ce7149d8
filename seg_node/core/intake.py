"""Where frames wait: the newest-frame rule of one camera, and the turns that several take.

Putting never blocks, so a callback that puts never starves its executor. Everything here may be
used by several threads.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from threading import Condition
from typing import Generic, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

T = TypeVar("T")

QUEUE_LIMIT = 256
"""Most frames that wait in `every`; beyond it the oldest is dropped and counted."""


class Intake(Generic[T]):
    """A place for waiting items: `newest` keeps one, `every` keeps them in order.

    Args:
        condition: lock and bell that several intakes share; None for one of its own.

    Attributes:
        received: items that were put.
        dropped: items that were overtaken by newer ones.

    """

    def __init__(self, condition: Condition | None = None) -> None:
        """Start empty, open, and keeping the newest only."""
        self._items: deque[T] = deque()
        self._condition = condition or Condition()
        self._limit = 1
        self._closed = False
        self.received = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Number of items that wait."""
        return len(self._items)

    def keep(self, overload: str) -> None:
        """Set what waits, by the value of the `overload` setting; surplus items are dropped."""
        with self._condition:
            self._limit = 1 if overload == "newest" else QUEUE_LIMIT
            self._shed()

    def put(self, item: T) -> None:
        """Add an item; an older one that no longer fits is dropped and counted."""
        with self._condition:
            if self._closed:
                return
            self.received += 1
            self._items.append(item)
            self._shed()
            self._condition.notify_all()

    def take(self, timeout_s: float | None = None) -> T | None:
        """Remove and return the oldest item; None when closed or after `timeout_s` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._items) or self._closed, timeout_s)
            return self._items.popleft() if self._items else None

    def drain(self) -> list[T]:
        """Remove and return all that waits now, oldest first."""
        with self._condition:
            items = list(self._items)
            self._items.clear()
            return items

    def close(self) -> None:
        """Forget what waits, take nothing more, and let every `take` return None from now on."""
        with self._condition:
            self._closed = True
            self._items.clear()
            self._condition.notify_all()

    def clear(self) -> None:
        """Forget what waits, uncounted; the intake stays open."""
        with self._condition:
            self._items.clear()

    def _shed(self) -> None:
        while len(self._items) > self._limit:
            self._items.popleft()
            self.dropped += 1


class Turns(Generic[T]):
    """The intakes of several cameras, served in turns.

    Of the cameras that have an item waiting, the one whose last turn is longest ago comes next. So
    a waiting camera is passed over at most once by each of the others, whatever their rates, and
    one that sends nothing costs the others nothing.

    Args:
        names: names of the cameras, all different; the first of them has the first turn.

    Attributes:
        cleared: how often `clear` was called.

    """

    def __init__(self, names: Iterable[str]) -> None:
        """Start with empty intakes that keep the newest only."""
        self._bell = Condition()
        self._intakes: dict[str, Intake[T]] = {name: Intake(self._bell) for name in names}
        self._order = list(self._intakes)
        self._closed = False
        self.cleared = 0

    def __getitem__(self, name: str) -> Intake[T]:
        """Return the intake of a camera."""
        return self._intakes[name]

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def take(
        self, timeout_s: float | None = None, without: Collection[str] = ()
    ) -> tuple[str, T] | None:
        """Remove the oldest item of the camera whose turn it is.

        Args:
            timeout_s: how long to wait for an item; None for ever.
            without: cameras that are passed over.

        Returns:
            The camera's name and the item; None when closed or after `timeout_s` seconds.

        """
        with self._bell:
            waits = partial(self._next, without)
            self._bell.wait_for(lambda: self._closed or waits() is not None, timeout_s)
            name = waits()
            item = None if name is None else self._intakes[name].take(0.0)
            if name is None or item is None:
                return None
            self._order.remove(name)
            self._order.append(name)
            return name, item

    def close(self) -> None:
        """Forget what waits, take nothing more, and let every `take` return None from now on."""
        with self._bell:
            self._closed = True
            for intake in self._intakes.values():
                intake.close()

    def clear(self) -> None:
        """Forget what waits, uncounted; the intakes stay open."""
        self.cleared += 1
        for intake in self._intakes.values():
            intake.clear()

    def _next(self, without: Collection[str]) -> str | None:
        """Return the camera whose turn it is, None if nothing waits."""
        waiting = (name for name in self._order if self._intakes[name].waiting)
        return next((name for name in waiting if name not in without), None)
