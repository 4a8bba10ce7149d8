"""Long work says how far it is and how long it takes, where there is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.eval.progress import _Lines

if TYPE_CHECKING:
    import pytest


def test_plain_lines_say_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Every five seconds one line; 25 of 100 in 30 s leave 90 s."""
    caplog.set_level("INFO")
    now = [0.0]
    tell, blind = (_Lines("replay", total, clock=lambda: now[0]) for total in (100, 0))
    for seconds, done in ((4.9, 4), (6.0, 5), (10.9, 8), (30.0, 25)):
        now[0] = seconds
        tell(done)
    blind(25)
    assert caplog.messages == [
        "replay: 5 of 100 frames, about 1:54 min left",
        "replay: 25 of 100 frames, about 1:30 min left",
        "replay: 25 frames",
    ]
