"""Where frames wait: the newest-frame rule, shared by the node and by replay."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")

QUEUE_LIMIT = 256
"""Most frames that wait in `every`; beyond it the oldest is dropped and counted."""


class Intake(Generic[T]):
    """A place for waiting items: `newest` keeps one, `every` keeps them in order.

    Putting never blocks, so a callback that puts never starves its executor. Thread-safe.
    """

    def __init__(self) -> None:
        """Start empty, open, and keeping the newest only."""
        self._items: deque[T] = deque()
        self._condition = Condition()
        self._limit = 1
        self._closed = False
        self.received = 0
        self.dropped = 0

    def keep(self, overload: str) -> None:
        """Set what waits, by the value of the `overload` setting; surplus items are dropped."""
        with self._condition:
            self._limit = 1 if overload == "newest" else QUEUE_LIMIT
            self._shed()

    def put(self, item: T) -> None:
        """Add an item; an older one that no longer fits is dropped and counted."""
        with self._condition:
            self.received += 1
            self._items.append(item)
            self._shed()
            self._condition.notify()

    def take(self, timeout_s: float | None = None) -> T | None:
        """Remove and return the oldest item; None when closed or after `timeout_s` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._items) or self._closed, timeout_s)
            return self._items.popleft() if self._items and not self._closed else None

    def close(self) -> None:
        """Forget what waits and make every `take` return None from now on."""
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
