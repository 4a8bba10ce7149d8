"""What Linux tells of its cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from seg_node.data import core_use
from seg_node.data.core_use import LinuxCores

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.core.threads import CoreUse

needs_linux = pytest.mark.skipif(not LinuxCores.known(), reason="no /proc/stat")
BUSY_S = 0.5
BURN = f"import time; end = time.process_time() + {BUSY_S}\nwhile time.process_time() < end: pass"


def work() -> None:
    end = time.process_time() + BUSY_S
    while time.process_time() < end:
        pass


def passed(before: CoreUse, after: CoreUse) -> tuple[float, float]:
    return after.busy_s - before.busy_s, after.own_s - before.own_s


@needs_linux
def test_own_work_and_that_of_others_are_told_apart() -> None:
    """Other tests may run beside this one, so that cores may have worked longer than said."""
    cores = LinuxCores()
    assert cores.count == len(os.sched_getaffinity(0))
    before = cores.read()
    work()
    busy_s, own_s = passed(before, cores.read())
    assert own_s >= BUSY_S
    assert busy_s > 0.8 * BUSY_S
    before = cores.read()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    busy_s, own_s = passed(before, cores.read())
    assert own_s < 0.5 * BUSY_S
    assert busy_s > 0.8 * BUSY_S


def test_times_are_summed_up_over_own_cores_and_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "cpu  99 99 99 99 99 99 99 99 0 0\n"
    told += "cpu0 100 20 3 5000 600 7 8 9000 50 0\ncpu1 9 9 9 9 9 9 9 9 0 0\n"
    told += "cpu2 1000 0 0 0 0 0 0 0 0 0\nintr 7 8\n"
    (tmp_path / "stat").write_text(told)
    monkeypatch.setattr(core_use, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    cores = LinuxCores()
    assert cores.count == 2
    assert cores.read().busy_s == pytest.approx(1138 / os.sysconf("SC_CLK_TCK"))
