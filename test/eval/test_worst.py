"""The sheet shows the frames of lowest score, and what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.plan_drawing import draw_plan
from seg_node.core.types import Action, CAMVID_CLASSES, Frame
from seg_node.data.datasets import Sample
from seg_node.eval.worst import APART_NS, CELL, COLUMNS, error_map, WorstFrames
from test.eval.runs import CONFIG, step

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (64, 96)
TRUTH = np.zeros(SIZE, np.uint8)
PLAN = step(TRUTH, Action.REUSE, 1.0).plan
RIGHT = (TRUTH, TRUTH, PLAN)
"""Reference, mask and plan of a frame without a mistake."""


def sample(name: str, stamp_ns: int = 0, camera: str = "", times: int = 1) -> Sample:
    """Return a grey frame whose truth is class 0, `times` as large as usual."""
    image = np.full((SIZE[0] * times, SIZE[1] * times, 3), 100, np.uint8)
    return Sample(name, Frame(image, stamp_ns, camera=camera), None)


def keeper(count: int) -> WorstFrames:
    """Return what keeps so many frames."""
    return WorstFrames(CONFIG, CAMVID_CLASSES, count=count)


def shown(worst: WorstFrames) -> list[str]:
    """Return the names of the frames on the sheet."""
    return [str(entry["frame"]) for entry in worst.entries()]


def test_the_lowest_scores_stay_worst_first() -> None:
    worst = keeper(3)
    for index, score in enumerate((0.5, 0.2, 0.9, 0.1, 0.2)):
        worst.add(score, sample(f"f{index}", index * APART_NS), *RIGHT)
    assert shown(worst) == ["f3", "f1", "f4"]
    assert [view.name for view in worst.views()] == ["f3", "f1", "f4"]
    assert worst.entries()[0] == {"frame": "f3", "score": 0.1}
    assert worst.state() == {"f3": 0.1, "f1": 0.2, "f4": 0.2}


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
    worst = keeper(2)
    worst.add(0.1, sample("bad", 0, "a"), *RIGHT)
    worst.add(0.2, sample("neighbour", stamp_ns, camera), *RIGHT)
    assert shown(worst) == ["bad", "neighbour"], "while there is room all are kept"
    worst.add(0.8, sample("good", 10 * APART_NS, "a"), *RIGHT)
    assert shown(worst) == expected


def test_error_map_marks_wrong_and_void() -> None:
    truth = np.array([[0, 0, 255, 255]], np.uint8)
    prediction = np.array([[0, 1, 0, 1]], np.uint8)
    picture = error_map(np.full((1, 4, 3), 100, np.uint8), truth, prediction)
    assert picture[0].tolist() == [[50, 50, 50], [235, 30, 30], [255] * 3, [255] * 3]


def halves(picture: NDArray[np.uint8]) -> list[list[int]]:
    """Return the colours in the middle of the left and of the right half of an image."""
    return [picture[160, x].tolist() for x in (CELL // 4, 3 * CELL // 4)]


def test_a_frame_is_seen_in_five_ways() -> None:
    """Left is sky as it should be, right is called road; blocks on the left are computed."""
    labels = TRUTH.copy()
    labels[:, 48:] = 3
    result = step(labels, Action.REUSE, 1.0)
    result.plan.grid[:, 0] = Action.HIGH
    worst = keeper(1)
    worst.add(0.5, sample("one"), TRUTH, result.labels, result.plan)
    ((views),) = worst.views()
    assert tuple(views.pictures) == COLUMNS
    image, reference, mask, plan, error = views.pictures.values()
    sky, road = ([(100 + v) // 2 for v in CAMVID_CLASSES[i].color] for i in (0, 3))
    assert halves(image) == [[100] * 3] * 2
    assert np.allclose(halves(reference), [sky, sky], atol=1)
    assert np.allclose(halves(mask), [sky, road], atol=1)
    assert halves(error) == [[50] * 3, [235, 30, 30]]
    left, right = halves(plan)
    assert sum(left) > 2 * sum(right), "what was computed is lit"


def test_sheet_has_a_row_per_frame_and_a_column_per_view() -> None:
    worst = keeper(6)
    assert worst.sheet() is None
    worst.add(0.5, sample("one"), *RIGHT)
    plan = replace(PLAN, grid=np.zeros((4, 6), np.uint8))
    large = TRUTH.repeat(2, 0).repeat(2, 1)
    worst.add(0.4, sample("two", APART_NS, times=2), large, large, plan)
    sheet = worst.sheet()
    assert sheet is not None
    # Heading 22, two rows as high as a plan with its legend, with gaps of 6, a legend of 22.
    image = sample("one").frame.image
    row = draw_plan(image, PLAN, CONFIG.shown_side(image)).shape[0] + 6
    assert sheet.shape == (22 + 2 * row + 6 + 22, 5 * 486 + 6, 3)
