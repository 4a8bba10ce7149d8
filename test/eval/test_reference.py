"""Labels from a folder: matched by stamp or name, and refused where they cannot be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import ConfigError, DataError
from seg_node.data.clips import StreetClip
from seg_node.eval.reference import FolderLabels, parse_reference, Reference

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (48, 32)
STAMPS = (0, 66_666_667, 133_333_333, 200_000_000)
"""Of the first frames of a street, in nanoseconds."""


def put(folder: Path, *names: str, size: tuple[int, int] = SIZE) -> None:
    """Write label pictures; the n-th one is all class n."""
    for label, name in enumerate(names):
        cv2.imwrite(str(folder / f"{name}.png"), np.full(size[::-1], label, np.uint8))


def labels_of(folder: Path, tolerance_ms: float = 5.0, count: int = 4) -> list[int | None]:
    """Return the class of every frame's label; None where it has none."""
    source = FolderLabels(StreetClip(1, count, SIZE), folder, tolerance_ms)
    return [None if s.labels is None else int(s.labels[0, 0]) for s in source]


def test_stamps_in_nanoseconds_match_within_the_tolerance(tmp_path: Path) -> None:
    put(tmp_path, f"{STAMPS[1] + 4_999_999:019}", f"{STAMPS[2] - 5_000_001:019}")
    assert labels_of(tmp_path) == [None, 0, None, None]
    assert labels_of(tmp_path, 5.1) == [None, 0, 1, None]
    assert labels_of(tmp_path, 6.0) == [None, 0, 1, None]


def test_stamps_in_seconds_match_as_well(tmp_path: Path) -> None:
    put(tmp_path, "0.2", "0.066666667")
    assert labels_of(tmp_path, 0.0) == [None, 1, None, 0]


def test_frames_are_matched_by_number(tmp_path: Path) -> None:
    put(tmp_path, "3", "0001")
    assert labels_of(tmp_path) == [None, 1, None, 0]


def test_labels_that_fit_nothing_are_told(tmp_path: Path) -> None:
    put(tmp_path, "3", "77")
    source = FolderLabels(StreetClip(1, 4, SIZE), tmp_path)
    assert sum(s.labels is not None for s in source) == 1
    assert "1 labels in" in str(source.shortfall())
    assert "name them as the frames" in str(source.shortfall())
    (tmp_path / "3.png").unlink()
    with pytest.raises(
        DataError, match=r"no label in .* fits any frame of street:1: name them as"
    ):
        labels_of(tmp_path)


def test_a_label_near_two_frames_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "0.033333333")
    with pytest.raises(DataError, match="within 40 ms of two frames of street:1: lower --toler"):
        labels_of(tmp_path, 40.0)


def test_labels_of_another_size_or_kind_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "1", size=(32, 48))
    with pytest.raises(DataError, match=r"label .*1\.png is 32x48 for an image of 48x32: make"):
        labels_of(tmp_path)
    put(tmp_path, "0.2")
    with pytest.raises(DataError, match=r"names labels by stamp, but 1\.png is no stamp"):
        labels_of(tmp_path)
    with pytest.raises(DataError, match=r"cannot list .*nowhere: No such file"):
        labels_of(tmp_path / "nowhere")


def test_a_class_file_names_the_classes_and_bounds_the_ids(tmp_path: Path) -> None:
    put(tmp_path, "0", "1", "2")
    (tmp_path / "classes.txt").write_text("road\nrest\n")
    source = FolderLabels(StreetClip(1, 4, SIZE), tmp_path)
    assert [c.name for c in source.classes] == ["road", "rest"]
    with pytest.raises(DataError, match=r"2\.png holds label 2 at row 0"):
        list(source)


def test_what_is_asked_for_is_read_strictly(tmp_path: Path) -> None:
    assert parse_reference([]) == Reference()
    both = parse_reference(["dense", f"labels:{tmp_path}"], 20.0)
    assert both == Reference(tmp_path, dense=True, tolerance_ms=20.0)
    for wrong in (["best"], ["labels:"], ["labels:a", "labels:b"]):
        with pytest.raises(ConfigError, match="give dense, labels:DIR, or both, each once"):
            parse_reference(wrong)
    for texts, tolerance in ((["dense"], 5.0), (["labels:a"], -1.0), (["labels:a"], float("nan"))):
        with pytest.raises(ConfigError, match="give 0 or more, beside --reference labels:DIR"):
            parse_reference(texts, tolerance)
