"""Stamps that a replay cannot trust."""

from __future__ import annotations

from seg_node.core.stamps import StampCheck


def problems(*stamps_ns: int) -> tuple[list[bool], dict[str, int]]:
    """Return which stamps were complained about, and the counts."""
    check = StampCheck()
    return [check.update(x) is not None for x in stamps_ns], dict(check.counts)


def test_growing_stamps_are_fine() -> None:
    """One nanosecond is enough."""
    assert problems(1, 2, 50) == ([False, False, False], {})


def test_each_problem_has_its_count() -> None:
    """Zero, negative, repeated and backward are told apart."""
    assert problems(0, 5, 5, -3, 4) == (
        [True, False, True, True, True],
        {"zero": 1, "repeated": 1, "negative": 1, "back": 1},
    )


def test_a_loop_jumps_once() -> None:
    """After a jump back, time goes on from there."""
    assert problems(10, 20, 10, 20) == ([False, False, True, False], {"back": 1})


def test_an_unset_stamp_does_not_move_time() -> None:
    """After a zero the next stamp is compared with the last good one."""
    assert problems(10, 0, 10) == ([False, True, True], {"zero": 1, "repeated": 1})
    assert problems(10, 0, 11) == ([False, True, False], {"zero": 1})


def test_the_sentence_gives_the_jump_in_seconds() -> None:
    """A person sees how far it went."""
    check = StampCheck()
    check.update(3_000_000_000)
    assert "1.500 s before" in (check.update(1_500_000_000) or "")
