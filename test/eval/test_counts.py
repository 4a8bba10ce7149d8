"""Counters are written to the last bit, and those of several runs add up to those of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import Action, CAMVID_CLASSES, DataError
from seg_node.eval.counts import Counts
from seg_node.eval.results import ModeRecord
from test.eval.runs import SIZE, step

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = len(CAMVID_CLASSES)


def count(record: ModeRecord, seed: int, frames: int) -> ModeRecord:
    """Count some frames: processed and dropped ones, with and without labels."""
    random = np.random.default_rng(seed)

    def picture() -> NDArray[np.uint8]:
        return random.integers(0, CLASSES, SIZE).astype(np.uint8)

    for index in range(frames):
        truth = picture() if index % 3 else None
        if index % 4 == 3:
            record.miss(picture(), truth, picture())
        else:
            action = Action.HIGH if index % 2 else Action.REUSE
            result = step(picture(), action, float(random.uniform(5, 50)))
            record.add(result, truth, picture(), lateness_ns=int(random.integers(1, 10**8)))
    return record


def test_several_runs_add_up_to_one() -> None:
    both = count(ModeRecord(CLASSES), 1, 9)
    both.absorb(count(ModeRecord(CLASSES), 2, 6))
    one = count(count(ModeRecord(CLASSES), 1, 9), 2, 6)
    found, wanted = both.summary(one), one.summary(one)
    assert found.pop("image_miou") == pytest.approx(wanted.pop("image_miou"))  # sums of floats
    assert found.pop("fractions") == pytest.approx(wanted.pop("fractions"))
    assert found == wanted
    assert (both.labelled, both.labelled_missed, both.dropped) == (9, 1, 3)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    written = Counts({"warp": count(ModeRecord(CLASSES), 3, 7)}, count(ModeRecord(CLASSES), 4, 2))
    written.write(path)
    read = Counts.read(path, CLASSES)
    assert read.reference is not None
    assert written.reference is not None
    assert read.modes["warp"].state() == written.modes["warp"].state()
    assert read.reference.state() == written.reference.state()
    content = json.loads(path.read_text())
    del content["modes"]["warp"]["macs"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"counts\.json cannot be read \('macs'\): remove its fold"
    ):
        Counts.read(path, CLASSES)
