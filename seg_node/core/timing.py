"""Stage times of one step, with the clock injected."""

from __future__ import annotations

from contextlib import contextmanager
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class StageTimer:
    """Measures named stages; a stage entered twice adds up.

    Args:
        clock: returns nanoseconds that never go back; `time.perf_counter_ns` by default.

    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """Start the total with the first reading of the clock."""
        self._clock = clock
        self._start = clock()
        self.stages: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the `with` block to the stage."""
        begin = self._clock()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0) + self._clock() - begin

    def total_ns(self) -> int:
        """Return nanoseconds since the timer was made."""
        return self._clock() - self._start
