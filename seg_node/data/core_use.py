"""What the cores of this machine do, as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path

from seg_node.core.threads import CoreUse

TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")

_IDLE = 4
"""Field of the first line of /proc/stat with the idle time of all cores (proc(5))."""
_WAITED = 1
"""Field of a task's schedstat with the time (ns) that it was ready without a core."""
_NS_PER_S = 1e9


class LinuxCores:
    """The cores of a machine that runs Linux."""

    @staticmethod
    def known() -> bool:
        """Return whether this machine tells: Linux with statistics of its scheduler does."""
        return STAT.exists() and Path("/proc/self/schedstat").exists()

    def __init__(self) -> None:
        """Ask for the length of a tick."""
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")

    def read(self) -> CoreUse:
        """Return what they did so far."""
        waited_ns = sum(_waited_ns(task / "schedstat") for task in TASKS.iterdir())
        with STAT.open(encoding="ascii") as told:
            idle = int(told.readline().split()[_IDLE])
        return CoreUse(waited_ns / _NS_PER_S, idle / self._ticks_per_s)


def _waited_ns(told: Path) -> int:
    """Return how long a thread was ready and had no core; 0 if it has ended."""
    try:
        return int(told.read_text(encoding="ascii").split()[_WAITED])
    except (FileNotFoundError, ProcessLookupError):
        return 0
