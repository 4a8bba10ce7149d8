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
        alone: whether nothing else is done between the stages; else the total is their sum.

    """

    def __init__(
        self, clock: Callable[[], int] = time.perf_counter_ns, *, alone: bool = True
    ) -> None:
        """Start the total with the first reading of the clock."""
        self._clock = clock
        self._alone = alone
        self._start = clock()
        self.stages: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the `with` block to the stage."""
        begin = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - begin)

    def add(self, name: str, duration_ns: int) -> None:
        """Add time to the stage."""
        self.stages[name] = self.stages.get(name, 0) + duration_ns

    def total_ns(self) -> int:
        """Return nanoseconds since the timer was made, or in its stages."""
        return self._clock() - self._start if self._alone else sum(self.stages.values())
