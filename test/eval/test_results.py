"""What a mode's record says of its times and labels beside those of dense."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import Action, DataError, Frame, Plan, Reason, StepReport, StepResult
from seg_node.data.datasets import Sample
from seg_node.eval.results import count_frame, ModeRecord, speedup

GRID = np.full((1, 2), Action.HIGH, np.uint8)


def result(labels: list[list[int]], total_ns: int = 1_000_000) -> StepResult:
    """Return a result with these labels."""
    array = np.array(labels, np.uint8)
    report = StepReport({}, total_ns, 40, 100)
    plan = Plan(GRID, Reason.DENSE)
    return StepResult(array, np.full_like(array, 200), plan, np.zeros((1, 2), np.uint16), report)


def sample(labels: list[list[int]] | None) -> Sample:
    """Return a frame of 4x1 pixels with these labels."""
    truth = None if labels is None else np.array(labels, np.uint8)
    return Sample("one", Frame(np.zeros((1, 4, 3), np.uint8)), truth)


def test_agreement_is_that_with_the_labels_of_dense() -> None:
    """Three of four pixels agree; class 0: 1 of 2, class 1: 2 of 3; truth has no part in it."""
    records = {mode: ModeRecord(2) for mode in ("warp", "dense")}
    results = {"warp": result([[0, 1, 1, 1]]), "dense": result([[0, 0, 1, 1]])}
    scores = count_frame(records, "street:1", sample([[0, 0, 0, 0]]), results)
    assert {mode: score.miou for mode, score in scores.items()} == {"warp": 0.125, "dense": 0.25}
    assert {mode: score.agreement for mode, score in scores.items()} == {
        "warp": 0.75,
        "dense": None,
    }
    assert scores["warp"].overlaps is not None
    assert scores["warp"].overlaps.tolist() == [[1, 4], [0, 3]]
    entry = records["warp"].summary(records["dense"])
    assert entry["agreement"] == {"pixel": 0.75, "miou": pytest.approx((1 / 2 + 2 / 3) / 2)}
    assert records["dense"].summary(records["dense"])["agreement"] is None


def test_without_dense_there_is_nothing_to_compare_with() -> None:
    records = {"warp": ModeRecord(2)}
    count_frame(records, "street:1", sample(None), {"warp": result([[0, 1, 1, 1]])})
    entry = records["warp"].summary()
    assert (entry["agreement"], entry["speedup_vs_dense"], entry["speedup_per_frame"]) == (
        None,
        None,
        None,
    )
    assert entry["gmac_saving"] == pytest.approx(0.6)


def test_speed_up_is_the_ratio_of_medians_and_has_quartiles_by_frame() -> None:
    """Medians 30 and 10; frame by frame the ratios are 1, 3 and 5."""
    found = speedup([10, 30, 50], [10, 10, 10])
    assert found["speedup_vs_dense"] == 3.0
    assert found["speedup_per_frame"] == {"p25": 2.0, "p50": 3.0, "p75": 4.0}
    keyframes = speedup([40, 40, 40, 40], [40, 8, 8, 8])
    assert keyframes["speedup_vs_dense"] == 2.5
    assert keyframes["speedup_per_frame"]["p50"] == 5.0


def test_a_label_that_does_not_fit_names_data_and_frame() -> None:
    with pytest.raises(DataError, match=r"street:1, frame one: label 7 is not in 0\.\.1"):
        count_frame({"a": ModeRecord(2)}, "street:1", sample([[7] * 4]), {"a": result([[0] * 4])})
