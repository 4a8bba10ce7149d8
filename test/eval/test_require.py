"""Rules: read strictly, and each judged by one sentence with the measured value."""

from __future__ import annotations

from typing import Any

import pytest

from seg_node.core.types import ConfigError
from seg_node.eval.require import FIGURES, judge, parse_rules, Rule

SPREAD = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "mean": 1.5}


def entry(**changed: Any) -> dict[str, Any]:
    """Return what a mode's entry of results.json holds."""
    return {
        "miou": 0.5, "pixel_accuracy": 0.9, "agreement": {"pixel": 0.98, "miou": 0.8},
        "gmac_per_frame": 7.0, "gmac_saving": 0.6, "ms": SPREAD, "fps": 600.0,
        "speedup_vs_dense": 2.5, "age_ms": {"p50": 10.0, "p95": 20.0, "max": 30.0},
        "lateness_ms": {k: 10 * v for k, v in SPREAD.items()}, "frames": 6, "dropped": 2,
        **changed,
    }  # fmt: skip


def results(reference: dict[str, Any] | None = None, **modes: dict[str, Any]) -> dict[str, Any]:
    """Return what results.json holds."""
    return {"modes": modes, "reference": reference}


def test_rules_are_read_with_and_without_blanks() -> None:
    found = parse_rules("miou_drop<=1.0, p95_ms < 33,fps>=1e1 ,gmac>0")
    assert found == (
        Rule("miou_drop", "<=", 1.0),
        Rule("p95_ms", "<", 33.0),
        Rule("fps", ">=", 10.0),
        Rule("gmac", ">", 0.0),
    )
    assert [str(rule) for rule in found] == ["miou_drop<=1", "p95_ms<33", "fps>=10", "gmac>0"]


@pytest.mark.parametrize(
    "text",
    ["", "p95_ms", "p95_ms<=", "p95_ms=33", "p95_ms<=33;fps>1", "p95_ms<=33,", "p95_ms<=nan",
     "<=3", "p95_ms<=33ms", "p95_ms=<33", "p95_ms<=3 3"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--require has .*; write rules as NAME<=NUMBER"):
        parse_rules(text)


def test_an_unknown_name_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="--require names 'stale_p95_ms'; known: miou, miou_dr"):
        parse_rules("p95_ms<=33,stale_p95_ms<=100")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("miou", 0.5), ("miou_drop", 2.0), ("pixel_accuracy", 0.9), ("agreement_pixel", 0.98),
        ("agreement_miou", 0.8), ("p50_ms", 1), ("p95_ms", 2), ("p99_ms", 3), ("max_ms", 4),
        ("mean_ms", 1.5), ("fps", 600), ("speedup", 2.5), ("age_p50_ms", 10), ("age_p95_ms", 20),
        ("age_max_ms", 30), ("lateness_p50_ms", 10), ("lateness_p95_ms", 20),
        ("lateness_p99_ms", 30), ("lateness_max_ms", 40), ("gmac", 7), ("gmac_saving", 0.6),
        ("frames", 6), ("dropped", 2), ("dropped_share", 0.25),
    ],
)  # fmt: skip
def test_every_figure_is_the_one_that_it_is_named_after(name: str, value: float) -> None:
    dense = entry(miou=0.52)
    assert FIGURES[name](entry(), dense) == pytest.approx(value)


def test_all_figures_are_tested() -> None:
    (mark,) = test_every_figure_is_the_one_that_it_is_named_after.pytestmark  # type: ignore[attr-defined]  # pytest puts it there
    assert {name for name, _ in mark.args[1]} == set(FIGURES)


def test_the_limit_itself_decides() -> None:
    for comparison, kept in (("<=", True), (">=", True), ("<", False), (">", False)):
        assert Rule("p95_ms", comparison, 2.0).kept(2.0) is kept
    assert Rule("p95_ms", "<", 2.0).kept(1.9)
    assert Rule("p95_ms", ">", 2.0).kept(2.1)


def test_every_mode_is_judged_but_the_one_to_compare_with() -> None:
    found = judge(
        parse_rules("miou_drop<=1,p95_ms<=33"),
        results(dense=entry(miou=0.52), warp=entry(), adaptive=entry(miou=0.515)),
    )
    assert [(v.mode, str(v.rule), v.passed) for v in found] == [
        ("warp", "miou_drop<=1", False),
        ("warp", "p95_ms<=33", True),
        ("adaptive", "miou_drop<=1", True),
        ("adaptive", "p95_ms<=33", True),
    ]
    assert str(found[0]) == "FAILED warp: miou_drop<=1, measured 2"
    assert str(found[1]) == "passed warp: p95_ms<=33, measured 2"
    assert judge(parse_rules("fps>1"), results(dense=entry()))[0].mode == "dense"


def test_a_reference_beside_the_modes_is_what_they_are_compared_with() -> None:
    """In simulated time mode dense has losses of its own."""
    modes = {"dense": entry(miou=0.4), "warp": entry(miou=0.5)}
    (verdict,) = judge(parse_rules("miou_drop<=1"), results(entry(miou=0.53), **modes))
    assert verdict.value == pytest.approx(3.0)


def test_what_was_not_measured_fails() -> None:
    bare = entry(miou=None, agreement=None, lateness_ms=None)
    for name in ("miou", "miou_drop", "agreement_miou", "lateness_p95_ms"):
        (verdict,) = judge(parse_rules(f"{name}>=0"), results(warp=bare))
        assert not verdict.passed
        assert f"FAILED warp: {name}>=0, but {name} was not measured" in str(verdict)
