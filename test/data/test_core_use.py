"""What Linux tells of its cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from seg_node.data import core_use
from seg_node.data.core_use import LinuxCores

if TYPE_CHECKING:
    from pathlib import Path

needs_linux = pytest.mark.skipif(not LinuxCores.known(), reason="no statistics of the scheduler")


@needs_linux
def test_threads_that_are_more_than_cores_wait() -> None:
    cores, count = LinuxCores(), (os.cpu_count() or 1) + 1
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(hashlib.sha256, [b""] * count))  # so that its threads are there
        before = cores.read()
        jobs = [
            pool.submit(hashlib.pbkdf2_hmac, "sha256", b"", b"", 150_000) for _ in range(count)
        ]
        for job in jobs:
            job.result()
        after = cores.read()
    assert after.waited_s - before.waited_s > 0.01
    assert after.idle_s >= before.idle_s


def test_times_are_summed_up_and_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("1", "9000 2500000000 3"), ("2", "7 500000000 1"), ("ended", "")):
        (tmp_path / "task" / name).mkdir(parents=True)
        if text:
            (tmp_path / "task" / name / "schedstat").write_text(text)
    (tmp_path / "stat").write_text("cpu  11 12 13 420 15 16\ncpu0 1 1 1 1 1 1\n")
    monkeypatch.setattr(core_use, "TASKS", tmp_path / "task")
    monkeypatch.setattr(core_use, "STAT", tmp_path / "stat")
    use = LinuxCores().read()
    assert use.waited_s == pytest.approx(3.0)
    assert use.idle_s == pytest.approx(420 / os.sysconf("SC_CLK_TCK"))
