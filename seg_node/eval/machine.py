"""Describes this machine in a few words, so that times can be placed."""

from __future__ import annotations

import os
from pathlib import Path
import platform
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")
"""Name of a board, such as a Jetson's, where there is one."""
_GIB = 2**30


def describe_machine() -> dict[str, Any]:
    """Return what is fixed about this machine: the same in every run.

    Returns:
        `cpu` (name), `cores` (that this process may use), `memory_gib`, `system`; None where the
        system does not tell.

    """
    return {
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def load() -> float | None:
    """Return how many processes wanted to run, mean of the last minute; None if nobody tells."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # Windows has no such call
        return None


def in_words(machine: dict[str, Any]) -> str:
    """Return a description as one line, such as `AMD EPYC, 2 cores, 7 GiB`."""
    memory = machine["memory_gib"]
    parts = [
        machine["cpu"],
        f"{machine['cores']} cores",
        None if memory is None else f"{memory} GiB",
    ]
    return ", ".join(part for part in parts if part)


def _cpu_name() -> str | None:
    board = _text(_BOARD).rstrip("\0")
    names = (
        line.partition(":")[2].strip()
        for line in _text(_CPU_INFO).splitlines()
        if line.startswith("model name")
    )
    cpu = next(names, platform.processor())
    return ", ".join(part for part in (board, cpu) if part) or None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> int | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):  # not of POSIX, or it does not tell
        return None
    return round(size / _GIB)


def _text(path: Path) -> str:
    """Return the text of a file of the system; none where it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
