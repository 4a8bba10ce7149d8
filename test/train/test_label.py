"""Pseudo-labels: the folder that `label` writes, and what it skips and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.datasets import open_source
from seg_node.train.label import decide, label_data, LabelRequest
from test.train.test_command import write_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_pseudo_labels_make_a_folder_to_train_on(tmp_path: Path, trained: str) -> None:
    data = write_folder(tmp_path / "data")
    request = LabelRequest(data, (trained,), tmp_path / "out", confidence=0.0)
    done: list[int] = []
    report = label_data(request, done.append)
    assert (report.frames, report.kept, done) == (3, 0, [1, 2, 3])
    assert sum(report.shares.values()) == pytest.approx(1.0)
    assert report.shares["void"] == 0.0
    made = list(open_source(f"folder:{tmp_path / 'out'}"))
    assert made[0].labels is not None
    assert made[0].labels.shape == (80, 96)
    assert open_source(f"folder:{tmp_path / 'out'}").classes[3].name == "Road"
    (tmp_path / "out" / "labels" / "2.png").unlink()
    again = label_data(request)
    assert (again.frames, again.kept) == (1, 2)


def test_unsure_pixels_stay_void_and_sure_ones_lie_right() -> None:
    soft = np.zeros((12, 16, 3), np.uint8)
    soft[:, :8] = (230, 25, 0)
    soft[:, 8:] = (100, 20, 135)
    labels = decide(soft, (45, 62), 0.8)
    assert labels.shape == (45, 62)
    assert (labels[:, :30] == 0).all()
    assert (labels[:, 34:] == 255).all()
    assert (decide(soft, (45, 62), 0.5)[:, 34:] == 2).all()


def test_labels_of_other_classes_are_not_mixed(tmp_path: Path, trained: str) -> None:
    data = write_folder(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "classes.csv").write_text("id,name,r,g,b\n0,soil,1,2,3\n")
    request = LabelRequest(data, (trained,), tmp_path / "out")
    with pytest.raises(DataError, match=r"classes.csv names other classes than the model"):
        label_data(request)
