"""What the cores of this machine do, as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path
import time

from seg_node.core.threads import CoreUse

STAT = Path("/proc/stat")

_WORK = (0, 1, 2, 5, 6)
"""Fields of a core's line in /proc/stat with its time of work (proc(5)): user, nice, system, and
interrupts of both kinds; not when it was idle, or its host ran others."""


class LinuxCores:
    """The cores of a machine that runs Linux, of which this process may use some or all.

    Attributes:
        count: cores that it may use.

    """

    @staticmethod
    def known() -> bool:
        """Return whether this machine tells."""
        return STAT.exists()

    def __init__(self) -> None:
        """Ask for the cores, and the length of a tick."""
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self.count = len(self._names)

    def read(self) -> CoreUse:
        """Return what they did so far."""
        ticks = 0
        for line in STAT.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in self._names:
                ticks += sum(int(fields[place]) for place in _WORK)
        return CoreUse(ticks / self._ticks_per_s, time.process_time())
