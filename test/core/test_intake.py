"""The newest-frame rule, the queue for those who want every frame, and the turns of cameras."""

from __future__ import annotations

from collections import Counter
import random
from threading import Thread

import pytest

from seg_node.core.intake import Intake, QUEUE_LIMIT, Turns


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


def test_drain_takes_what_waits_and_no_more() -> None:
    intake = filled("every", 3)
    assert intake.drain() == [0, 1, 2]
    intake.put(3)
    assert intake.drain() == [3]
    assert intake.drain() == []
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


# ---- several cameras ----------------------------------------------------------------------------

CAMERAS = ("fast", "medium", "slow")


def simulated(rates_hz: dict[str, int], step_ms: int, overload: str = "newest") -> Counter[str]:
    """Return how many frames of each camera a worker takes in 60 s of simulated time.

    Args:
        rates_hz: frames per second of each camera.
        step_ms: how long the worker needs for a frame.
        overload: what waits.

    """
    turns: Turns[int] = Turns(rates_hz)
    for name in rates_hz:
        turns[name].keep(overload)
    taken: Counter[str] = Counter()
    free_ms = 0
    for now_ms in range(60_000):
        for name, rate_hz in rates_hz.items():
            if rate_hz and now_ms * rate_hz % 1000 < rate_hz:
                turns[name].put(now_ms)
        if now_ms >= free_ms and (item := turns.take(0.0)) is not None:
            taken[item[0]] += 1
            free_ms = now_ms + step_ms
    return taken


@pytest.mark.parametrize("overload", ["newest", "every"])
def test_shares_under_overload(overload: str) -> None:
    """Ten frames a second for 41 that come: the slow camera loses none, the others share."""
    taken = simulated({"fast": 30, "medium": 10, "slow": 1}, step_ms=100, overload=overload)
    assert taken.total() == 600
    assert taken["slow"] == pytest.approx(60, abs=1)
    assert taken["fast"] == pytest.approx(270, abs=3)
    assert taken["medium"] == pytest.approx(270, abs=3)


def test_a_worker_that_keeps_up_takes_every_frame() -> None:
    assert simulated(dict(zip(CAMERAS, (30, 10, 1), strict=True)), step_ms=10) == {
        "fast": 1800,
        "medium": 600,
        "slow": 60,
    }


def test_a_silent_camera_costs_the_others_nothing() -> None:
    taken = simulated({"silent": 0, "left": 30, "right": 30}, step_ms=100)
    assert taken == {"left": 300, "right": 300}


def test_each_other_camera_passes_a_waiting_one_over_at_most_once() -> None:
    """Whatever comes when: a thousand random arrivals and turns."""
    rng = random.Random(3)
    turns: Turns[int] = Turns(CAMERAS)
    waiting: dict[str, Counter[str]] = {}
    for _ in range(1000):
        for name in rng.choices(CAMERAS, (9, 3, 1), k=rng.randrange(4)):
            turns[name].put(0)
            waiting.setdefault(name, Counter())
        if (item := turns.take(0.0)) is None:
            continue
        waiting.pop(item[0])
        for passed_over in waiting.values():
            passed_over[item[0]] += 1
            assert max(passed_over.values()) == 1


def test_cameras_that_were_served_can_be_passed_over() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    for name in CAMERAS:
        turns[name].put(0)
        turns[name].put(1)
    served: list[str] = []
    while turn := turns.take(0.0, without=served):
        served.append(turn[0])
    assert served == list(CAMERAS)
    assert turns.take(0.0) is None  # of each there was the newest only
    turns["slow"].put(2)
    assert turns.take(0.0, without=("slow",)) is None
    assert turns.take(0.0, without=("fast",)) == ("slow", 2)


def test_each_camera_keeps_its_own_newest_frame() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    for number in range(5):
        turns["fast"].put(number)
    turns["slow"].put(7)
    assert [turns.take(0.0) for _ in range(3)] == [("fast", 4), ("slow", 7), None]
    assert [turns[name].dropped for name in CAMERAS] == [4, 0, 0]


def test_a_camera_that_was_not_served_for_long_goes_first() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    for name in ("slow", "fast"):
        turns[name].put(0)
        assert turns.take(0.0) == (name, 0)
    for name in reversed(CAMERAS):
        turns[name].put(1)
    order = [item[0] for _ in CAMERAS if (item := turns.take(0.0))]
    assert order == ["medium", "slow", "fast"]


def test_clear_forgets_all_cameras_and_stays_open() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    turns["fast"].put(0)
    turns["slow"].put(0)
    turns.clear()
    assert turns.take(0.0) is None
    turns["slow"].put(1)
    assert turns.take(0.0) == ("slow", 1)


def waiting_taker(turns: Turns[int]) -> tuple[Thread, list[tuple[str, int] | None]]:
    """Return a running thread that takes, and the list that it fills."""
    taken: list[tuple[str, int] | None] = []
    thread = Thread(target=lambda: taken.append(turns.take(60)))
    thread.start()
    return thread, taken


def test_a_frame_of_any_camera_wakes_who_waits_for_a_turn() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    thread, taken = waiting_taker(turns)
    turns["medium"].put(3)
    thread.join(60)
    assert taken == [("medium", 3)]


def test_close_wakes_who_waits_for_a_turn_and_refuses_what_comes() -> None:
    turns: Turns[int] = Turns(CAMERAS)
    thread, taken = waiting_taker(turns)
    turns.close()
    thread.join(60)
    assert taken == [None]
    turns["fast"].put(1)
    assert turns.take() is None
    assert turns["fast"].received == 0
