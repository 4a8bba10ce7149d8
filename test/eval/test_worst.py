"""The sheet shows the frames of lowest score, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES, Frame
from seg_node.data.datasets import Sample
from seg_node.eval.worst import APART_NS, CELL, error_map, WorstFrames


def sample(
    name: str, stamp_ns: int = 0, camera: str = "", size: tuple[int, int] = (6, 8)
) -> Sample:
    """Return a frame whose truth is class 0."""
    frame = Frame(np.full((*size, 3), 100, np.uint8), stamp_ns, camera=camera)
    return Sample(name, frame, np.zeros(size, np.uint8))


def shown(worst: WorstFrames) -> list[str]:
    """Return the names of the frames on the sheet."""
    return [str(entry["frame"]) for entry in worst.entries()]


def test_the_lowest_scores_stay_worst_first() -> None:
    worst = WorstFrames(count=3)
    for index, score in enumerate((0.5, 0.2, 0.9, 0.1, 0.2)):
        item = sample(f"f{index}", index * APART_NS)
        worst.add(score, item, np.zeros((6, 8), np.uint8))
    assert shown(worst) == ["f3", "f1", "f4"]
    assert worst.entries()[0] == {"frame": "f3", "image_miou": 0.1}


@pytest.mark.parametrize(
    ("camera", "stamp_ns", "expected"),
    [
        ("a", APART_NS - 1, ["bad", "good"]),
        ("a", APART_NS, ["bad", "neighbour"]),
        ("b", APART_NS - 1, ["bad", "neighbour"]),
    ],
    ids=["a moment later", "later", "other camera"],
)
def test_neighbours_of_a_worse_frame_make_way(
    camera: str, stamp_ns: int, expected: list[str]
) -> None:
    worst = WorstFrames(count=2)
    nothing = np.zeros((6, 8), np.uint8)
    worst.add(0.1, sample("bad", 0, "a"), nothing)
    worst.add(0.2, sample("neighbour", stamp_ns, camera), nothing)
    assert shown(worst) == ["bad", "neighbour"], "while there is room all are kept"
    worst.add(0.8, sample("good", 10 * APART_NS, "a"), nothing)
    assert shown(worst) == expected


def test_error_map_marks_wrong_and_void() -> None:
    truth = np.array([[0, 0, 255, 255]], np.uint8)
    prediction = np.array([[0, 1, 0, 1]], np.uint8)
    picture = error_map(np.full((1, 4, 3), 100, np.uint8), truth, prediction)
    assert picture[0].tolist() == [[50, 50, 50], [235, 30, 30], [255] * 3, [255] * 3]


def test_sheet_has_a_row_per_frame_and_a_column_per_view() -> None:
    worst = WorstFrames()
    assert worst.sheet(CAMVID_CLASSES, 0.5) is None
    prediction = np.zeros((6, 8), np.uint8)
    prediction[:, 4:] = 3
    worst.add(0.5, sample("one"), prediction)
    worst.add(
        0.4, sample("two", APART_NS, size=(12, 16)), np.repeat(prediction, 2, 0).repeat(2, 1)
    )
    sheet = worst.sheet(CAMVID_CLASSES, 0.5)
    assert sheet is not None
    # Heading 22, two rows of 480x360 with gaps of 6, legend of one row of 22.
    assert sheet.shape == (22 + 2 * 366 + 6 + 22, 4 * 486 + 6, 3)
    middle, left, right = 22 + 6 + 180, CELL // 4, 3 * CELL // 4
    views = [[sheet[middle, 6 + 486 * c + x].tolist() for x in (left, right)] for c in range(4)]
    sky, road = ([(100 + v) // 2 for v in CAMVID_CLASSES[i].color] for i in (0, 3))
    assert views[0] == [[100] * 3] * 2
    assert np.allclose(views[1], [sky, sky], atol=1)
    assert np.allclose(views[2], [sky, road], atol=1)
    assert views[3] == [[50] * 3, [235, 30, 30]]
