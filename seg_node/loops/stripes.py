"""Runs a compiled loop on several threads, each of which takes some rows of a plane.

Threads of torch's operations wait awake for the next one. Where they do so for long
(`seg_node.loops.spinning`), they would be in the way of a short loop's: that runs on one then.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
import os
from typing import TYPE_CHECKING

import torch

from seg_node.loops import spinning

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_PIXELS = 5000
"""Pixels of results from which on a second thread does more of a short loop than it costs."""


def threads_for(pixels: int) -> int:
    """Return on how many threads to run a loop that takes some ten nanoseconds a pixel."""
    return torch.get_num_threads() if spinning.BRIEF and pixels >= LEAST_PIXELS else 1


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
