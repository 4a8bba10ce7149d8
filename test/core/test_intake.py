"""The newest-frame rule, and the queue for those who want every frame."""

from __future__ import annotations

from threading import Thread

import pytest

from seg_node.core.intake import Intake, QUEUE_LIMIT


def drain(intake: Intake[int]) -> list[int]:
    """Return everything that waits."""
    taken = []
    while (item := intake.take(timeout_s=0)) is not None:
        taken.append(item)
    return taken


def filled(overload: str, count: int) -> Intake[int]:
    """Return an intake into which 0..count-1 were put."""
    intake: Intake[int] = Intake()
    intake.keep(overload)
    for item in range(count):
        intake.put(item)
    return intake


@pytest.mark.parametrize(
    ("overload", "count", "kept", "dropped"),
    [
        ("newest", 1, [0], 0),
        ("newest", 2, [1], 1),
        ("newest", 20, [19], 19),
        ("every", 20, list(range(20)), 0),
        ("every", QUEUE_LIMIT, list(range(QUEUE_LIMIT)), 0),
        ("every", QUEUE_LIMIT + 1, list(range(1, QUEUE_LIMIT + 1)), 1),
    ],
)
def test_what_waits_and_what_is_dropped(
    overload: str, count: int, kept: list[int], dropped: int
) -> None:
    intake = filled(overload, count)
    assert (intake.received, intake.dropped) == (count, dropped)
    assert drain(intake) == kept


def test_change_to_newest_drops_the_older_ones() -> None:
    intake = filled("every", 5)
    intake.keep("newest")
    assert intake.dropped == 4
    assert drain(intake) == [4]


def test_taken_items_are_not_dropped() -> None:
    intake = filled("newest", 1)
    assert intake.take() == 0
    intake.put(1)
    assert intake.dropped == 0


def test_take_gives_up_after_the_timeout() -> None:
    assert Intake[int]().take(timeout_s=0.001) is None


def test_clear_forgets_uncounted_and_stays_open() -> None:
    intake = filled("every", 3)
    intake.clear()
    intake.put(7)
    assert drain(intake) == [7]
    assert intake.dropped == 0


def test_closed_intake_gives_nothing_even_if_something_is_put() -> None:
    intake = filled("every", 3)
    intake.close()
    intake.put(9)
    assert intake.take() is None


def test_close_wakes_who_waits() -> None:
    intake: Intake[int] = Intake()
    taken: list[int | None] = []
    thread = Thread(target=lambda: taken.append(intake.take()))
    thread.start()
    intake.close()
    thread.join(60)
    assert taken == [None]


def test_put_wakes_who_waits() -> None:
    intake: Intake[int] = Intake()
    taken: list[int | None] = []
    thread = Thread(target=lambda: taken.append(intake.take(60)))
    thread.start()
    intake.put(3)
    thread.join(60)
    assert taken == [3]
