"""Runs a compiled loop on several threads, each of which takes some rows of a plane.

Between two of torch's operations their threads wait awake, on the core that another thread would
need. GNU OpenMP, which torch has on Linux, lets them do so for some milliseconds, unless the
environment says otherwise when it is loaded. Only where it does, short loops have more than one
thread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TURNS, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
"""What GNU OpenMP reads from the environment; the first counts turns of the loop that waits."""

FEW = 100_000
"""Turns up to which threads wait briefly: 2 ms on an x86 core. By default there are 300 000."""

LEAST_PIXELS = 5000
"""Pixels of results from which on a second thread does more of a short loop than it costs."""


def find_brief(environment: Mapping[str, str]) -> bool:
    """Return whether the environment has threads of torch's operations wait briefly."""
    turns = environment.get(TURNS)
    if turns is not None:
        return turns.isdecimal() and int(turns) <= FEW
    return environment.get(POLICY, "").lower() == "passive"


BRIEF = find_brief(os.environ)
"""Whether threads of torch's operations leave their cores soon after each."""


def threads_for(pixels: int) -> int:
    """Return on how many threads to run a loop that takes some ten nanoseconds a pixel."""
    return torch.get_num_threads() if BRIEF and pixels >= LEAST_PIXELS else 1


def in_stripes(loop: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Run a loop for all rows, and return when all are done.

    Args:
        loop: does the rows from the first to before the second it is given, independently of
            all others.
        rows: how many there are.
        threads: how many to do it on, this one included.

    """
    count = max(1, min(threads, rows))
    ends = [rows * part // count for part in range(count + 1)]
    first, *rest = pairwise(ends)
    others = [_pool().submit(loop, *part) for part in rest]
    loop(*first)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Return threads that stay from frame to frame."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="stripes")


# A process that was forked off has the pool, but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
