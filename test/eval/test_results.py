"""What a mode's record says of its times and labels beside those of dense."""

from __future__ import annotations

from dataclasses import replace
import json

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


def test_gated_is_the_mean_share_of_dropped_bins() -> None:
    """Of two residual blocks in two bins: one of four dropped, then all; None without gates."""
    record = ModeRecord(2)
    assert record.summary()["fractions"]["gated"] is None
    plain = result([[0, 1, 1, 1]])
    for gates in ([[[True, True]], [[True, False]]], [[[False, False]], [[False, False]]]):
        record.add(replace(plain, plan=replace(plain.plan, gates=np.array(gates))))
    assert record.summary()["fractions"]["gated"] == pytest.approx(5 / 8)
    again = ModeRecord(2)
    again.restore(record.state())
    assert again.summary()["fractions"]["gated"] == pytest.approx(5 / 8)


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


def test_a_dropped_frame_is_scored_by_the_mask_that_stood_for_it() -> None:
    """Processed: 3 of 4 pixels right; dropped, with the mask before: 1 of 4."""
    record = ModeRecord(2)
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    before = result([[0, 1, 1, 1]])
    record.add(before, truth, before.labels, lateness_ns=30_000_000)
    assert record.summary()["processed_only"] is None, "nothing was dropped yet"
    later = np.array([[1, 0, 0, 0]], np.uint8)
    score = record.miss(before.labels, later, np.array([[1, 1, 1, 1]], np.uint8))
    assert score.miou == 0.0
    assert score.agreement == 0.75
    entry = record.summary(record)
    assert (entry["frames"], entry["dropped"], entry["labelled_frames"]) == (1, 1, 2)
    assert entry["pixel_accuracy"] == 3 / 8
    assert entry["agreement"]["pixel"] == 7 / 8
    assert entry["processed_only"]["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert entry["processed_only"]["agreement"]["pixel"] == 1.0
    assert entry["processed_only"]["labelled_frames"] == 1
    assert entry["lateness_ms"]["p50"] == entry["lateness_ms"]["max"] == 30.0
    assert entry["speedup_vs_dense"] is None, "the times are of other frames"


def test_a_record_goes_on_from_its_state_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    whole, first = ModeRecord(3), ModeRecord(3)
    for count in range(6):
        if count == 3:
            state = json.loads(json.dumps(first.state()))
            first = ModeRecord(3)
            first.restore(state)
        labels, truth, dense = rng.integers(0, 3, (3, 1, 40)).astype(np.uint8)
        step = result(labels.tolist(), 1_000_000 + count)
        step = replace(step, report=replace(step.report, stage_ns={"plan": 7 + count}))
        for record in (whole, first):
            record.add(step, truth, dense, lateness_ns=count + 1)
            record.miss(step.labels, dense, truth)
    assert first.summary() == whole.summary()
    assert first.summary()["ece"] is not None
