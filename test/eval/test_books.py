"""The books of a replay: what they keep of a frame is some numbers."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.config import Config
from seg_node.core.types import Action, Frame, Plan, Reason, StepReport, StepResult
from seg_node.data.sources import Sample
from seg_node.eval.books import Books
from seg_node.eval.session import open_sessions
from seg_node.eval.virtual import Arrival, Outcome

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (64, 96)


def outcome(index: int) -> Outcome:
    """Return what became of a frame, with pictures of its own; every third one was dropped."""
    rng = np.random.default_rng(index)
    labels, truth, dense, confidence = rng.integers(0, 11, (4, *SHAPE)).astype(np.uint8)
    frame = Frame(rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8), index)
    arrival = Arrival(index, Sample(f"{index:06d}", frame, truth), dense)
    if index % 3 == 2:
        return Outcome(arrival, None, standing=labels)
    plan = Plan(np.full((1, 2), Action.HIGH, np.uint8), Reason.DENSE)
    report = StepReport({"execute": index + 1}, index + 1000, 10**9, 10**9)
    age_ms = np.zeros((1, 2), np.uint16)
    return Outcome(arrival, StepResult(labels, confidence, plan, age_ms, report), index + 10**6)


def test_no_picture_is_kept_of_a_frame(tmp_path: Path, random_models: Path) -> None:
    """After 60 frames memory grows by less than a third of a mask (6144 bytes) a frame.

    The first frames fill what is kept of the worst ones. The result bag is left out: it gathers
    up to a megabyte before it writes, see benchmarks/replay_memory.py.
    """
    model = str(random_models / "swiftnet18-half.json")
    sessions = open_sessions(Config(model=model, device="cpu", mode="dense", block_size=64))
    with Books("street:1", sessions, tmp_path, None) as books:
        tracemalloc.start()
        try:
            for index in range(60):
                books.enter("dense", outcome(index))
            before, _ = tracemalloc.get_traced_memory()
            for index in range(60, 120):
                books.enter("dense", outcome(index))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert books.records["dense"].dropped == 40
    assert (after - before) / 60 < 2048
