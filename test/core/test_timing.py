"""The stage timer adds up what its clock says."""

from __future__ import annotations

import pytest

from seg_node.core.timing import StageTimer


def test_stages_add_up_and_survive_an_error() -> None:
    times = iter([0, 5, 12, 20, 23, 30, 31, 40])
    timer = StageTimer(lambda: next(times))
    with timer.stage("a"):
        pass
    with timer.stage("b"):
        pass

    def fail() -> None:
        with timer.stage("a"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert timer.stages == {"a": 8, "b": 3}
    assert timer.total_ns() == 40
