"""The log is readable by people's tools: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from seg_node.train.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


def test_figures_land_in_the_log_and_in_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path, 0)
    journal.write(20, {"loss": 0.5})
    journal.write(40, {"loss": 0.25, "val_miou": 0.75})
    journal.close()
    resumed = Journal(tmp_path, 20)
    resumed.write(40, {"loss": 0.125})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.125}]
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(20, 0.5), (40, 0.125)]


def test_without_tensorboard_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO"):
        journal = Journal(tmp_path, 0)
    journal.write(1, {"loss": 1.0})
    journal.close()
    assert "tensorboard is not installed (pip install tensorboard)" in caplog.text
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
