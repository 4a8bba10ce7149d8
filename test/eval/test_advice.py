"""What to choose: the fastest of what loses at most a point; and why, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from seg_node.eval.advice import Advice, advise, find_choices, SweepPoint


def entry(
    miou: float | None, p95: float | None, *, agreement: float | None = None, **more: Any
) -> dict[str, Any]:
    """Return an entry of `results.json` as far as advice reads it."""
    return {
        "miou": miou,
        "agreement": None if agreement is None else {"pixel": agreement, "miou": agreement},
        "ms": None if p95 is None else {"p50": p95 / 2, "p95": p95, "p99": p95},
        "age_ms": {"p50": 0.0, "p95": 150.0, "max": 200.0},
        "gmac_per_frame": 2.0,
        "frames": 500,
        "labelled_frames": 0 if miou is None else 500,
        "dropped": 0,
        **more,
    }


def advice_for(
    modes: dict[str, dict[str, Any]], *points: SweepPoint, reference: Any = None
) -> Advice:
    """Return the advice for a run with these modes."""
    results = {"modes": modes, "reference": reference}
    return advise(find_choices(results, points), {})


def test_the_fastest_within_a_point_wins() -> None:
    """One loses exactly a point; a faster one loses a little more."""
    found = advice_for(
        {
            "dense": entry(0.70, 80.0),
            "adaptive": entry(0.70 - 0.01, 20.0, gmac_per_frame=0.5),
            "segblocks": entry(0.695, 40.0),
            "warp": entry(0.6899, 10.0),
        }
    )
    assert found.headline == (
        "Choose adaptive: 95 of 100 frames take at most 20 ms instead of 80 ms, and its mIoU is "
        "1.0 points lower than that of dense (0.690 against 0.700)."
    )
    assert found.reasons == (
        "It computes 25% of what dense does (0.5 of 2 GMAC a frame).",
        "In 95 of 100 frames nothing shown is older than 150 ms.",
    )
    assert [step.mode for step in found.ladder] == ["warp", "adaptive", "segblocks", "dense"]


def test_dense_stays_where_all_that_is_faster_loses() -> None:
    found = advice_for({"dense": entry(0.70, 80.0), "warp": entry(0.65, 10.0)})
    assert found.headline == "Stay with dense: all that is faster loses more than one point."
    assert found.reasons[0].startswith("The nearest one is warp, 5.0 points lower: 95 of 100")
    slower = advice_for({"dense": entry(0.70, 80.0), "adaptive": entry(0.70, 90.0)})
    assert slower.headline == "Stay with dense: nothing else that was tried is faster."
    assert [step.mode for step in slower.ladder] == ["dense"], "slower and no better"


def test_what_gains_is_not_said_to_lose() -> None:
    found = advice_for({"dense": entry(0.70, 80.0), "arseg": entry(0.71, 40.0)})
    assert "its mIoU is no lower than that of dense (0.710 against 0.700)" in found.headline


def test_a_sweep_names_the_setting() -> None:
    points = [
        SweepPoint({"budget.latency_ms": ms}, {"adaptive": entry(score, ms)}, frozenset())
        for ms, score in ((10, 0.60), (20, 0.695), (40, 0.70))
    ]
    found = advice_for({"dense": entry(0.70, 80.0)}, *points)
    assert found.headline.startswith("Choose adaptive with budget.latency_ms=20: 95 of 100")
    assert [step.p95_ms for step in found.ladder] == [10, 20, 40]


def test_without_labels_pixels_are_compared_with_dense() -> None:
    found = advice_for(
        {
            "dense": entry(None, 80.0),
            "warp": entry(None, 10.0, agreement=0.98),
            "adaptive": entry(None, 20.0, agreement=0.992),
        }
    )
    assert found.score_name == "agreement with dense"
    assert found.headline.startswith("Choose adaptive: ")
    assert found.headline.endswith("and 99.2% of the pixels get the same class as in dense.")
    assert "a pixel that differs from dense may be the right one" in found.reasons[-1]


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({"dense": entry(0.7, 80.0)}, "Only dense was tried: 95 of 100 frames take at most 80 ms"),
        ({"warp": entry(None, 8.0)}, "run it again with --mode dense,warp."),
        ({"dense": entry(0.7, None)}, "No step was timed"),
    ],
    ids=["one mode", "no reference", "no times"],
)
def test_what_cannot_be_told_is_said(modes: dict[str, dict[str, Any]], expected: str) -> None:
    assert expected in advice_for(modes).headline


def test_a_reference_beside_is_compared_with_and_never_chosen() -> None:
    """In simulated time dense computes every frame, outside of time."""
    beside = entry(0.70, 80.0)
    found = advice_for({"warp": entry(0.695, 10.0)}, reference=beside)
    assert found.headline == (
        "Choose warp: 95 of 100 frames take at most 10 ms, and its mIoU is 0.5 points lower than "
        "that of dense (0.695 against 0.700)."
    )
    found = advice_for({"warp": entry(0.5, 10.0)}, reference=beside)
    assert found.headline.startswith("Nothing that was tried comes within a point of dense: the")
    assert [step.mode for step in found.ladder] == ["warp"]


def test_what_to_be_careful_about_is_said() -> None:
    modes = {"warp": entry(0.7, 10.0, labelled_frames=99, dropped=50, frames=450)}
    found = advice_for(modes)
    assert "Only 99 frames were scored: look at more before you rely on it." in found.reasons
    assert "It dropped 50 of 500 frames because they came too fast." in found.reasons
    assert "Mode dense did not run: add it to --mode" in found.reasons[-1]


def ruled(
    *found: tuple[str, float, float, tuple[float | None, bool] | None], rule: str = "p95_ms<=15"
) -> Advice:
    """Return the advice for modes of (name, mIoU, p95, what a rule says)."""
    modes = {mode: entry(miou, p95) for mode, miou, p95, _ in found}
    verdicts = [
        {
            "mode": mode,
            "rule": rule,
            "figure": rule.rstrip("<>=.0123456789"),
            "value": told[0],
            "passed": told[1],
        }
        for mode, _, _, told in found
        if told
    ]
    results = {"modes": modes, "reference": None, "verdicts": verdicts}
    return advise(find_choices(results, ()), {})


def test_only_what_keeps_the_rules_is_chosen() -> None:
    """The fastest within a point breaks the rule; of the others the most accurate is left."""
    found = ruled(
        ("dense", 0.70, 80.0, None),
        ("segblocks", 0.695, 40.0, (40.0, False)),
        ("adaptive", 0.68, 12.0, (12.0, True)),
        ("warp", 0.60, 8.0, (8.0, True)),
    )
    assert found.headline.startswith("Choose adaptive: 95 of 100 frames take at most 12 ms inste")
    assert found.headline.endswith("its mIoU is 2.0 points lower than that of dense (0.680 "
                                   "against 0.700).")  # fmt: skip
    assert found.reasons[0] == "It keeps all rules, as 2 of the 3 that were judged do."


def test_where_nothing_keeps_the_rules_the_nearest_is_named() -> None:
    found = ruled(
        ("dense", 0.70, 80.0, None),
        ("segblocks", 0.695, 40.0, (40.0, False)),
        ("adaptive", 0.695, 20.0, (20.25, False)),
    )
    assert found.headline == "Nothing that was tried keeps all rules."
    assert found.reasons[0] == "Nothing keeps p95_ms<=15: the nearest is adaptive with 20.25."
    assert found.reasons[1].startswith("Without them: choose adaptive: 95 of 100 frames take at")
    assert not found.settled
    tried = (("segblocks", 0.695, 40.0, (25.0, False)), ("warp", 0.60, 20.0, (50.0, False)))
    found = ruled(*tried, rule="fps>=60")
    assert found.reasons[0] == "Nothing keeps fps>=60: the nearest is warp with 50."
    found = ruled(("warp", 0.60, 20.0, (None, False)), rule="miou_drop<=1")
    assert found.reasons[0] == "Nothing keeps miou_drop<=1: it was not measured."


def test_a_rule_for_accuracy_stands_in_place_of_the_point() -> None:
    """Two points off is what this rule allows: the fastest that keeps it is enough."""
    found = ruled(
        ("dense", 0.70, 80.0, None),
        ("adaptive", 0.695, 40.0, (0.5, True)),
        ("warp", 0.68, 20.0, (2.0, True)),
        ("arseg", 0.65, 10.0, (5.0, False)),
        rule="miou_drop<=3",
    )
    assert found.headline.startswith("Choose warp: ")


def test_what_keeps_the_rules_is_not_chosen_where_it_is_slower_than_dense() -> None:
    """Slower and within a point; faster and further off; both keep the rule."""
    slow, fast = ("adaptive", 0.695, 90.0, (90.0, True)), ("warp", 0.68, 50.0, (50.0, True))
    dense = ("dense", 0.70, 80.0, None)
    assert ruled(dense, slow, fast).headline.startswith("Choose warp: ")
    found = ruled(dense, slow, ("segblocks", 0.698, 40.0, (40.0, False)))
    assert found.headline == "Stay with dense: nothing that keeps all rules is faster."
    assert ruled(("dense", 0.70, 80.0, (80.0, True))).headline.startswith("Only dense was tried")


def test_each_rule_may_be_kept_and_all_by_nothing() -> None:
    def told(mode: str, rule: str, *, passed: bool) -> dict[str, Any]:
        figure = rule.rstrip("<>=.0123456789")
        return {"mode": mode, "rule": rule, "figure": figure, "value": 1.0, "passed": passed}

    verdicts = [
        told("warp", "miou>=0.9", passed=False),
        told("warp", "p95_ms<=15", passed=True),
        told("arseg", "miou>=0.9", passed=True),
        told("arseg", "p95_ms<=15", passed=False),
    ]
    modes = {"warp": entry(0.6, 10.0), "arseg": entry(0.9, 20.0)}
    results = {"modes": modes, "reference": None, "verdicts": verdicts}
    found = advise(find_choices(results, ()), {})
    assert found.reasons[0] == "Each rule is kept by something, but nothing keeps all of them."
