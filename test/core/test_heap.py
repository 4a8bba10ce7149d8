"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import torch
from seg_node.core.heap import keep_freed_memory

told = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.set_num_threads(1)
faults = []

def frames():
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        plane = torch.ones(12_000_000)
        parts = [plane[:10_000_000] * scale for scale in (1, 2, 3)]
        del plane, parts
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=frames)
thread.start()
thread.join()
print(told, sorted(faults[-9:])[4])
"""
PLANE_PAGES = 48_000_000 // 4096

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def run(*arguments: str, **environment: str) -> tuple[str, int]:
    """Return what the program was told, and how many pages late frames touched first, the median.

    Now and then one of them makes the heap grow once more.
    """
    clean = {
        name: x for name, x in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC"))
    }
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return out[0], int(out[1])


@glibc
def test_the_planes_of_the_next_frame_are_those_of_the_last() -> None:
    """Of a frame in a thread of its own, as the node computes them."""
    assert run("leave")[1] > PLANE_PAGES
    told, faults = run("keep")
    assert told == "True"
    assert faults < PLANE_PAGES / 100


@glibc
@pytest.mark.parametrize(
    "setting", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}]
)
def test_what_the_environment_says_of_malloc_stays(setting: dict[str, str]) -> None:
    assert run("keep", **setting)[0] == "False"
