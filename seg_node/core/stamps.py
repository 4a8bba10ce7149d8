"""Watches the header stamps of one camera for values that no replay can trust."""

from __future__ import annotations

from collections import Counter

_NS_PER_S = 1_000_000_000


class StampCheck:
    """Finds zero, negative, repeated and backward stamps; use one per topic.

    Attributes:
        counts: how often each problem was seen: "zero", "negative", "repeated", "back".

    """

    def __init__(self) -> None:
        """Start without a previous stamp."""
        self.counts: Counter[str] = Counter()
        self._previous_ns: int | None = None

    def update(self, stamp_ns: int) -> str | None:
        """Take the next stamp and tell what is wrong with it.

        A zero or negative stamp says nothing about time, so the next one is compared with the
        last good one. After a jump back the new, earlier time counts: a looped bag jumps once.

        Args:
            stamp_ns: header stamp in nanoseconds, in the order of the file.

        Returns:
            One clause for a log line, or None if the stamp follows the previous one.

        """
        if stamp_ns <= 0:
            self.counts["zero" if stamp_ns == 0 else "negative"] += 1
            return f"header stamp is {stamp_ns} ns: the driver does not set it"
        previous_ns, self._previous_ns = self._previous_ns, stamp_ns
        if previous_ns is None or stamp_ns > previous_ns:
            return None
        if stamp_ns == previous_ns:
            self.counts["repeated"] += 1
            return f"header stamp {stamp_ns} ns repeats the previous one"
        self.counts["back"] += 1
        back_s = (previous_ns - stamp_ns) / _NS_PER_S
        return f"header stamp {stamp_ns} ns lies {back_s:.3f} s before the previous one"
