"""Short loops share their rows among threads, where torch's own leave the cores to them."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
import threading

import pytest
import torch

from seg_node.loops import stripes
from seg_node.loops.stripes import in_stripes, threads_for

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {
    name: value
    for name, value in {**os.environ, "PYTHONPATH": str(ROOT)}.items()
    if name not in {stripes.TURNS, stripes.POLICY}
}
"""An environment that says nothing about threads."""


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_every_row_is_done_once(rows: int, threads: int) -> None:
    done = [0] * rows
    parts = []

    def loop(top: int, bottom: int) -> None:
        parts.append((top, bottom))
        for row in range(top, bottom):
            done[row] += 1

    in_stripes(loop, rows, threads)
    assert done == [1] * rows
    assert len(parts) == min(rows, threads)
    sizes = [bottom - top for top, bottom in parts]
    assert max(sizes) - min(sizes) <= 1


def test_without_rows_there_is_nothing_to_do() -> None:
    parts = []
    in_stripes(lambda *rows: parts.append(rows), 0, 4)
    assert parts == [(0, 0)]


def test_stripes_run_side_by_side() -> None:
    """Each waits for the other: one after the other they would wait in vain."""
    both = threading.Barrier(2, timeout=20)

    def loop(*_: int) -> None:
        both.wait()

    in_stripes(loop, 2, 2)


def test_what_fails_on_another_thread_fails_here() -> None:
    def loop(top: int, _: int) -> None:
        if top:
            msg = "no such row"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="no such row"):
        in_stripes(loop, 4, 2)


def test_large_planes_are_worth_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(stripes, "BRIEF", True)
    assert threads_for(stripes.LEAST_PIXELS) == 4
    assert threads_for(stripes.LEAST_PIXELS - 1) == 1
    monkeypatch.setattr(stripes, "BRIEF", False)
    assert threads_for(stripes.LEAST_PIXELS) == 1


FORKED = """
import os
from seg_node.loops.stripes import in_stripes
in_stripes(lambda *_: None, 2, 2)
child = os.fork()
if child == 0:
    in_stripes(lambda *_: None, 2, 2)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_was_forked_off_has_threads_of_its_own() -> None:
    """The pool's threads are not in it: what it hands to them would wait for ever."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env=CLEAN,
    )
    assert run.stdout.strip() == "7"


# ---- how long torch's threads wait --------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "brief"),
    [
        ({}, False),
        ({"GOMP_SPINCOUNT": "0"}, True),
        ({"GOMP_SPINCOUNT": "100000"}, True),
        ({"GOMP_SPINCOUNT": "100001"}, False),
        ({"GOMP_SPINCOUNT": "INFINITE"}, False),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, True),
        ({"OMP_WAIT_POLICY": "active"}, False),
        ({"GOMP_SPINCOUNT": "300000", "OMP_WAIT_POLICY": "passive"}, False),
    ],
)
def test_the_environment_says_how_long_threads_wait(
    environment: dict[str, str],
    brief: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert stripes.find_brief(environment) is brief
    told = subprocess.run(
        [sys.executable, "-c", "from seg_node.loops import stripes; print(stripes.BRIEF)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**CLEAN, **environment},
    )
    assert told.stdout.strip() == str(brief)
