"""Has threads of torch's operations wait for less than a millisecond, awake.

Between two operations they wait on their cores for the next one. GNU OpenMP, which torch has on
Linux, lets them do so for several milliseconds, unless it is told otherwise when it is loaded:
then they take a core from everything else that a frame needs, and power for nothing.
"""

from __future__ import annotations

import os
import sys

VARIABLE, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
"""What GNU OpenMP reads from the environment; the first counts turns of its loop."""

TURNS = 30_000
"""A bit more than half a millisecond on an x86 core."""

FEW = 100_000
"""Turns up to which waiting counts as brief, where a user has set them."""


def wait_briefly() -> bool:
    """Have threads wait briefly where nobody has said how, and return whether they do.

    It comes too late where torch is loaded already.
    """
    turns, policy = os.environ.get(VARIABLE), os.environ.get(POLICY)
    if turns is not None:
        return turns.isdecimal() and int(turns) <= FEW
    if policy is not None:
        return policy.lower() == "passive"
    if "torch" in sys.modules:
        return False
    os.environ[VARIABLE] = str(TURNS)
    return True


BRIEF = wait_briefly()
"""Whether threads of torch's operations leave their cores soon after each."""
